import assert from 'node:assert/strict'
import { chmod, mkdtemp, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { pino } from 'pino'
import type { UpstreamOptions } from './options.ts'
import {
  manifestDigest,
  requestOptions,
  sendError,
  sendManifest,
  startServer,
  startUpstream,
  targetAt,
  type FakeServer,
  type SeenRequest,
} from './testing.ts'
import type { UpstreamError, UpstreamErrorCode } from './upstream.ts'

const fails = (code: UpstreamErrorCode, message?: RegExp) => (error: Error & { code?: string }) => {
  assert.equal(error.code, code, error.stack ?? '')
  if (message !== undefined) assert.match(error.message, message)
  return true
}

const basic = (text: string): string => `Basic ${Buffer.from(text).toString('base64')}`

interface TokenRegistry {
  registry: FakeServer
  /** Requests for tokens. */
  asked: SeenRequest[]
  /** Tokens that are good at the moment. */
  good: Set<string>
}

/** A registry with a token service at its side. The service takes user:secret, anonymous, and the token refresh-me. */
async function startTokenRegistry(
  t: TestContext,
  options: { expiresIn?: number; scope?: string; oauthOnly?: boolean; hold?: Promise<unknown> } = {},
): Promise<TokenRegistry> {
  const good = new Set<string>()
  const asked: SeenRequest[] = []
  const registry = await startServer(t, async (request, response) => {
    const url = new URL(request.url, 'http://x')
    if (url.pathname === '/token') {
      asked.push(request)
      await options.hold
      const { authorization } = request.headers
      const form = new URLSearchParams(request.body)
      if (options.oauthOnly === true && request.method === 'GET') return sendError(response, 404, 'X')
      const refused =
        (authorization !== undefined && authorization !== basic('user:secret')) ||
        (form.has('password') && form.get('password') !== 'secret') ||
        (form.has('refresh_token') && form.get('refresh_token') !== 'refresh-me')
      if (refused) return sendError(response, 401, 'UNAUTHORIZED')
      const token = `token-${asked.length}`
      good.add(token)
      response.end(JSON.stringify({ [form.size > 0 ? 'access_token' : 'token']: token, expires_in: options.expiresIn }))
      return
    }
    if (good.has(request.headers.authorization?.replace('Bearer ', '') ?? '')) return sendManifest(request, response)
    const scope = options.scope ?? 'repository:team/app:pull'
    const challenge = `Bearer realm="http://${request.headers.host}/token",service="reg",scope="${scope}"`
    sendError(response, 401, 'UNAUTHORIZED', { 'www-authenticate': challenge })
  })
  return { registry, asked, good }
}

function head(t: TestContext, server: FakeServer, options: UpstreamOptions = {}): Promise<unknown> {
  return startUpstream(t, options).headManifest(targetAt(server.host), '1.0', requestOptions())
}

async function temporaryFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'shoal-upstream-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  return folder
}

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

