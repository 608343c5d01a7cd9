import { test } from 'node:test'
import assert from 'node:assert/strict'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import bcrypt from 'bcryptjs'
import { digestOf } from '@shoal/oci'
import { pino } from 'pino'
import { Client, codeOf, makeImage, startOrigin, temporaryFolder, type TestOrigin } from '../testing.ts'
import type { AccessRule } from './rules.ts'
import { isCatalogScope, parseScope, Tokens } from './tokens.ts'

const RULES: AccessRule[] = [
  { repositories: ['public/**'], users: ['anonymous'], actions: ['pull'] },
  { repositories: ['**'], users: ['admin'], actions: ['pull', 'push', 'delete'] },
  { repositories: ['team/**'], users: ['ann'], actions: ['pull', 'push'] },
]

async function startGuarded(folder: string, extra: Parameters<typeof startOrigin>[1] = {}): Promise<TestOrigin> {
  const htpasswdFile = join(folder, 'htpasswd')
  // The cheapest cost that bcrypt has: there are many logins in these tests.
  const lines = ['admin', 'ann'].map((user) => `${user}:${bcrypt.hashSync(`${user}-password`, 4)}\n`)
  await writeFile(htpasswdFile, lines.join(''))
  return startOrigin(join(folder, 'data'), { htpasswdFile, accessRules: RULES, ...extra })
}

const basic = (user: string, password = `${user}-password`) =>
  `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`

function as(origin: TestOrigin, user: string): Client {
  return new Client(origin.url, { authorization: basic(user) })
}

/** Goes the way of docker: takes the challenge, gets a token, and comes back with it. */
async function withToken(origin: TestOrigin, challenge: string | null, user?: string): Promise<Client> {
  const parts = Object.fromEntries(
    [...(challenge ?? '').matchAll(/(\w+)="([^"]*)"/g)].map(([, key, value]) => [key, value]),
  )
  const url = new URL(parts['realm'] ?? '')
  url.searchParams.set('service', parts['service'] ?? '')
  if (parts['scope'] !== undefined) url.searchParams.set('scope', parts['scope'])
  const answer = await new Client(origin.url, user === undefined ? {} : { authorization: basic(user) }).get(url.href)
  assert.equal(answer.status, 200)
  assert.equal(answer.json['token'], answer.json['access_token'])
  return new Client(origin.url, { authorization: `Bearer ${String(answer.json['token'])}` })
}

test('the version check asks everybody to log in, and tells where', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startGuarded(folder.path)
  const answer = await origin.client.get('/v2/')
  assert.equal(answer.status, 401)
  assert.equal(codeOf(answer), 'UNAUTHORIZED')
  const challenge = answer.headers.get('www-authenticate')
  assert.equal(challenge, `Bearer realm="${origin.url}/token",service="shoal-registry"`)
  assert.equal((await as(origin, 'ann').get('/v2/')).status, 200)
  assert.equal((await (await withToken(origin, challenge)).get('/v2/')).status, 200)
  assert.equal((await (await withToken(origin, challenge, 'ann')).get('/v2/')).status, 200)
})

test('wrong passwords, unknown users and forged tokens are refused', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startGuarded(folder.path)
  for (const authorization of [basic('ann', 'wrong'), basic('nobody', 'x'), 'Basic !!!', 'Bearer x.y.z', 'Digest x']) {
    const answer = await origin.client.get('/v2/', { authorization })
    assert.equal(answer.status, 401, authorization)
    assert.equal(codeOf(answer), 'UNAUTHORIZED')
    assert.ok(answer.headers.get('www-authenticate'))
  }
  const refused = await origin.client.get('/token?service=x', { authorization: basic('ann', 'wrong') })
  assert.equal(refused.status, 401)
  assert.equal(refused.json.errors?.[0]?.message, 'incorrect user name or password')
})

