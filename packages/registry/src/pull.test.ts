import { test } from 'node:test'
import assert from 'node:assert/strict'
import { digestOf } from '@shoal/oci'
import { Registry } from 'prom-client'
import { createRegistryMetrics } from './metrics.ts'
import { ask, MemoryBackend, startServer } from './testing.ts'

const TYPE = 'application/vnd.oci.image.manifest.v1+json'

test('answers the version check', async () => {
  await using server = await startServer({ backend: new MemoryBackend() })
  for (const path of ['/v2/', '/v2', '/v2/?ns=docker.io']) {
    const answer = await ask(server.port, path)
    assert.equal(answer.status, 200)
    assert.equal(answer.text, '{}')
    assert.equal(answer.headers['docker-distribution-api-version'], 'registry/2.0')
    assert.match(String(answer.headers['x-request-id']), /^[0-9a-f-]{36}$/)
  }
})

test('a manifest has exact headers with GET and HEAD, by tag and by digest', async () => {
  const backend = new MemoryBackend()
  const manifest = backend.addManifest('1.0', '{"schemaVersion":2}')
  await using server = await startServer({ backend })
  for (const reference of ['1.0', manifest.digest, encodeURIComponent(manifest.digest)]) {
    for (const method of ['GET', 'HEAD']) {
      const answer = await ask(server.port, `/v2/ghcr.io/org/app/manifests/${reference}`, { method })
      assert.equal(answer.status, 200)
      assert.equal(answer.headers['content-type'], TYPE)
      assert.equal(answer.headers['content-length'], String(manifest.sizeBytes))
      assert.equal(answer.headers['docker-content-digest'], manifest.digest)
      assert.equal(answer.headers['etag'], `"${manifest.digest}"`)
      assert.equal(answer.headers['x-shoal-source'], 'store')
      assert.equal(answer.headers['warning'], undefined)
      assert.equal(answer.text, method === 'GET' ? '{"schemaVersion":2}' : '')
    }
  }
  assert.equal(backend.asked[0], 'ghcr.io/org/app 1.0')
})

test('a stale manifest says so', async () => {
  const backend = new MemoryBackend()
  backend.addManifest('1.0', '{}', { stale: true })
  await using server = await startServer({ backend })
  const answer = await ask(server.port, '/v2/a/manifests/1.0')
  assert.equal(answer.headers['warning'], '110 - "Response is Stale"')
})

test('If-None-Match with the digest is answered 304', async () => {
  const backend = new MemoryBackend()
  const manifest = backend.addManifest('1.0', '{}')
  const blob = backend.addBlob(Buffer.from('x'))
  await using server = await startServer({ backend })
  for (const [path, digest] of [
    ['/v2/a/manifests/1.0', manifest.digest],
    [`/v2/a/blobs/${blob}`, blob],
  ] as const) {
    const answer = await ask(server.port, path, { headers: { 'if-none-match': `"${digest}"` } })
    assert.equal(answer.status, 304)
    assert.equal(answer.headers['docker-content-digest'], digest)
    assert.equal((await ask(server.port, path, { headers: { 'if-none-match': '"other"' } })).status, 200)
  }
})

test('a blob is served whole and in single ranges', async () => {
  const backend = new MemoryBackend()
  const bytes = Buffer.from('0123456789')
  const digest = backend.addBlob(bytes)
  await using server = await startServer({ backend })
  const path = `/v2/registry.example.com%3A5000/a/b/blobs/${digest}`

  const whole = await ask(server.port, path)
  assert.equal(whole.status, 200)
  assert.equal(whole.headers['content-length'], '10')
  assert.equal(whole.headers['content-type'], 'application/octet-stream')
  assert.equal(whole.headers['docker-content-digest'], digest)
  assert.equal(whole.headers['x-shoal-source'], 'swarm')
  assert.equal(whole.headers['docker-distribution-api-version'], 'registry/2.0')
  assert.equal(whole.text, '0123456789')

  const head = await ask(server.port, path, { method: 'HEAD' })
  assert.equal(head.status, 200)
  assert.equal(head.headers['content-length'], '10')
  assert.equal(head.headers['accept-ranges'], 'bytes')

  for (const [range, contentRange, text] of [
    ['bytes=3-', 'bytes 3-9/10', '3456789'],
    ['bytes=0-0', 'bytes 0-0/10', '0'],
    ['bytes=-2', 'bytes 8-9/10', '89'],
    ['bytes=4-400', 'bytes 4-9/10', '456789'],
  ]) {
    const part = await ask(server.port, path, { headers: { range } })
    assert.equal(part.status, 206)
    assert.equal(part.headers['content-range'], contentRange)
    assert.equal(part.headers['content-length'], String(text?.length))
    assert.equal(part.text, text)
  }
  const several = await ask(server.port, path, { headers: { range: 'bytes=0-1,3-4' } })
  assert.equal(several.status, 200)

  const past = await ask(server.port, path, { headers: { range: 'bytes=10-' } })
  assert.equal(past.status, 416)
  assert.equal(past.headers['content-range'], 'bytes */10')
  assert.equal(past.json().errors[0]?.code, 'RANGE_INVALID')
})

