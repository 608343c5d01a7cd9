// What is shown to a registry, when, in whose name, and that no secret is repeated.
import assert from 'node:assert/strict'
import type { ServerResponse } from 'node:http'
import { test } from 'node:test'
import type { TLSSocket } from 'node:tls'
import { makeCertificates } from './testing-certificates.ts'
import { fails, requestOptions, sendError, sendManifest, startServer, startUpstream, targetAt } from './testing.ts'
import { basic, head, startTokenRegistry } from './testing-tokens.ts'
import type { RequestOptions, UpstreamError } from './upstream.ts'

test('Basic: shown only after it was asked for, then at once', async (t) => {
  const server = await startServer(t, (request, response) => {
    if (request.headers.authorization === basic('user:pass:word')) sendManifest(request, response)
    else sendError(response, 401, 'UNAUTHORIZED', { 'www-authenticate': 'Basic realm="registry"' })
  })
  const upstream = startUpstream(t, { registries: { [server.host]: { username: 'user', password: 'pass:word' } } })
  await upstream.headManifest(targetAt(server.host), '1.0', requestOptions())
  await upstream.headManifest(targetAt(server.host), '1.0', requestOptions())
  assert.deepEqual(
    server.seen.map(({ headers }) => headers.authorization),
    [undefined, basic('user:pass:word'), basic('user:pass:word')],
  )
  const anonymous = startUpstream(t).headManifest(targetAt(server.host), '1.0', requestOptions())
  await assert.rejects(anonymous, (error: UpstreamError) => {
    assert.equal(error.challenge, 'Basic realm="registry"')
    return fails('UNAUTHORIZED', /log in/)(error)
  })
})

test("the client's own authorization overrides what is configured, and its refusal is passed on", async (t) => {
  const { registry, asked, good } = await startTokenRegistry(t)
  good.add('of-the-client')
  const upstream = startUpstream(t, {
    registries: { [registry.host]: { username: 'user', password: 'secret' } },
  })
  const ask = (authorization: string): Promise<unknown> =>
    upstream.headManifest(targetAt(registry.host), '1.0', requestOptions({ authorization }))
  await ask('Bearer of-the-client')
  assert.equal(registry.seen[0]?.headers.authorization, 'Bearer of-the-client')
  await assert.rejects(ask('Bearer stolen-one'), (error: UpstreamError) => {
    assert.match(error.challenge ?? '', /^Bearer realm=/)
    assert.doesNotMatch(error.message, /stolen/)
    return fails('UNAUTHORIZED')(error)
  })
  assert.equal(asked.length, 0, 'the configured login was not tried in its place')
  // A name and password of the client are exchanged for a token in the client's name.
  await ask(basic('user:secret'))
  assert.equal(asked[0]?.headers.authorization, basic('user:secret'))
  await assert.rejects(ask(basic('user:other')), fails('UNAUTHORIZED'))
  await assert.rejects(ask('Bearer a\r\nX-Evil: 1'), fails('UNAUTHORIZED', /characters/))
})

test('what is for everyone is asked for without the configured login where that is refused, and no more with it', async (t) => {
  const { registry, asked } = await startTokenRegistry(t)
  const upstream = startUpstream(t, { registries: { [registry.host]: { username: 'user', password: 'expired' } } })
  const ask = (more: Partial<RequestOptions>, repository = 'team/app') =>
    upstream.getManifest(targetAt(registry.host, repository), '1.0', requestOptions(more))
  await assert.rejects(ask({}), fails('UNAUTHORIZED', /refuses the credentials/))
  assert.ok(await ask({ forEveryone: true }))
  const before = asked.length
  assert.ok(await ask({ forEveryone: true }, 'team/other'))
  assert.deepEqual(
    asked.slice(before).map(({ headers }) => headers.authorization),
    [undefined],
  )
  await assert.rejects(ask({}), fails('UNAUTHORIZED', /refuses the credentials/))
})

test('whoever is refused without the configured login, too, is told what that was told', async (t) => {
  const server = await startServer(t, (request, response) => {
    sendError(response, request.headers.authorization === undefined ? 401 : 403, 'DENIED', {
      'www-authenticate': 'Basic realm="registry"',
    })
  })
  const upstream = startUpstream(t, { registries: { [server.host]: { username: 'user', password: 'p' } } })
  const asking = upstream.getManifest(targetAt(server.host), '1.0', requestOptions({ forEveryone: true }))
  await assert.rejects(asking, fails('DENIED'))
})

test('name and password from the configuration go to the token service only', async (t) => {
  const { registry, asked } = await startTokenRegistry(t)
  await head(t, registry, { registries: { [registry.host]: { username: 'user', password: 'secret' } } })
  assert.equal(asked[0]?.headers.authorization, basic('user:secret'))
  assert.match(asked[0]?.url ?? '', /account=user/)
  assert.ok(registry.seenAt('/v2/').every(({ headers }) => !headers.authorization?.startsWith('Basic')))
})

