// Logins at an agent, asked of whole agents in front of registries that write down what they are shown.
import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import { OciError } from '@shoal/oci'
import type { RequestContext } from '@shoal/registry'
import { asksForLogins, ClientLogins, onlyLoginRegistry } from './client-logins.ts'
import type { AgentConfig } from './config.ts'
import { startAgent, type TestAgent } from './testing/agents.ts'
import { takePushes } from './testing/push-registry.ts'
import { refuse, startRegistry, type TestRegistry } from './testing/registry.ts'

const basic = (login: string) => `Basic ${Buffer.from(login).toString('base64')}`
const RIGHT = basic('ann:right')
const segment = (registry: TestRegistry) => registry.host.replace(':', '__')

/** `team/app` and the version check want ann's login, `open/app` nothing; `shown` is every Authorization that came. */
async function startClosedRegistry(t: TestContext) {
  const registry = await startRegistry(t)
  const secret = registry.addImage('team/app:1', [1000])
  const open = registry.addImage('open/app:1', [1000])
  const shown: string[] = []
  const isClosed = (url: string) => url === '/v2/' || url.startsWith('/v2/team/')
  registry.mood = ({ url = '', headers }, response) => {
    if (headers.authorization !== undefined) shown.push(headers.authorization)
    if (!isClosed(url) || headers.authorization === RIGHT) return false
    refuse(response, 401, 'UNAUTHORIZED', { 'www-authenticate': 'Basic realm="the registry"' })
    return true
  }
  return { registry, secret, open, shown, path: `/v2/${registry.host}/team/app` }
}

interface TokenAnswer {
  status: number
  token: string
  message: string
}

async function askToken(agent: TestAgent, login?: string, scope?: string): Promise<TokenAnswer> {
  const headers: Record<string, string> = login === undefined ? {} : { authorization: basic(login) }
  const query = scope === undefined ? '' : `&scope=${encodeURIComponent(scope)}`
  return readToken(agent, await agent.ask(`/token?service=shoal-agent${query}`, { headers }))
}

function readToken(agent: TestAgent, { status, body }: { status: number; body: Buffer }): TokenAnswer {
  assert.ok(agent.agent.peerId !== '')
  const answer = JSON.parse(body.toString()) as { token?: string; errors?: { message: string }[] }
  return { status, token: answer.token ?? '', message: answer.errors?.[0]?.message ?? '' }
}

const SCOPE = 'repository:x/y:pull'
const bearing = ({ token }: TokenAnswer) => ({ headers: { authorization: `Bearer ${token}` } })

test('the version check sends to the token endpoint, where everyone gets a token that is good for what is public', async (t) => {
  const { registry, open, path, shown } = await startClosedRegistry(t)
  const agent = await startAgent(t)
  const ping = await agent.ask('/v2/')
  const { mirror } = agent.agent.urls
  assert.equal(ping.status, 401)
  assert.equal(ping.headers.get('www-authenticate'), `Bearer realm="${mirror}/token",service="shoal-agent"`)
  const everyones = await askToken(agent, undefined, SCOPE)
  assert.equal((await agent.ask('/v2/', bearing(everyones))).status, 200)
  const pulled = await agent.ask(`/v2/${registry.host}/open/app/manifests/1`, bearing(everyones))
  assert.equal(pulled.headers.get('docker-content-digest'), open.digest)
  assert.equal((await agent.ask(`/v2/${registry.host}/open/app/manifests/1`)).status, 200, 'without asking before')
  const refused = await agent.ask(`${path}/manifests/1`, bearing(everyones))
  assert.equal(refused.status, 401)
  assert.match(refused.body.toString(), new RegExp(`docker login -u ${segment(registry)}/USER 127`))
  const challenge = refused.headers.get('www-authenticate') ?? ''
  assert.match(challenge, new RegExp(`scope="repository:${registry.host}/team/app:pull",error="invalid_token"`))
  assert.match(challenge, /error_description="[^"\\]*docker login[^"\\]*"$/)
  assert.deepEqual(shown, [], 'a token of the agent is not for registries')
})

test('a login opens what its registry gives it, and only there; the token does not hold it', async (t) => {
  const { registry, secret, path, shown } = await startClosedRegistry(t)
  const agent = await startAgent(t, { registries: { [registry.host]: {} } })
  for (const login of ['ann:right', `${segment(registry)}/ann:right`]) {
    const answer = await askToken(agent, login, SCOPE)
    for (const text of [answer.token, Buffer.from(answer.token.slice(12), 'base64url').toString('latin1')]) {
      assert.doesNotMatch(text, /ann|right|YW5u/)
    }
    for (const [where, digest] of [['manifests/1'], ['blobs', secret.layers[0]]]) {
      const { status } = await agent.ask([path, where, digest].filter(Boolean).join('/'), bearing(answer))
      assert.equal(status, 200, `${login} ${where}`)
    }
    assert.equal((await agent.ask(`${path}/manifests/1`)).status, 401, 'who has no token')
  }
  const wrong = await agent.ask(`${path}/manifests/1`, bearing(await askToken(agent, 'ann:wrong', SCOPE)))
  assert.equal(wrong.status, 401)
  assert.match(wrong.headers.get('www-authenticate') ?? '', /error="invalid_token"/)
  assert.deepEqual([...new Set(shown)], [RIGHT, basic('ann:wrong')], 'registries hear the login and no more')
})