test('name and password from the configuration go to the token service only', async (t) => {
  const { registry, asked } = await startTokenRegistry(t)
  await head(t, registry, { registries: { [registry.host]: { username: 'user', password: 'secret' } } })
  assert.equal(asked[0]?.headers.authorization, basic('user:secret'))
  assert.match(asked[0]?.url ?? '', /account=user/)
  assert.ok(registry.seenAt('/v2/').every(({ headers }) => !headers.authorization?.startsWith('Basic')))
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

test('wrong credentials: an error that says so, once, without the secret', async (t) => {
  const { registry, asked } = await startTokenRegistry(t)
  const options = { registries: { [registry.host]: { username: 'user', password: 'wr0ng-s3cret' } } }
  const upstream = startUpstream(t, options)
  for (const tokenRequests of [1, 3]) {
    const asking = upstream.headManifest(targetAt(registry.host), '1.0', requestOptions())
    await assert.rejects(asking, (error: UpstreamError) => {
      assert.doesNotMatch(error.message + error.stack, /wr0ng-s3cret/)
      assert.match(error.challenge ?? '', /^Bearer realm=/)
      return fails('UNAUTHORIZED', /refuses the credentials/)(error)
    })
    assert.equal(asked.length, tokenRequests)
  }
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

test('logins from a docker config, read again when it changes', async (t) => {
  const folder = await temporaryFolder(t)
  const dockerConfigFile = join(folder, 'config.json')
  const { registry, asked } = await startTokenRegistry(t, { expiresIn: 0.001 })
  const write = (config: unknown): Promise<void> => writeFile(dockerConfigFile, JSON.stringify(config))
  await write({ auths: { [`http://${registry.host}/v2/`]: { auth: Buffer.from('user:secret').toString('base64') } } })
  const upstream = startUpstream(t, { dockerConfigFile })
  const ask = (repository?: string): Promise<unknown> =>
    upstream.headManifest(targetAt(registry.host, repository), '1.0', requestOptions())
  await ask()
  assert.equal(asked.at(-1)?.headers.authorization, basic('user:secret'))
  await write({ auths: { [registry.host]: { identitytoken: 'refresh-me' } } })
  await utimes(dockerConfigFile, new Date(), new Date(Date.now() + 5000))
  await ask()
  assert.equal(new URLSearchParams(asked.at(-1)?.body).get('refresh_token'), 'refresh-me')
  // As podman writes them: the most specific key counts.
  const wrong = { username: 'user', password: 'wrong' }
  await write({
    auths: { [registry.host]: wrong, [`${registry.host}/team/app`]: { username: 'user', password: 'secret' } },
  })
  await utimes(dockerConfigFile, new Date(), new Date(Date.now() + 10_000))
  await ask()
  await assert.rejects(ask('team/other'), fails('UNAUTHORIZED'))
})

test('a docker config that cannot be used is logged without its content, and the pull goes on without', async (t) => {
  const folder = await temporaryFolder(t)
  const lines: string[] = []
  const logger = pino({ level: 'debug' }, { write: (line: string) => lines.push(line) })
  const { registry } = await startTokenRegistry(t)
  const dockerConfigFile = join(folder, 'config.json')
  await head(t, registry, { dockerConfigFile, logger })
  assert.match(lines.join(''), /cannot read the docker config.*ENOENT/)
  await writeFile(dockerConfigFile, '{"auths": {"x": {"auth": "c2VjcmV0"')
  await head(t, registry, { dockerConfigFile, logger })
  assert.match(lines.join(''), /not valid JSON/)
  assert.doesNotMatch(lines.join(''), /c2VjcmV0|token-/)
})

test('credential helpers: for one registry, for all, with a refresh token, and those that fail', async (t) => {
  const folder = await temporaryFolder(t)
  const path = process.env['PATH']
  process.env['PATH'] = `${folder}${delimiter}${path}`
  t.after(() => (process.env['PATH'] = path))
  const helper = async (name: string, script: string): Promise<void> => {
    const file = join(folder, `docker-credential-${name}`)
    await writeFile(file, `#!/bin/sh\n${script}\n`)
    await chmod(file, 0o755)
  }
  const calls = join(folder, 'calls')
  await helper('good', `read server; echo "$1 $server" >> ${calls}; echo '{"Username":"user","Secret":"secret"}'`)
  await helper('refresh', `echo '{"Username":"<token>","Secret":"refresh-me"}'`)
  await helper('empty', `echo 'credentials not found in native keychain'; exit 1`)
  await helper('broken', `echo 'password is hunter2'; exit 3`)
  await helper('silent', 'sleep 60 & sleep 60')
  await helper('chatty', 'yes')
  const dockerConfigFile = join(folder, 'config.json')
  const lines: string[] = []
  const logger = pino({ level: 'debug' }, { write: (line: string) => lines.push(line) })

  const cases: [string, (asked: SeenRequest | undefined) => boolean, RegExp | undefined][] = [
    ['good', (asked) => asked?.headers.authorization === basic('user:secret'), undefined],
    ['refresh', (asked) => asked?.body.includes('refresh_token=refresh-me') === true, undefined],
    ['empty', (asked) => asked?.headers.authorization === undefined, undefined],
    ['broken', (asked) => asked?.headers.authorization === undefined, /exit code 3/],
    ['silent', (asked) => asked?.headers.authorization === undefined, /did not answer within/],
    ['chatty', (asked) => asked?.headers.authorization === undefined, /said more than/],
    ['missing', (asked) => asked?.headers.authorization === undefined, /not in PATH/],
  ]
  for (const [name, check, logged] of cases) {
    for (const key of ['credHelpers', 'credsStore']) {
      const { registry, asked } = await startTokenRegistry(t)
      await writeFile(
        dockerConfigFile,
        JSON.stringify({ [key]: key === 'credsStore' ? name : { [registry.host]: name } }),
      )
      lines.length = 0
      await head(t, registry, { dockerConfigFile, logger, credentialHelperTimeoutMs: name === 'silent' ? 100 : 10_000 })
      assert.ok(check(asked[0]), `${name} ${key}`)
      if (logged === undefined) assert.doesNotMatch(lines.join(''), /no credentials/)
      else assert.match(lines.join(''), logged)
      assert.doesNotMatch(lines.join(''), /hunter2|refresh-me|"secret"/)
    }
  }
})

test('a helper is run once for many requests', async (t) => {
  const folder = await temporaryFolder(t)
  const path = process.env['PATH']
  process.env['PATH'] = `${folder}${delimiter}${path}`
  t.after(() => (process.env['PATH'] = path))
  const file = join(folder, 'docker-credential-counting')
  const calls = join(folder, 'calls')
  await writeFile(calls, '')
  await writeFile(file, `#!/bin/sh\nread server; echo x >> ${calls}; echo '{"Username":"user","Secret":"secret"}'\n`)
  await chmod(file, 0o755)
  const { registry } = await startTokenRegistry(t)
  const dockerConfigFile = join(folder, 'config.json')
  await writeFile(dockerConfigFile, JSON.stringify({ credsStore: 'counting' }))
  const upstream = startUpstream(t, { dockerConfigFile })
  const one = (): Promise<unknown> => upstream.headManifest(targetAt(registry.host), '1.0', requestOptions())
  await Promise.all([one(), one(), one()])
  await one()
  const { readFile } = await import('node:fs/promises')
  assert.equal(await readFile(calls, 'utf8'), 'x\n')
})

test('a password file is read at each use', async (t) => {
  const folder = await temporaryFolder(t)
  const passwordFile = join(folder, 'password')
  const { registry } = await startTokenRegistry(t, { expiresIn: 0.001 })
  const upstream = startUpstream(t, { registries: { [registry.host]: { username: 'user', passwordFile } } })
  await writeFile(passwordFile, 'old\n')
  const ask = () => upstream.headManifest(targetAt(registry.host), '1.0', requestOptions())
  await assert.rejects(ask(), fails('UNAUTHORIZED'))
  await writeFile(passwordFile, 'secret\nand a second line\n')
  assert.equal((await ask()).digest, manifestDigest)
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