test('wrong credentials: an error that says so, without the secret; the service does not hear them again and again', async (t) => {
  const { registry, asked } = await startTokenRegistry(t)
  const options = { registries: { [registry.host]: { username: 'user', password: 'wr0ng-s3cret' } } }
  const upstream = startUpstream(t, options)
  for (let round = 0; round < 3; round++) {
    const asking = upstream.headManifest(targetAt(registry.host), '1.0', requestOptions())
    await assert.rejects(asking, (error: UpstreamError) => {
      assert.doesNotMatch(error.message + error.stack, /wr0ng-s3cret/)
      assert.match(error.challenge ?? '', /^Bearer realm=/)
      return fails('UNAUTHORIZED', /refuses the credentials/)(error)
    })
    assert.equal(asked.length, 1)
  }
})

test('a login is tried: taken, refused, and one that the registry asks nobody for', async (t) => {
  const { registry, asked } = await startTokenRegistry(t)
  const upstream = startUpstream(t)
  const check = (host: string, login: string) =>
    upstream.checkLogin(host, requestOptions({ authorization: basic(login) }))
  await check(registry.host, 'user:secret')
  const scopes = asked.map(({ url }) => new URL(url, 'http://x').searchParams.getAll('scope'))
  assert.deepEqual(scopes, [['repository:team/app:pull']], 'the scope that the registry asks for')
  await assert.rejects(check(registry.host, 'user:wrong'), fails('UNAUTHORIZED', /refuses the credentials/))
  const open = await startServer(t, (_request, response) => void response.end('{}'))
  await check(open.host, 'user:whatever')
  assert.equal(open.seen[0]?.headers.authorization, undefined, 'a login is not shown to who has not asked')
  const plain = await startServer(t, (request, response) => {
    if (request.headers.authorization === basic('user:secret')) response.end('{}')
    else sendError(response, 401, 'UNAUTHORIZED', { 'www-authenticate': 'Basic realm="x"' })
  })
  await check(plain.host, 'user:secret')
  await assert.rejects(check(plain.host, 'user:wrong'), fails('UNAUTHORIZED'))
})

test('what a registry says of the secret that it was sent is not repeated', async (t) => {
  const server = await startServer(t, (request, response) => {
    const { authorization = '' } = request.headers
    response.writeHead(403)
    response.end(JSON.stringify({ errors: [{ code: 'DENIED', message: `no ${authorization} may\u0007 pass` }] }))
  })
  const asked = startUpstream(t).headManifest(
    targetAt(server.host),
    'x',
    requestOptions({ authorization: 'Bearer abc.def' }),
  )
  await assert.rejects(asked, fails('DENIED'))
  const got = startUpstream(t).getManifest(
    targetAt(server.host),
    'x',
    requestOptions({ authorization: 'Bearer abc.def' }),
  )
  await assert.rejects(got, (error: Error) => {
    assert.doesNotMatch(error.message, /abc\.def/)
    assert.match(error.message, /no \*\*\* may {2}pass|no \*\*\* may pass/)
    return true
  })
})

test("a token that the node's certificate opened, or its certificate elsewhere, is not for everyone nor for a client", async (t) => {
  const certificates = await makeCertificates(t)
  const tls = { ...certificates.server, requestCert: true, rejectUnauthorized: false }
  const withCertificate = { ca: certificates.ca, ...certificates.client }
  const giveToken = (response: ServerResponse): void => {
    if ((response.socket as TLSSocket).authorized) response.end('{"token":"of-the-node","expires_in":300}')
    else sendError(response, 401, 'UNAUTHORIZED')
  }
  const service = await startServer(t, (_request, response) => giveToken(response), tls)
  let tokensAt = service.url
  const registry = await startServer(
    t,
    (request, response) => {
      if (request.url.startsWith('/token')) return giveToken(response)
      if (request.headers.authorization === 'Bearer of-the-node') return sendManifest(request, response)
      sendError(response, 401, 'UNAUTHORIZED', { 'www-authenticate': `Bearer realm="${tokensAt}/token",service="x"` })
    },
    tls,
  )
  const elsewhere = { [registry.host]: { ca: certificates.ca }, [service.host]: withCertificate }
  for (const [at, registries] of [
    [registry.url, { [registry.host]: withCertificate }],
    [service.url, elsewhere],
  ] as const) {
    tokensAt = at
    const upstream = startUpstream(t, { registries })
    const ask = (options: Partial<RequestOptions>) =>
      upstream.headManifest(targetAt(registry.host), '1.0', requestOptions(options))
    const others = [{ anonymous: true }, { authorization: basic('user:secret') }]
    for (const other of others) await assert.rejects(ask(other), fails('UNAUTHORIZED'))
    await ask({})
    for (const other of others) await assert.rejects(ask(other), fails('UNAUTHORIZED'))
    // A token that is being fetched for the node is not waited for by others.
    const fresh = startUpstream(t, { registries })
    const both = [{}, { anonymous: true }].map((options) =>
      fresh.headManifest(targetAt(registry.host), '1.0', requestOptions(options)),
    )
    const outcomes = await Promise.allSettled(both)
    assert.deepEqual(
      outcomes.map(({ status }) => status),
      ['fulfilled', 'rejected'],
    )
  }
})