test('a login is not shown to a registry that somebody else chose', async (t) => {
  const home = await startClosedRegistry(t)
  const evil = await startClosedRegistry(t)
  const agent = await startAgent(t, { registries: { [home.registry.host]: {} } })
  for (const login of ['ann:right', `${segment(home.registry)}/ann:right`]) {
    const refused = await agent.ask(`${evil.path}/manifests/1`, bearing(await askToken(agent, login, SCOPE)))
    assert.equal(refused.status, 401)
    assert.match(refused.body.toString(), /The login at this agent/)
  }
  assert.deepEqual(evil.shown, [])
  const meant = await askToken(agent, `${segment(evil.registry)}/ann:right`, SCOPE)
  assert.equal((await agent.ask(`${evil.path}/manifests/1`, bearing(meant))).status, 200)
  assert.equal((await agent.ask(`${home.path}/manifests/1`, bearing(meant))).status, 401)
  assert.deepEqual(home.shown, [])

  const byDefault = await startAgent(t, { defaultRegistry: home.registry.host })
  const plain = await askToken(byDefault, 'ann:right', SCOPE)
  assert.equal(
    (await byDefault.ask('/v2/team/app/manifests/1', bearing(plain))).status,
    200,
    'as with registry-mirrors',
  )
})

test('docker login: its registry says whether it is right, where it is clear which one is meant', async (t) => {
  const { registry } = await startClosedRegistry(t)
  const other = await startClosedRegistry(t)
  const one = await startAgent(t, { registries: { [registry.host]: {} } })
  assert.equal((await askToken(one, 'ann:right')).status, 200)
  const wrong = await askToken(one, 'ann:wrong')
  assert.equal(wrong.status, 401)
  assert.match(wrong.message, /For another registry log in as REGISTRY\/USER/)
  const two = await startAgent(t, { registries: { [registry.host]: {}, [other.registry.host]: {} } })
  assert.equal((await askToken(two, 'ann:wrong')).status, 200, 'nobody can say for which it is')
  assert.equal((await askToken(two, `${segment(registry)}/ann:wrong`)).status, 401)
  assert.equal((await askToken(two, `${segment(registry)}/ann:right`)).status, 200)
  assert.match((await askToken(two, `${segment(registry)}/:right`)).message, /names a registry and no user/)
  registry.mood = (_request, response) => {
    refuse(response, 503, 'UNAVAILABLE')
    return true
  }
  assert.equal((await askToken(two, `${segment(registry)}/ann:right`)).status, 503)
})

test('forms: a password is a login, the refresh token of another service is nobody', async (t) => {
  const { registry, path } = await startClosedRegistry(t)
  const agent = await startAgent(t, { registries: { [registry.host]: {} } })
  const post = async (form: Record<string, string>, type = 'application/x-www-form-urlencoded') => {
    const body = new URLSearchParams({ service: 'shoal-agent', scope: SCOPE, ...form }).toString()
    return readToken(agent, await agent.ask('/token', { method: 'POST', body, headers: { 'content-type': type } }))
  }
  const login = await post({ grant_type: 'password', username: 'ann', password: 'right' })
  assert.equal((await agent.ask(`${path}/manifests/1`, bearing(login))).status, 200)
  const refresh = await post({ grant_type: 'refresh_token', refresh_token: 'of-docker-hub' })
  assert.equal((await agent.ask('/v2/', bearing(refresh))).status, 200)
  assert.equal((await agent.ask(`${path}/manifests/1`, bearing(refresh))).status, 401)
  assert.equal((await post({ grant_type: 'password' })).status, 400)
  assert.equal((await post({ grant_type: 'password', padding: 'x'.repeat(20_000) })).status, 413)
  assert.equal((await post({}, 'application/json')).status, 415)
  for (const authorization of ['Bearer x', 'Basic !', 'Basic bm9jb2xvbg==', `Basic ${'YW5uOng='.repeat(1500)}`]) {
    assert.equal((await agent.ask('/token', { headers: { authorization } })).status, 401, authorization.slice(0, 40))
  }
})

test('pushes go in the name of the login', async (t) => {
  const registry = await startRegistry(t)
  takePushes(registry, (request, response) => {
    if (request.headers.authorization === RIGHT) return false
    refuse(response, 401, 'UNAUTHORIZED', { 'www-authenticate': 'Basic realm="the registry"' })
    return true
  })
  const agent = await startAgent(t, { registries: { [registry.host]: {} } })
  const push = async (login?: string) =>
    agent.ask(`/v2/${segment(registry)}/team/app/blobs/uploads/`, {
      method: 'POST',
      ...bearing(await askToken(agent, login, 'repository:x/y:pull,push')),
    })
  assert.equal((await push('ann:right')).status, 202)
  assert.equal((await push('ann:wrong')).status, 401)
  const refused = await push()
  assert.match(refused.headers.get('www-authenticate') ?? '', /scope="repository:[^"]*\/team\/app:pull,push"/)
})

