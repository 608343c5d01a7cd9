// Tokens: where they come from, how long they are used, and what is done when there are none to be had.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fails, requestOptions, sendError, sendManifest, startServer, startUpstream, targetAt } from './testing.ts'
import { basic, head, startTokenRegistry } from './testing-tokens.ts'

test('anonymous token: fetched once, used for all requests of the repository', async (t) => {
  const { registry, asked } = await startTokenRegistry(t)
  const upstream = startUpstream(t)
  for (let count = 0; count < 3; count++) {
    await upstream.headManifest(targetAt(registry.host), '1.0', requestOptions())
  }
  assert.equal(asked.length, 1)
  assert.equal(asked[0]?.url, '/token?service=reg&scope=repository%3Ateam%2Fapp%3Apull')
  assert.equal(asked[0]?.headers.authorization, undefined)
  const statuses = registry.seenAt('/v2/').map(({ headers }) => headers.authorization)
  assert.deepEqual(statuses, [undefined, 'Bearer token-1', 'Bearer token-1', 'Bearer token-1'])
  // Another repository needs a token of its own, but not a challenge first.
  await upstream.headManifest(targetAt(registry.host, 'other/app'), '1.0', requestOptions())
  assert.equal(asked[1]?.url, '/token?service=reg&scope=repository%3Aother%2Fapp%3Apull')
  assert.equal(registry.seenAt('/v2/other').length, 1)
})

test('one refresh for many waiters', async (t) => {
  const hold = Promise.withResolvers<undefined>()
  const { registry, asked, good } = await startTokenRegistry(t, { hold: hold.promise })
  const upstream = startUpstream(t, { concurrency: 50 })
  const many = (): Promise<unknown>[] =>
    Array.from({ length: 20 }, () => upstream.headManifest(targetAt(registry.host), '1.0', requestOptions()))
  const first = many()
  while (registry.seenAt('/v2/').length < 20) await new Promise((resolve) => setImmediate(resolve))
  hold.resolve(undefined)
  await Promise.all(first)
  assert.equal(asked.length, 1)
  // The registry forgets the token: all of them are refused, and one new token does for all.
  good.clear()
  await Promise.all(many())
  assert.equal(asked.length, 2)
})

test('who gives up does not end the refresh of the others', async (t) => {
  const hold = Promise.withResolvers<undefined>()
  const { registry, asked } = await startTokenRegistry(t, { hold: hold.promise })
  const upstream = startUpstream(t)
  const impatient = new AbortController()
  const one = upstream.headManifest(targetAt(registry.host), '1.0', { signal: impatient.signal })
  const rejected = assert.rejects(one, /gone/)
  while (asked.length === 0) await new Promise((resolve) => setImmediate(resolve))
  const other = upstream.headManifest(targetAt(registry.host), '1.0', requestOptions())
  impatient.abort(new Error('gone'))
  await rejected
  hold.resolve(undefined)
  await other
  assert.equal(asked.length, 1)
})

test('a token is used until it expires, by the lifetime that came with it', async (t) => {
  const { registry, asked } = await startTokenRegistry(t, { expiresIn: 300 })
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() })
  const upstream = startUpstream(t)
  const ask = (): Promise<unknown> => upstream.headManifest(targetAt(registry.host), '1.0', requestOptions())
  await ask()
  t.mock.timers.tick(260_000)
  await ask()
  assert.equal(asked.length, 1)
  t.mock.timers.tick(20_000)
  await ask()
  assert.equal(asked.length, 2)
})

test('OAuth2: a refresh token by POST, and a password where GET is not known', async (t) => {
  const first = await startTokenRegistry(t)
  await head(t, first.registry, { registries: { [first.registry.host]: { identityToken: 'refresh-me' } } })
  const form = new URLSearchParams(first.asked[0]?.body)
  assert.equal(first.asked[0]?.method, 'POST')
  assert.equal(form.get('grant_type'), 'refresh_token')
  assert.equal(form.get('service'), 'reg')
  assert.equal(form.get('scope'), 'repository:team/app:pull')
  const second = await startTokenRegistry(t, { oauthOnly: true })
  const login = { username: 'user', password: 'secret' }
  await head(t, second.registry, { registries: { [second.registry.host]: login } })
  assert.deepEqual(
    second.asked.map(({ method }) => method),
    ['GET', 'POST'],
  )
  assert.equal(new URLSearchParams(second.asked[1]?.body).get('grant_type'), 'password')
})