test('rules decide, with Basic and with tokens', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startGuarded(folder.path)
  const admin = as(origin, 'admin')
  const ann = as(origin, 'ann')
  const image = makeImage([100])
  for (const name of ['public/app', 'team/app', 'secret/app']) {
    assert.equal((await admin.pushImage(name, '1', image)).status, 201)
  }
  const path = (name: string) => `/v2/${name}/manifests/1`

  assert.equal((await origin.client.get(path('public/app'))).status, 200)
  assert.equal((await ann.get(path('team/app'))).status, 200)
  const denied = await ann.get(path('secret/app'))
  assert.equal(denied.status, 403)
  assert.equal(codeOf(denied), 'DENIED')

  const hidden = await origin.client.get(path('team/app'))
  assert.equal(hidden.status, 401)
  const challenge = hidden.headers.get('www-authenticate')
  assert.match(challenge ?? '', /scope="repository:team\/app:pull"/)
  assert.equal((await (await withToken(origin, challenge, 'ann')).get(path('team/app'))).status, 200)
  const anonymous = await (await withToken(origin, challenge)).get(path('team/app'))
  assert.equal(anonymous.status, 401)
  assert.match(anonymous.headers.get('www-authenticate') ?? '', /insufficient_scope/)

  // A token is good for what it names, and for nothing else.
  const bearer = await withToken(origin, challenge, 'admin')
  assert.equal((await bearer.get(path('team/app'))).status, 200)
  assert.equal((await bearer.get(path('secret/app'))).status, 401)
  assert.equal((await bearer.ask('DELETE', path('team/app'))).status, 401)
})

test('pushes, mounts and deletes need their own rights', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startGuarded(folder.path)
  const admin = as(origin, 'admin')
  const ann = as(origin, 'ann')
  const image = makeImage([100])
  const layer = image.manifest.layers[0]?.digest
  await admin.pushImage('secret/app', '1', image)
  await admin.pushImage('public/app', '1', image)

  const anonymous = await origin.client.pushBlob('public/app', Buffer.from('x'))
  assert.equal(anonymous.status, 401)
  assert.match(anonymous.headers.get('www-authenticate') ?? '', /repository:public\/app:pull,push/)
  assert.equal((await ann.pushBlob('public/app', Buffer.from('x'))).status, 403)
  assert.equal((await ann.pushImage('team/app', '1', image)).status, 201)
  assert.equal((await ann.ask('DELETE', '/v2/team/app/manifests/1')).status, 403)
  assert.equal((await admin.ask('DELETE', '/v2/team/app/manifests/1')).status, 202)

  const only = Buffer.from('only in secret')
  await admin.pushBlob('secret/app', only)
  for (const from of ['&from=secret/app', '']) {
    const mount = await ann.ask('POST', `/v2/team/app/blobs/uploads/?mount=${digestOf(only)}${from}`)
    assert.equal(mount.status, 202, 'a blob that one may not read cannot be mounted')
  }
  assert.equal((await ann.ask('POST', `/v2/team/x/blobs/uploads/?mount=${layer}&from=public/app`)).status, 201)
})

test('a token neither mounts nor lists what it was not given for', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startGuarded(folder.path)
  const admin = as(origin, 'admin')
  for (const name of ['public/app', 'secret/app', 'team/app']) await admin.pushImage(name, '1', makeImage([]))
  const secret = Buffer.from('only in secret')
  await admin.pushBlob('secret/app', secret)
  const withScopes = async (...scopes: string[]): Promise<Client> => {
    const query = new URLSearchParams(scopes.map((scope) => ['scope', scope]))
    const { token } = (await admin.get(`/token?${query.toString()}`)).json
    return new Client(origin.url, { authorization: `Bearer ${String(token)}` })
  }
  const mount = async (client: Client, from: string) =>
    (await client.ask('POST', `/v2/ci/job/blobs/uploads/?mount=${digestOf(secret)}${from}`)).status
  const job = await withScopes('repository:ci/job:pull,push', 'repository:team/app:pull')
  for (const from of ['', '&from=secret/app']) assert.equal(await mount(job, from), 202)
  const copying = await withScopes('repository:ci/job:pull,push', 'repository:secret/app:pull')
  for (const from of ['', '&from=secret/app']) assert.equal(await mount(copying, from), 201)

  const names = async (client: Client, path: string, key: string) =>
    ((await client.get(path)).json[key] as ({ name: string } | string)[]).map((one) =>
      typeof one === 'string' ? one : one.name,
    )
  const all = ['public/app', 'secret/app', 'team/app']
  const refused = await job.get('/v2/_catalog')
  assert.equal(refused.status, 401)
  const challenge = refused.headers.get('www-authenticate')
  assert.match(challenge ?? '', /scope="registry:catalog:\*",error="insufficient_scope"/)
  assert.deepEqual(await names(await withToken(origin, challenge, 'admin'), '/v2/_catalog', 'repositories'), all)
  assert.deepEqual(await names(await withToken(origin, challenge), '/v2/_catalog', 'repositories'), ['public/app'])
  assert.deepEqual(await names(job, '/v1/search?q=app', 'results'), ['team/app'])
  assert.deepEqual(await names(await withScopes('registry:catalog:search'), '/v1/search?q=app', 'results'), all)
})