test('an empty blob has an empty body', async () => {
  const backend = new MemoryBackend()
  const digest = backend.addBlob(Buffer.alloc(0), () => assert.fail('nothing to open'))
  await using server = await startServer({ backend })
  const answer = await ask(server.port, `/v2/a/blobs/${digest}`)
  assert.equal(answer.status, 200)
  assert.equal(answer.headers['content-length'], '0')
})

test('a blob that is not empty is never answered as if it were', async () => {
  const backend = new MemoryBackend()
  const digest = digestOf('content')
  backend.blobs.set(digest, backend.blobs.get(backend.addBlob(Buffer.alloc(0)))!)
  await using server = await startServer({ backend })
  for (const method of ['GET', 'HEAD']) {
    assert.equal((await ask(server.port, `/v2/a/blobs/${digest}`, { method })).status, 404)
  }
})

test('tags come in pages with a link to the next', async () => {
  const backend = new MemoryBackend()
  backend.tagNames.push('a', 'b', 'c')
  await using server = await startServer({ backend })
  assert.deepEqual((await ask(server.port, '/v2/x/y/tags/list')).json(), { name: 'x/y', tags: ['a', 'b', 'c'] })
  const first = await ask(server.port, '/v2/x/y/tags/list?n=2&ns=ghcr.io')
  assert.deepEqual(first.json()['tags'], ['a', 'b'])
  const link = /^<([^>]+)>; rel="next"$/.exec(String(first.headers['link']))?.[1]
  assert.ok(link?.includes('ns=ghcr.io'))
  assert.ok(link)
  const second = await ask(server.port, link)
  assert.deepEqual(second.json()['tags'], ['c'])
  assert.equal(second.headers['link'], undefined)
  const none = await ask(server.port, '/v2/x/y/tags/list?n=0')
  assert.deepEqual(none.json()['tags'], [])
  const bad = await ask(server.port, '/v2/x/y/tags/list?n=-1')
  assert.equal(bad.status, 400)
  assert.equal(bad.json().errors[0]?.code, 'PAGINATION_NUMBER_INVALID')
})

test('referrers are an index, and an applied filter is said', async () => {
  const backend = new MemoryBackend()
  const digest = backend.addBlob(Buffer.from('x'))
  await using server = await startServer({ backend })
  const all = await ask(server.port, `/v2/a/referrers/${digest}`)
  assert.equal(all.headers['content-type'], 'application/vnd.oci.image.index.v1+json')
  assert.equal(all.headers['oci-filters-applied'], undefined)
  const some = await ask(server.port, `/v2/a/referrers/${digest}?artifactType=sig%2Fv1`)
  assert.equal(some.headers['oci-filters-applied'], 'artifactType')
  assert.deepEqual(some.json()['manifests'], [{ digest, artifactType: 'sig/v1' }])
})

