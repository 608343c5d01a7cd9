import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { digestOf } from '@shoal/oci'
import { Registry } from 'prom-client'
import { makeCertificates } from './testing-certificates.ts'
import { fails, readAll, requestOptions, sendBlob, sendError, startServer, startUpstream, targetAt } from './testing.ts'
import type { UpstreamError, UpstreamErrorCode } from './upstream.ts'

const content = randomBytes(100_000)
const digest = digestOf(content)

test('a blob redirect to another host: Range goes along, what is private does not', async (t) => {
  const storage = await startServer(t, (request, response) => sendBlob(request, response, content))
  const registry = await startServer(t, (_request, response) => {
    response.writeHead(307, { location: `${storage.url}/bucket/blob?X-Signature=s3cret` }).end()
  })
  const options = requestOptions({ authorization: 'Bearer of-the-client', requestId: 'r-1' })
  const blob = await startUpstream(t).openBlob(targetAt(registry.host), digest, { start: 10, end: 99 }, options)
  assert.deepEqual([blob.start, blob.partial, blob.sizeBytes], [10, true, content.length])
  assert.deepEqual(await readAll(blob.body), content.subarray(10, 100))
  assert.equal(registry.seen[0]?.headers.authorization, 'Bearer of-the-client')
  assert.equal(registry.seen[0]?.headers['x-request-id'], 'r-1')
  const [seen] = storage.seen
  assert.equal(seen?.url, '/bucket/blob?X-Signature=s3cret')
  assert.equal(seen?.headers.range, 'bytes=10-99')
  assert.equal(seen?.headers.authorization, undefined)
  assert.equal(seen?.headers['x-request-id'], undefined)
  assert.equal(seen?.headers.host, storage.host)
})

test('a redirect within the registry keeps the login; one that comes back from elsewhere does not', async (t) => {
  const registry = await startServer(t, (request, response) => {
    if (request.url === '/there') sendBlob(request, response, content)
    else if (request.url.includes('/direct/')) response.writeHead(302, { location: '/there' }).end()
    else response.writeHead(302, { location: `${other.url}/back` }).end()
  })
  const other = await startServer(t, (_request, response) => {
    response.writeHead(302, { location: `${registry.url}/there` }).end()
  })
  const upstream = startUpstream(t)
  const options = requestOptions({ authorization: 'Bearer x' })
  for (const [repository, expected] of [['direct/x', 'Bearer x'] as const, ['round/x', undefined] as const]) {
    const blob = await upstream.openBlob(targetAt(registry.host, repository), digest, undefined, options)
    assert.deepEqual(await readAll(blob.body), content)
    assert.equal(registry.seenAt('/there').at(-1)?.headers.authorization, expected)
  }
})

test('circles and endless chains end', async (t) => {
  const registry = await startServer(t, (request, response, number) => {
    const location = request.url.includes('/circle/') ? request.url : `/hop/${number}`
    response.writeHead(302, { location }).end()
  })
  const upstream = startUpstream(t)
  const circle = upstream.openBlob(targetAt(registry.host, 'circle/x'), digest, undefined, requestOptions())
  await assert.rejects(circle, fails('PROTOCOL', /circle/))
  assert.equal(registry.seen.length, 1)
  const chain = upstream.openBlob(targetAt(registry.host), digest, undefined, requestOptions())
  await assert.rejects(chain, fails('PROTOCOL', /more than 5 times/))
  assert.equal(registry.seen.length, 1 + 6)
})

test('redirects to what is not HTTP, to metadata services and to denied hosts are refused', async (t) => {
  let location = ''
  const registry = await startServer(
    t,
    (_request, response) => response.writeHead(302, { location }).end() && undefined,
  )
  const upstream = startUpstream(t, { denyRegistries: ['*.evil.example'] })
  const cases: [string, UpstreamErrorCode][] = [
    ['file:///etc/passwd', 'PROTOCOL'],
    ['http://', 'PROTOCOL'],
    ['http://169.254.169.254/latest/meta-data/', 'REFUSED_BY_POLICY'],
    ['http://2852039166/latest/meta-data/', 'REFUSED_BY_POLICY'],
    ['http://0xa9.0xfe.0xa9.0xfe/', 'REFUSED_BY_POLICY'],
    ['http://[::ffff:169.254.169.254]/', 'REFUSED_BY_POLICY'],
    ['http://[64:ff9b::a9fe:a9fe]/', 'REFUSED_BY_POLICY'],
    ['http://[fe80::1]/', 'REFUSED_BY_POLICY'],
    ['http://[fd00:ec2::254]/', 'REFUSED_BY_POLICY'],
    ['http://100.100.100.200/', 'REFUSED_BY_POLICY'],
    ['http://metadata.google.internal/', 'REFUSED_BY_POLICY'],
    ['http://METADATA.google.internal./', 'REFUSED_BY_POLICY'],
    ['http://0.0.0.0/', 'REFUSED_BY_POLICY'],
    ['https://cdn.evil.example/blob', 'REFUSED_BY_POLICY'],
  ]
  for (const [to, code] of cases) {
    location = to
    const asked = upstream.openBlob(targetAt(registry.host), digest, undefined, requestOptions())
    await assert.rejects(asked, fails(code), to)
  }
})