test('nothing of a body is read before its sender may push', { timeout: 60_000 }, async () => {
  await using folder = await temporaryFolder()
  await using origin = await startGuarded(folder.path)
  const { token } = (await as(origin, 'ann').get('/token?scope=repository:team/app:pull')).json
  for (const [client, status] of [
    [origin.client, 401],
    [new Client(origin.url, { authorization: `Bearer ${String(token)}` }), 401],
    [as(origin, 'ann'), 403],
  ] as const) {
    const name = status === 403 ? 'secret/app' : 'team/app'
    for (const path of [`/v2/${name}/manifests/1`, `/v2/${name}/blobs/uploads/x?digest=${digestOf('')}`]) {
      const body = new ReadableStream({ start: (endless) => endless.enqueue(Buffer.from('{')) })
      assert.equal((await client.ask('PUT', path, { body, duplex: 'half' })).status, status, path)
    }
  }
})

test('lists show only what may be pulled', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startGuarded(folder.path)
  const admin = as(origin, 'admin')
  for (const name of ['public/app', 'team/app', 'secret/app']) await admin.pushImage(name, '1', makeImage([]))
  const catalog = async (client: Client) => (await client.get('/v2/_catalog')).json['repositories']
  const search = async (client: Client) => {
    const { results } = (await client.get('/v1/search?q=app')).json as { results: { name: string }[] }
    return results.map(({ name }) => name)
  }
  assert.deepEqual(await catalog(admin), ['public/app', 'secret/app', 'team/app'])
  assert.deepEqual(await catalog(as(origin, 'ann')), ['public/app', 'team/app'])
  assert.equal((await origin.client.get('/v2/_catalog')).status, 401)
  assert.deepEqual(await search(origin.client), ['public/app'])
  assert.deepEqual(await search(as(origin, 'ann')), ['public/app', 'team/app'])
})

test('containerd gets its token with a form', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startGuarded(folder.path, { publicUrl: 'https://registry.example.com/' })
  assert.match(
    (await origin.client.get('/v2/')).headers.get('www-authenticate') ?? '',
    /realm="https:\/\/registry\.example\.com\/token"/,
  )
  const post = (fields: Record<string, string>) =>
    origin.client.ask('POST', '/token', { body: new URLSearchParams(fields) })
  const login = { grant_type: 'password', username: 'ann', password: 'ann-password', scope: 'repository:team/x:pull' }
  const answer = await post(login)
  assert.equal(answer.status, 200)
  assert.equal(answer.headers.get('cache-control'), 'no-store')
  const bearer = new Client(origin.url, { authorization: `Bearer ${String(answer.json['access_token'])}` })
  assert.equal((await bearer.get('/v2/team/x/tags/list')).status, 404)
  assert.equal((await post({ ...login, password: 'x' })).status, 401)
  assert.equal((await post({ grant_type: 'refresh_token' })).status, 400)
  const large = await post({ ...login, junk: 'x'.repeat(20_000) })
  assert.equal(large.status, 413)
})

test('guessing passwords is slowed down', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startGuarded(folder.path)
  for (let guess = 0; guess < 10; guess++) {
    assert.equal((await origin.client.get('/v2/', { authorization: basic('ann', String(guess)) })).status, 401)
  }
  const answer = await origin.client.get('/v2/', { authorization: basic('ann', 'ann-password') })
  assert.equal(answer.status, 429)
  assert.equal(codeOf(answer), 'TOOMANYREQUESTS')
  assert.ok(Number(answer.headers.get('retry-after')) >= 1)
})

test('logging in as oneself in between does not help to guess, and nobody else is locked out', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startGuarded(folder.path)
  const login = async (user: string, password?: string) =>
    (await origin.client.get('/v2/', { authorization: basic(user, password) })).status
  for (let guess = 0; guess < 10; guess++) {
    assert.equal(await login('admin', String(guess)), 401)
    if (guess > 0) assert.equal(await login('ann'), 200)
  }
  assert.equal(await login('admin', 'one more'), 429)
  for (let at = 0; at < 90; at++) await login(`nobody-${at}`, 'x')
  assert.equal(await login('nobody', 'x'), 429, 'the address has to wait')
  assert.equal(await login('ann'), 200, 'let in lately')
})