test('every error is an OCI error', async () => {
  const backend = new MemoryBackend()
  backend.blobs.get = () => {
    throw new Error('a secret of the backend')
  }
  await using server = await startServer({ backend })
  const unknown = `sha256:${'0'.repeat(64)}`
  for (const [method, path, status, code] of [
    ['GET', '/v2/a/manifests/none', 404, 'MANIFEST_UNKNOWN'],
    ['GET', '/v2/a/manifests/.none', 404, 'MANIFEST_UNKNOWN'],
    ['GET', '/v2/a/manifests/sha256:12', 400, 'DIGEST_INVALID'],
    ['GET', '/v2/a/blobs/nodigest', 400, 'DIGEST_INVALID'],
    ['GET', `/v2/a/blobs/${unknown}`, 500, 'UNKNOWN'],
    ['GET', '/v2/../../etc/passwd/tags/list', 400, 'NAME_INVALID'],
    ['GET', '/v2/%2e%2e/%2e%2e/etc/tags/list', 400, 'NAME_INVALID'],
    ['GET', '/v2/UPPER/x/../tags/list', 400, 'NAME_INVALID'],
    ['GET', '/v2/%zz/tags/list', 400, 'NAME_INVALID'],
    ['GET', '/v2/%ff/tags/list', 400, 'NAME_INVALID'],
    ['GET', '/v2/nothing', 404, 'NAME_UNKNOWN'],
    ['GET', '/elsewhere', 404, 'NAME_UNKNOWN'],
    ['GET', '/v2/_catalog', 404, 'UNSUPPORTED'],
    ['GET', `/v2/a/_shoal/chunks/${unknown}`, 404, 'UNSUPPORTED'],
    ['OPTIONS', '/v2/a/manifests/none', 404, 'NAME_UNKNOWN'],
    ['POST', '/v2/', 405, 'UNSUPPORTED'],
  ] as const) {
    const answer = await ask(server.port, path, { method })
    assert.equal(answer.status, status, path)
    assert.equal(answer.headers['content-type'], 'application/json', path)
    const [error] = answer.json().errors
    if (code !== undefined) assert.equal(error?.code, code, path)
    assert.ok(error?.message, path)
    assert.doesNotMatch(answer.text, /secret/)
  }
  const head = await ask(server.port, '/v2/a/manifests/none', { method: 'HEAD' })
  assert.equal(head.status, 404)
  assert.equal(head.text, '')
})

test('a read-only endpoint refuses writes at once', async () => {
  await using server = await startServer({ backend: new MemoryBackend() })
  const digest = `sha256:${'0'.repeat(64)}`
  for (const [method, path] of [
    ['POST', '/v2/a/blobs/uploads/'],
    ['PATCH', '/v2/a/blobs/uploads/x'],
    ['PUT', `/v2/a/blobs/uploads/x?digest=${digest}`],
    ['GET', '/v2/a/blobs/uploads/x'],
    ['PUT', '/v2/a/manifests/latest'],
    ['DELETE', '/v2/a/manifests/latest'],
    ['DELETE', `/v2/a/blobs/${digest}`],
    ['POST', '/v2/whatever'],
  ] as const) {
    const answer = await ask(server.port, path, { method, headers: { 'content-type': 'application/json' } })
    assert.equal(answer.status, 405, `${method} ${path}`)
    assert.equal(answer.json().errors[0]?.code, 'UNSUPPORTED')
  }
  const withBody = await ask(server.port, '/v2/a/manifests/latest', { method: 'PUT', body: Buffer.alloc(3_000_000) })
  assert.equal(withBody.status, 405)
})

test('a request id is taken over when it is well formed', async () => {
  await using server = await startServer({ backend: new MemoryBackend() })
  const given = await ask(server.port, '/v2/', { headers: { 'x-request-id': 'pull-1.a:b' } })
  assert.equal(given.headers['x-request-id'], 'pull-1.a:b')
  const odd = await ask(server.port, '/v2/', { headers: { 'x-request-id': 'a b"{}' } })
  assert.match(String(odd.headers['x-request-id']), /^[0-9a-f-]{36}$/)
})

test('counts answers and bytes', async () => {
  const registry = new Registry()
  const metrics = createRegistryMetrics({ registry, requestsName: 'r_total', bytesName: 'b_total' })
  const backend = new MemoryBackend()
  backend.addManifest('1', '{"a":1}')
  const digest = backend.addBlob(Buffer.alloc(100))
  await using server = await startServer({ backend, metrics })
  await ask(server.port, '/v2/a/manifests/1')
  await ask(server.port, '/v2/a/manifests/2')
  await ask(server.port, `/v2/a/blobs/${digest}`)
  await server.server.close()
  const text = await registry.metrics()
  assert.match(text, /r_total\{route="manifest",status="200"\} 1/)
  assert.match(text, /r_total\{route="manifest",status="404"\} 1/)
  assert.match(text, /r_total\{route="blob",status="200"\} 1/)
  assert.match(text, /b_total 107/)
})