test('a registry elsewhere cannot redirect to this node', async (t) => {
  const local = await startServer(t, (request, response) => sendBlob(request, response, content))
  const registry = await startServer(t, (_request, response) => {
    response.writeHead(302, { location: `${local.url}/secret` }).end()
  })
  const name = `registry.example.com:${registry.port}`
  const upstream = startUpstream(t, {
    registries: { [name]: { plainHttp: true } },
    lookup: (_name, options, callback) =>
      options.all === true ? callback(null, [{ address: '127.0.0.1', family: 4 }]) : callback(null, '127.0.0.1', 4),
  })
  const asked = upstream.openBlob(targetAt(name), digest, undefined, requestOptions())
  await assert.rejects(asked, fails('REFUSED_BY_POLICY', /loopback/))
  assert.equal(registry.seen.length, 1)
  assert.equal(local.seen.length, 0)
})

test('from HTTPS to HTTP only where configured, and the secrets of TLS stay with the registry', async (t) => {
  const certificates = await makeCertificates(t)
  const plain = await startServer(t, (request, response) => sendBlob(request, response, content))
  const registry = await startServer(
    t,
    (_request, response) => response.writeHead(302, { location: `${plain.url}/blob` }).end() && undefined,
    certificates.server,
  )
  for (const allowHttpRedirects of [false, true]) {
    const upstream = startUpstream(t, { registries: { [registry.host]: { ca: certificates.ca, allowHttpRedirects } } })
    const asked = upstream.openBlob(targetAt(registry.host), digest, undefined, requestOptions())
    if (allowHttpRedirects) assert.deepEqual(await readAll((await asked).body), content)
    else await assert.rejects(asked, fails('REFUSED_BY_POLICY', /plain HTTP/))
  }
})

test('skipping the check of a certificate does not reach beyond the registry', async (t) => {
  const certificates = await makeCertificates(t)
  const storage = await startServer(t, (request, response) => sendBlob(request, response, content), certificates.server)
  const registry = await startServer(
    t,
    (_request, response) => response.writeHead(302, { location: `${storage.url}/blob` }).end() && undefined,
    certificates.server,
  )
  const careless = startUpstream(t, { registries: { [registry.host]: { insecureSkipVerify: true } } })
  const asked = careless.openBlob(targetAt(registry.host), digest, undefined, requestOptions())
  await assert.rejects(asked, fails('UNREACHABLE', /certificate.*not trusted/))
  assert.equal(storage.seen.length, 0)
  const careful = startUpstream(t, { registries: { [registry.host]: { ca: certificates.ca } } })
  const blob = await careful.openBlob(targetAt(registry.host), digest, undefined, requestOptions())
  assert.deepEqual(await readAll(blob.body), content)
})

test('a login that the target of a redirect wants is not given, nor passed on to the client', async (t) => {
  const storage = await startServer(t, (_request, response) =>
    sendError(response, 401, 'X', { 'www-authenticate': 'Basic realm="give me"' }),
  )
  const registry = await startServer(t, (_request, response) => {
    response.writeHead(302, { location: `${storage.url}/blob` }).end()
  })
  const options = { registries: { [registry.host]: { username: 'user', password: 'secret' } } }
  const asked = startUpstream(t, options).openBlob(targetAt(registry.host), digest, undefined, requestOptions())
  await assert.rejects(asked, (error: UpstreamError) => {
    assert.equal(error.challenge, undefined)
    return fails('DENIED')(error)
  })
  assert.equal(storage.seen.length, 1)
  assert.equal(storage.seen[0]?.headers.authorization, undefined)
})

test('signatures in the address of a redirect are in no error', async (t) => {
  const registry = await startServer(t, (request, response) => {
    if (request.url.includes('X-Signature')) response.socket?.resetAndDestroy()
    else response.writeHead(302, { location: '/blob?X-Signature=s3cret' }).end()
  })
  const asked = startUpstream(t).openBlob(targetAt(registry.host), digest, undefined, requestOptions())
  await assert.rejects(asked, (error: Error) => {
    assert.doesNotMatch(`${error.stack} ${JSON.stringify(error)} ${String(error.cause)}`, /s3cret/)
    return fails('UNREACHABLE')(error)
  })
  assert.equal(registry.seenAt('X-Signature').length, 4, 'the whole way was tried again')
})

test('who gives up in the middle of a redirect leaves nothing behind that fails alone', async (t) => {
  const registry = await startServer(t, (request, response) => {
    if (request.url === '/there') return sendBlob(request, response, content)
    response.writeHead(307, { location: '/there', 'content-length': 100 })
    response.write('look there')
  })
  const metrics = new Registry()
  const upstream = startUpstream(t, { metrics })
  const go = new AbortController()
  const rejected = assert.rejects(
    upstream.openBlob(targetAt(registry.host), digest, undefined, { signal: go.signal }),
    /gone/,
  )
  while (!/status="307"/.test(await metrics.metrics())) await new Promise((resolve) => setImmediate(resolve))
  // A rejection that nobody handles would fail this test.
  go.abort(new Error('gone'))
  await rejected
  for (let count = 0; count < 20; count++) await new Promise((resolve) => setImmediate(resolve))
  assert.equal(registry.seenAt('/there').length, 0)
})

test('a redirect to a denied host is refused by whatever name or port it points there', async (t) => {
  let location = ''
  const registry = await startServer(
    t,
    (_request, response) => response.writeHead(302, { location }).end() && undefined,
  )
  const upstream = startUpstream(t, { denyRegistries: ['docker.io', '10.0.0.5:443'] })
  for (const target of [
    'https://registry-1.docker.io/x',
    'https://index.docker.io:8443/x',
    'https://10.5/x',
    'https://[::ffff:10.0.0.5]/x',
  ]) {
    location = target
    const asked = upstream.openBlob(targetAt(registry.host), digest, undefined, requestOptions())
    await assert.rejects(asked, fails('REFUSED_BY_POLICY', /denyRegistries/), target)
  }
})