test('where everybody has what the node has, nobody is asked for a login', async (t) => {
  const open: AgentConfig['registries'] = { 'registry.test': { access: 'node' } }
  const agent = await startAgent(t, { registries: open, allowRegistries: ['registry.test'], allowPush: false })
  assert.equal((await agent.ask('/v2/')).status, 200)
  const asks = (config: Partial<AgentConfig>) =>
    asksForLogins({ registries: open, allowRegistries: ['registry.test'], allowPush: false, ...config })
  assert.equal(asks({}), false)
  assert.equal(asks({ allowRegistries: ['registry.test', '*.test'] }), true)
  assert.equal(asks({ allowPush: true }), true, 'pushes are still in the name of the client')
  assert.equal(asks({ allowPush: true, registries: { 'registry.test': { access: 'node', pushAs: 'node' } } }), false)
  assert.equal(asks({ registries: {} }), true)
})

test('a login without a registry is tried where there is only one beside the default', () => {
  const only = (registries: AgentConfig['registries']) =>
    onlyLoginRegistry({ defaultRegistry: 'docker.io', registries })
  assert.equal(only({}), undefined)
  assert.equal(only({ 'docker.io': {} }), undefined)
  assert.equal(only({ 'docker.io': {}, 'one.test': {}, 'node.test': { access: 'node' } }), 'one.test')
  assert.equal(only({ 'one.test': {}, 'two.test': {} }), undefined)
})

const asking = (authorization?: string): RequestContext =>
  ({ authorization, endpoint: 'http://127.0.0.1:7700', namespace: undefined }) as unknown as RequestContext

test('a token ends after a while, cannot be made up, and what it stood for cannot be had without it', async () => {
  let nowMs = 1
  const naming = { defaultRegistry: 'docker.io', isNamed: () => true }
  const logins = new ClientLogins({
    ...{ naming, needed: true, timeoutMs: 1000, loginRegistry: undefined, now: () => nowMs },
    upstream: { checkLogin: () => Promise.reject(new Error('nobody is to be asked')) },
  })
  const target = { registry: 'registry.test', repository: 'team/app' }
  const request = {
    basic: RIGHT,
    scopes: ['repository:a/b:pull'],
    endpoint: undefined,
    remoteAddress: '',
    requestId: '',
  }
  const { token, expiresInSeconds } = await logins.token(request)
  const shows = (text: string) => logins.authorizationFor(target, `Bearer ${text}`)
  assert.equal(shows(token), RIGHT)
  const other = (await logins.token({ ...request, basic: basic('bob:right') })).token
  assert.notEqual(other, token)
  // Name of one, key of the other.
  for (const made of [
    token.slice(0, 40) + other.slice(40),
    token.slice(0, -1),
    `${token}AAAA`,
    'shoal-agent.',
    'shoal-agent.x',
  ]) {
    assert.equal(shows(made), undefined, made)
    assert.throws(() => logins.checkVersion(asking(`Bearer ${made}`)), OciError, made)
  }
  nowMs += expiresInSeconds * 1000
  assert.equal(shows(token), RIGHT, 'it is good for as long as it was said to be')
  nowMs += 120_000
  assert.equal(shows(token), undefined)
  assert.throws(() => logins.checkVersion(asking(`Bearer ${token}`)), /get a token/)
  const said = logins.refusal(asking(`Bearer ${token}`), 'team/app', target, new OciError('UNAUTHORIZED', 'no'), 'pull')
  assert.match(said.message, /has expired/)
  const theirs = 'Bearer a-token-of-the-registry'
  assert.equal(logins.authorizationFor(target, theirs), theirs)
})

test('logins that are kept are bounded, and the ones that are used stay', async () => {
  const naming = { defaultRegistry: 'docker.io', isNamed: () => true }
  const logins = new ClientLogins({
    ...{ naming, needed: true, timeoutMs: 1000, loginRegistry: undefined },
    upstream: { checkLogin: () => Promise.resolve() },
  })
  const target = { registry: 'registry.test', repository: 'team/app' }
  const issue = async (login: string) =>
    (
      await logins.token({
        basic: basic(login),
        scopes: ['repository:a/b:pull'],
        endpoint: undefined,
        remoteAddress: '',
        requestId: '',
      })
    ).token
  const [unused, used] = [await issue('unused:x'), await issue('used:x')]
  for (let i = 0; i < 3500; i++) {
    await issue(`user${i}:${'x'.repeat(5000)}`)
    assert.equal(logins.authorizationFor(target, `Bearer ${used}`), basic('used:x'))
  }
  assert.equal(logins.authorizationFor(target, `Bearer ${unused}`), undefined)
})