test('a scope that the registry asked for before does not outlive a challenge for the usual one', async (t) => {
  const words = { scope: 'repository:team/app:metadata' }
  const { registry, asked, good } = await startTokenRegistry(t, words)
  const upstream = startUpstream(t)
  const ask = () => upstream.headManifest(targetAt(registry.host), 'v1', requestOptions())
  await ask()
  words.scope = 'repository:team/app:pull'
  good.clear()
  await ask()
  good.clear()
  await ask()
  assert.deepEqual(
    asked.map(({ url }) => new URL(url, 'http://x').searchParams.get('scope')),
    ['repository:team/app:metadata', 'repository:team/app:pull', 'repository:team/app:pull'],
  )
})

test('a scope in the words of the registry is taken over', async (t) => {
  const { registry, asked } = await startTokenRegistry(t, { scope: 'aws' })
  const upstream = startUpstream(t)
  await upstream.headManifest(targetAt(registry.host), '1.0', requestOptions())
  await upstream.headManifest(targetAt(registry.host), '1.0', requestOptions())
  assert.deepEqual(
    asked.map(({ url }) => new URL(url, 'http://x').searchParams.get('scope')),
    ['aws'],
  )
})

test('a token service in trouble is asked again, but not many times over', async (t) => {
  let tokens = 0
  let failures = 2
  const server = await startServer(t, (request, response) => {
    if (request.url.startsWith('/token')) {
      tokens++
      if (failures-- > 0) return sendError(response, 503, 'X')
      response.end('{"access_token":"good"}')
    } else if (request.headers.authorization === 'Bearer good') sendManifest(request, response)
    else sendError(response, 401, 'X', { 'www-authenticate': `Bearer realm="${server.url}/token"` })
  })
  await head(t, server)
  assert.equal(tokens, 3)
  tokens = 0
  failures = 1000
  await assert.rejects(head(t, server), fails('SERVER_ERROR'))
  assert.equal(tokens, 4)
})

test('tokens of different logins are kept apart', async (t) => {
  const { registry, asked } = await startTokenRegistry(t)
  const upstream = startUpstream(t)
  const ask = (authorization?: string): Promise<unknown> => {
    const options = authorization === undefined ? {} : { authorization }
    return upstream.headManifest(targetAt(registry.host), '1.0', requestOptions(options))
  }
  await ask(basic('user:secret'))
  await ask()
  await ask(basic('user:secret'))
  assert.deepEqual(
    asked.map(({ headers }) => headers.authorization),
    [basic('user:secret'), undefined],
  )
})

test('a token service that talks nonsense, or that is over plain HTTP for a registry with TLS', async (t) => {
  const answers = ['not json', '{}', '{"token":""}', '{"token":"a b"}', 'null', '{"token":1}']
  const server = await startServer(t, (request, response) => {
    if (request.url.startsWith('/token')) response.end(answers[Number(/t([0-9])/.exec(request.url)?.[1])])
    else {
      const name = /team\/(t[0-9])/.exec(request.url)?.[1]
      const challenge = `Bearer realm="${server.url}/token",service="${name}"`
      sendError(response, 401, 'X', { 'www-authenticate': challenge })
    }
  })
  const upstream = startUpstream(t)
  for (const at of answers.keys()) {
    const asked = upstream.headManifest(targetAt(server.host, `team/t${at}`), '1.0', requestOptions())
    await assert.rejects(asked, fails('PROTOCOL', /without a token/), answers[at])
  }
})

test('a token that is longer than any header is not taken', async (t) => {
  const server = await startServer(t, (request, response) => {
    if (request.url.startsWith('/token')) return void response.end(JSON.stringify({ token: 'x'.repeat(64 * 1024 + 1) }))
    const challenge = `Bearer realm="http://${request.headers.host}/token"`
    sendError(response, 401, 'UNAUTHORIZED', { 'www-authenticate': challenge })
  })
  await assert.rejects(head(t, server), fails('PROTOCOL', /65536 characters/))
})