test('guesses that come all at once are slowed down like others', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startGuarded(folder.path)
  const guesses = Array.from({ length: 40 }, (_, guess) =>
    origin.client.get('/v2/', { authorization: basic('ann', String(guess)) }),
  )
  const statuses = (await Promise.all(guesses)).map(({ status }) => status)
  const compared = statuses.filter((status) => status === 401).length
  assert.equal(statuses.filter((status) => status === 429).length, 40 - compared)
  // One that has its turn before the tenth failure is counted may be compared, too.
  assert.ok(compared >= 10 && compared <= 12, `${compared} passwords were compared`)
})

test('no secret gets into the log', async () => {
  await using folder = await temporaryFolder()
  const lines: string[] = []
  const logger = pino({ level: 'trace' }, { write: (line: string) => lines.push(line) })
  await using origin = await startGuarded(folder.path, { logger })
  await origin.client.get('/v2/', { authorization: basic('ann', 'hunter2') })
  await as(origin, 'ann').get('/v2/')
  const token = (await as(origin, 'ann').get('/token')).json['token']
  await origin.client.get('/v2/x/tags/list', { authorization: `Bearer ${String(token)}` })
  await origin.close()
  const text = lines.join('')
  assert.match(text, /"url":"\/v2\/"/)
  for (const secret of ['hunter2', 'ann-password', basic('ann').slice(6), String(token)])
    assert.ok(!text.includes(secret))
})

test('registries that start for the first time together sign with the same key', async () => {
  await using folder = await temporaryFolder()
  const options = { keyFile: join(folder.path, 'new', 'key.json'), service: 'one', lifetimeMs: 60_000 }
  const all = await Promise.all(Array.from({ length: 4 }, () => Tokens.open(options)))
  for (const one of all) {
    const { token } = await one.issue({ user: 'ann', access: [], catalog: false })
    for (const other of all) assert.equal((await other.verify(token))?.user, 'ann')
  }
  assert.deepEqual(await readdir(join(folder.path, 'new')), ['key.json'])
})

test('tokens expire, and those of another key or service are none', async () => {
  await using folder = await temporaryFolder()
  const open = (key: string, service: string, lifetimeMs = 60_000) =>
    Tokens.open({ keyFile: join(folder.path, key), service, lifetimeMs })
  const tokens = await open('a.json', 'one')
  const grant = { user: 'ann', access: [{ name: 'team/app', actions: ['pull' as const] }], catalog: true }
  const { token } = await tokens.issue(grant)
  assert.deepEqual(await tokens.verify(token), grant)
  assert.deepEqual(await (await open('a.json', 'one')).verify(token), grant)
  assert.equal(await (await open('a.json', 'two')).verify(token), undefined)
  assert.equal(await (await open('b.json', 'one')).verify(token), undefined)
  const expired = await (await open('a.json', 'one', -60_000)).issue(grant)
  assert.equal(await tokens.verify(expired.token), undefined)
  const [header, payload] = token.split('.')
  const unsigned = Buffer.from(JSON.stringify({ alg: 'none' })).toString('base64url')
  for (const forged of [`${unsigned}.${payload}.`, `${header}.${payload}.`, `${header}.${payload}.AAAA`, '']) {
    assert.equal(await tokens.verify(forged), undefined)
  }
  assert.match(await readFile(join(folder.path, 'a.json'), 'utf8'), /"d":/)
})

test('reads scopes', () => {
  assert.ok(isCatalogScope('registry:catalog:*') && !isCatalogScope('repository:catalog:pull'))
  assert.deepEqual(parseScope('repository:a/b:pull,push'), { name: 'a/b', actions: ['pull', 'push'] })
  assert.deepEqual(parseScope('repository:host:5000/a:*'), { name: 'host:5000/a', actions: ['pull', 'push', 'delete'] })
  assert.deepEqual(parseScope('repository:a:fly'), { name: 'a', actions: [] })
  assert.equal(parseScope('registry:catalog:*'), undefined)
  assert.equal(parseScope(''), undefined)
})
