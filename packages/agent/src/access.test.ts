// Who may read what, asked of whole agents in front of a registry with a public and a private repository.
import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import { agentConfig, type AgentConfig } from './config.ts'
import { startAgent, type TestAgent } from './testing/agents.ts'
import { INDEX_TYPE, MANIFEST_TYPE, refuse, startRegistry, type TestImage } from './testing/registry.ts'

const RIGHT = `Basic ${Buffer.from('ann:right').toString('base64')}`
const WRONG = `Basic ${Buffer.from('ann:wrong').toString('base64')}`
const CHALLENGE = 'Basic realm="the registry"'

/** `team/private` wants a login, all else is for everyone; each repository has only what `owned` says. */
async function setUp(t: TestContext, config: Partial<AgentConfig> = {}) {
  const registry = await startRegistry(t)
  const secret = registry.addImage('team/private:1', [100_000])
  const open = registry.addImage('team/open:1', [50_000])
  const owned: Record<string, TestImage[]> = { 'team/private': [secret], 'team/open': [open] }
  const state = { down: false, closed: new Set(['team/private']) }
  registry.mood = (request, response) => {
    if (state.down) {
      refuse(response, 503, 'UNAVAILABLE')
      return true
    }
    const [, repository = '', reference = ''] = /^\/v2\/(.+)\/(?:manifests|blobs)\/(.+)$/.exec(request.url ?? '') ?? []
    if (state.closed.has(repository) && request.headers.authorization !== RIGHT) {
      refuse(response, 401, 'UNAUTHORIZED', { 'www-authenticate': CHALLENGE })
      return true
    }
    const images = owned[repository] ?? []
    const digests: string[] = images.flatMap((image) => [image.digest, image.config, ...image.layers])
    if (!reference.includes(':') || digests.includes(reference)) return false
    refuse(response, 404, 'BLOB_UNKNOWN')
    return true
  }
  const agent = await startAgent(t, config)
  const path = (repository: string) => `/v2/${registry.host}/${repository}`
  return { registry, agent, secret, open, owned, state, path }
}

const ask = (agent: TestAgent, path: string, authorization?: string) =>
  agent.ask(path, authorization === undefined ? {} : { headers: { authorization } })

async function pull(agent: TestAgent, base: string, image: TestImage, authorization?: string): Promise<number[]> {
  const paths = [`manifests/1`, `manifests/${image.digest}`]
  for (const digest of [image.config, ...image.layers]) paths.push(`blobs/${digest}`)
  const statuses: number[] = []
  for (const path of paths) statuses.push((await ask(agent, `${base}/${path}`, authorization)).status)
  return statuses
}

/** Tests that an answer which is used again could spoil are done without that, and with the TTL that agents have. */
const TTLS = [0, agentConfig({ swarmKeyFiles: ['unused'] }).tagCacheTtl]

function testWithEach(name: string, check: (t: TestContext, config: Partial<AgentConfig>) => Promise<void>): void {
  for (const tagCacheTtl of TTLS) test(`${name} (tagCacheTtl ${tagCacheTtl})`, (t) => check(t, { tagCacheTtl }))
}

const each = (status: number) => [status, status, status, status]

testWithEach(
  'private content in the store of the node is for those whose credentials the origin takes',
  async (t, config) => {
    const { registry, agent, secret, path } = await setUp(t, config)
    const base = path('team/private')
    assert.deepEqual(await pull(agent, base, secret), each(401))
    assert.deepEqual(await pull(agent, base, secret, RIGHT), each(200))
    await agent.idle()
    const refused = await ask(agent, `/v2/team/private/blobs/${secret.layers[0]!}?ns=${registry.host}`)
    assert.deepEqual([refused.status, refused.code], [401, 'UNAUTHORIZED'])
    assert.equal(refused.headers.get('www-authenticate'), CHALLENGE, 'so that a client can answer it')
    assert.deepEqual(await pull(agent, base, secret), each(401))
    assert.deepEqual(await pull(agent, base, secret, WRONG), each(401))
    const head = await agent.ask(`${base}/blobs/${secret.layers[0]!}`, { method: 'HEAD' })
    assert.equal(head.status, 401)
  },
)

testWithEach('a digest alone opens nothing under the name of another repository', async (t, config) => {
  const { agent, secret, path } = await setUp(t, config)
  await pull(agent, path('team/private'), secret, RIGHT)
  await agent.idle()
  for (const digest of [secret.config, ...secret.layers]) {
    assert.equal((await ask(agent, `${path('team/open')}/blobs/${digest}`)).status, 404)
    assert.equal((await ask(agent, `${path('team/open')}/blobs/${digest}`, RIGHT)).status, 404)
  }
  assert.equal((await ask(agent, `${path('team/open')}/manifests/${secret.digest}`)).status, 404)
})

testWithEach('private content on a peer is no more open than at its origin', async (t, config) => {
  const { registry, agent, secret, state, path } = await setUp(t, config)
  const base = path('team/private')
  await pull(agent, base, secret, RIGHT)
  await agent.idle()
  const { address } = await agent.status()
  const second = await startAgent(t, { ...config, bootstrapPeers: address.multiaddrs })
  while ((await second.status()).peersConnected === 0) await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(await pull(second, base, secret), each(401))
  const before = registry.blobBytes
  assert.deepEqual(await pull(second, base, secret, RIGHT), each(200))
  assert.equal(registry.blobBytes, before, 'with the right credentials the bytes come from the peer')

  state.down = true
  const third = await startAgent(t, { ...config, bootstrapPeers: address.multiaddrs })
  while ((await third.status()).peersConnected === 0) await new Promise((resolve) => setImmediate(resolve))
  for (const credentials of [undefined, RIGHT]) {
    for (const status of await pull(third, base, secret, credentials)) assert.notEqual(status, 200)
  }
})

test('credentials that were accepted hold while the origin is down, and those of others do not', async (t) => {
  const { agent, secret, state, path } = await setUp(t, { accessTtl: 0 })
  const base = path('team/private')
  await pull(agent, base, secret, RIGHT)
  await agent.idle()
  state.down = true
  assert.deepEqual(await pull(agent, base, secret, RIGHT), each(200))
  for (const credentials of [undefined, WRONG]) {
    for (const status of await pull(agent, base, secret, credentials)) assert.notEqual(status, 200)
  }
})

test('credentials that were accepted do not hold for ever while the origin is down', async (t) => {
  const { agent, secret, state, path } = await setUp(t, { accessTtl: 0, accessOutageTtl: 0 })
  await pull(agent, path('team/private'), secret, RIGHT)
  await agent.idle()
  state.down = true
  for (const status of await pull(agent, path('team/private'), secret, RIGHT)) assert.notEqual(status, 200)
})

test('public content flows on while the origin is down: on this node, on another, by tag and by digest', async (t) => {
  const { agent, open, state, path } = await setUp(t, { accessTtl: 0 })
  const base = path('team/open')
  await pull(agent, base, open)
  await agent.idle()
  state.down = true
  assert.deepEqual(await pull(agent, base, open), each(200))
  const { address } = await agent.status()
  const second = await startAgent(t, { bootstrapPeers: address.multiaddrs })
  while ((await second.status()).peersConnected === 0) await new Promise((resolve) => setImmediate(resolve))
  const byDigest = await ask(second, `${base}/manifests/${open.digest}`)
  assert.equal(byDigest.status, 200)
  assert.deepEqual(await pull(second, base, open), each(200))
  await second.idle()
})

test('a repository that is closed is closed for what was pulled before, and an outage does not open it', async (t) => {
  const { agent, open, state, path } = await setUp(t, { accessTtl: 0 })
  const base = path('team/open')
  await pull(agent, base, open)
  await agent.idle()
  state.closed.add('team/open')
  assert.deepEqual(await pull(agent, base, open), each(401))
  state.down = true
  for (const status of await pull(agent, base, open)) assert.notEqual(status, 200)
})

test('credentials that the origin does not take close nothing that is for everyone, nor does an outage', async (t) => {
  const { registry, agent, open, state, path } = await setUp(t)
  const mood = registry.mood
  registry.mood = (request, response) => {
    if (request.headers.authorization !== WRONG) return mood(request, response)
    refuse(response, 401, 'UNAUTHORIZED', { 'www-authenticate': CHALLENGE })
    return true
  }
  assert.deepEqual(await pull(agent, path('team/open'), open, WRONG), each(200))
  await agent.idle()
  state.down = true
  assert.deepEqual(await pull(agent, path('team/open'), open, RIGHT), each(200))
})

test('a public pull costs one question about the repository, not one for each blob', async (t) => {
  const { registry, agent, open, path } = await setUp(t)
  await pull(agent, path('team/open'), open)
  await pull(agent, path('team/open'), open)
  const questions = registry.asked.filter((line) => line.startsWith('HEAD ') && !line.endsWith('/manifests/1'))
  assert.deepEqual(questions, [])
})

test('accepted credentials cost one question for each repository', async (t) => {
  const { registry, agent, secret, path } = await setUp(t)
  const base = path('team/private')
  await pull(agent, base, secret, RIGHT)
  await agent.idle()
  const before = registry.asked.length
  const blobs = secret.layers.concat(secret.config).map((digest) => ask(agent, `${base}/blobs/${digest}`, RIGHT))
  for (const answer of await Promise.all(blobs)) assert.equal(answer.status, 200)
  assert.equal(registry.asked.length, before)
})

testWithEach(
  "the node's login opens nothing, unless the operator says that everyone on the node may use it",
  async (t, config) => {
    const { registry, secret, open, path } = await setUp(t, config)
    const login = { username: 'ann', password: 'right' }
    const strict = await startAgent(t, { ...config, registries: { [registry.host]: login } })
    assert.deepEqual(await pull(strict, path('team/private'), secret), each(401))
    assert.deepEqual(await pull(strict, path('team/open'), open), each(200))
    const lenient = await startAgent(t, { ...config, registries: { [registry.host]: { ...login, access: 'node' } } })
    assert.deepEqual(await pull(lenient, path('team/private'), secret), each(200))
    assert.deepEqual(await pull(lenient, path('team/private'), secret, WRONG), each(200))
  },
)

test('tags and referrers are for everyone, or for a login, as the content is', async (t) => {
  const { registry, agent, secret, open, path } = await setUp(t)
  const { mood } = registry
  registry.mood = (request, response) => {
    const repository = /^\/v2\/(.+)\/(?:tags|referrers)\//.exec(request.url ?? '')?.[1]
    const { authorization } = request.headers
    const isOpen = repository === 'team/open' && authorization === undefined
    if (repository === undefined) return mood(request, response)
    if (!isOpen && authorization !== RIGHT) refuse(response, 401, 'UNAUTHORIZED', { 'www-authenticate': CHALLENGE })
    else response.end(JSON.stringify({ tags: ['1'], manifests: [] }))
    return true
  }
  for (const [repository, { digest }] of [
    ['team/private', secret],
    ['team/open', open],
  ] as const) {
    for (const part of ['tags/list', `referrers/${digest}`]) {
      const statuses: number[] = []
      for (const login of [undefined, WRONG, RIGHT]) {
        statuses.push((await ask(agent, `${path(repository)}/${part}`, login)).status)
      }
      assert.deepEqual(statuses, repository === 'team/open' ? [200, 200, 200] : [401, 401, 200], part)
    }
  }
})

test('a login of the node that has expired closes nothing that is for everyone', async (t) => {
  const { registry, open, path } = await setUp(t)
  const { mood } = registry
  registry.mood = (request, response) => {
    const { authorization } = request.headers
    if (authorization === undefined || authorization === RIGHT) return mood(request, response)
    refuse(response, 401, 'UNAUTHORIZED', { 'www-authenticate': CHALLENGE })
    return true
  }
  const agent = await startAgent(t, { registries: { [registry.host]: { username: 'ann', password: 'expired' } } })
  // The challenge makes the login be shown from then on.
  assert.equal((await ask(agent, `${path('team/private')}/manifests/1`)).status, 401)
  assert.deepEqual(await pull(agent, path('team/open'), open), each(200))
})

testWithEach('a blob that reads like a manifest opens nothing', async (t, config) => {
  const { registry, agent, secret, open, state, path } = await setUp(t, { ...config, accessTtl: 0 })
  await pull(agent, path('team/private'), secret, RIGHT)
  await agent.idle()
  // Registries take any blob: this one names private content.
  const planted = registry.addBlob(Buffer.from(secret.text))
  open.layers.push(planted)
  assert.equal((await ask(agent, `${path('team/open')}/blobs/${planted}`)).status, 200)
  await agent.idle()
  registry.manifests.delete(planted)
  assert.equal((await ask(agent, `${path('team/open')}/manifests/${planted}`)).status, 404)
  for (const digest of [secret.config, ...secret.layers]) {
    assert.equal((await ask(agent, `${path('team/open')}/blobs/${digest}`)).status, 404)
  }
  state.down = true
  assert.equal((await ask(agent, `${path('team/open')}/blobs/${planted}`)).status, 200, 'as a blob it is known')
  for (const rest of [
    `manifests/${planted}`,
    ...[secret.config, ...secret.layers].map((digest) => `blobs/${digest}`),
  ]) {
    assert.notEqual((await ask(agent, `${path('team/open')}/${rest}`)).status, 200, rest)
  }
})

testWithEach("what one registry opens to everyone on the node opens nothing of another one's", async (t, config) => {
  const { registry, secret, path } = await setUp(t, config)
  const lenient = await startRegistry(t)
  const image = lenient.addImage('app:1', [1000])
  const agent = await startAgent(t, { ...config, registries: { [lenient.host]: { access: 'node' } } })
  await pull(agent, path('team/private'), secret, RIGHT)
  await agent.idle()
  for (const digest of [secret.config, ...secret.layers]) {
    assert.equal((await ask(agent, `/v2/${lenient.host}/any/blobs/${digest}`)).status, 404)
  }
  assert.equal((await ask(agent, `/v2/${lenient.host}/any/manifests/${secret.digest}`)).status, 404)
  assert.deepEqual(await pull(agent, `/v2/${lenient.host}/app`, image), each(200))
  assert.equal(registry.asked.length > 0, true)
})

test('a page that is no answer of the registry opens nothing, and is no tag', async (t) => {
  const { registry, agent, secret, open, state, path } = await setUp(t, { accessTtl: 0 })
  await pull(agent, path('team/private'), secret, RIGHT)
  await pull(agent, path('team/open'), open)
  await agent.idle()
  const { mood } = registry
  const page = '<html>We will be back soon. Sign in here.</html>'
  registry.mood = (request, response) => {
    if (request.url !== '/login') response.writeHead(302, { location: '/login' }).end()
    else {
      response.writeHead(200, { 'content-type': 'text/html; charset=utf-8', 'content-length': page.length })
      response.end(request.method === 'HEAD' ? undefined : page)
    }
    return true
  }
  for (const rest of [`manifests/${secret.digest}`, `blobs/${secret.config}`, `blobs/${secret.layers[0]!}`]) {
    assert.notEqual((await ask(agent, `${path('team/private')}/${rest}`)).status, 200, rest)
  }
  assert.equal((await ask(agent, `${path('team/open')}/manifests/1`)).status, 503)
  registry.mood = mood
  state.down = true
  const stale = await ask(agent, `${path('team/open')}/manifests/1`)
  assert.deepEqual([stale.status, stale.headers.get('docker-content-digest')], [200, open.digest])
})

test('a client that goes away makes no outage of the origin', async (t) => {
  const { registry, agent, secret, path } = await setUp(t)
  const base = path('team/private')
  assert.deepEqual(await pull(agent, base, secret), each(401))
  await pull(agent, base, secret, RIGHT)
  const mood = registry.mood
  const arrived = Promise.withResolvers<void>()
  const over = Promise.withResolvers<void>()
  registry.mood = (request, response) => {
    if (!request.url?.endsWith('/manifests/never')) return mood(request, response)
    response.once('close', over.resolve)
    arrived.resolve()
    return true
  }
  const gone = new AbortController()
  const asking = agent.ask(`${base}/manifests/never`, { headers: { authorization: WRONG }, signal: gone.signal })
  await arrived.promise
  gone.abort()
  await assert.rejects(asking)
  await over.promise
  // Credentials that are taken no more open no tag: the origin is asked, not taken for one that does not answer.
  registry.mood = (_request, response) => {
    refuse(response, 401, 'UNAUTHORIZED', { 'www-authenticate': CHALLENGE })
    return true
  }
  assert.equal((await ask(agent, `${base}/manifests/1`, RIGHT)).status, 401)
})

test('a client whose own login is served gets that, when everyone has used up the rate', async (t) => {
  const { registry, agent, open, owned, path } = await setUp(t, { accessTtl: 0 })
  const base = path('team/open')
  await pull(agent, base, open, RIGHT)
  const { mood } = registry
  registry.mood = (request, response) => {
    const { authorization } = request.headers
    if (authorization === RIGHT) return mood(request, response)
    if (authorization === WRONG) refuse(response, 401, 'UNAUTHORIZED', { 'www-authenticate': CHALLENGE })
    else if (request.url?.includes('private') === true) return mood(request, response)
    else refuse(response, 429, 'TOOMANYREQUESTS', { 'retry-after': '60' })
    return true
  }
  // So that it is known how the registry wants to be asked.
  await ask(agent, `${path('team/private')}/manifests/1`, RIGHT)
  const moved = registry.addImage('team/open:1', [1000])
  owned['team/open']!.push(moved)
  const tagFor = async (authorization?: string) => {
    const { status, headers } = await ask(agent, `${base}/manifests/1`, authorization)
    return [status, headers.get('docker-content-digest'), headers.get('warning') !== null]
  }
  for (let count = 0; count < 2; count++) {
    assert.deepEqual(await tagFor(RIGHT), [200, moved.digest, false])
    assert.deepEqual(await tagFor(), [200, open.digest, true])
    assert.deepEqual(await tagFor(WRONG), [200, open.digest, true])
  }
})

test('a repository in trouble makes no tag of another one stale', async (t) => {
  const { registry, agent, open, owned, path } = await setUp(t)
  await pull(agent, path('team/open'), open)
  const { mood } = registry
  registry.mood = (request, response) => {
    if (request.url?.includes('/broken/') !== true) return mood(request, response)
    refuse(response, 503, 'UNAVAILABLE')
    return true
  }
  assert.equal((await ask(agent, `${path('team/broken')}/manifests/1`)).status, 503)
  const moved = registry.addImage('team/open:1', [1000])
  owned['team/open']!.push(moved)
  const { headers } = await ask(agent, `${path('team/open')}/manifests/1`)
  assert.deepEqual([headers.get('docker-content-digest'), headers.get('warning')], [moved.digest, null])
})

test('a repository that is hidden as not found stays so in an outage; one that lacks a tag does not', async (t) => {
  for (const code of ['NAME_UNKNOWN', 'MANIFEST_UNKNOWN']) {
    const { registry, agent, owned, state, path } = await setUp(t, { accessTtl: 0 })
    const base = path('team/wide')
    const image = registry.addImage('team/wide:1', [1000])
    registry.manifests.set('team/wide:2', registry.manifests.get('team/wide:1')!)
    owned['team/wide'] = [image]
    const { mood } = registry
    const rest = ['manifests/2', `manifests/${image.digest}`, `blobs/${image.config}`]
    for (const part of ['manifests/1', ...rest]) assert.equal((await ask(agent, `${base}/${part}`)).status, 200)
    await agent.idle()
    registry.mood = (_request, response) => {
      refuse(response, 404, code)
      return true
    }
    assert.equal((await ask(agent, `${base}/manifests/1`)).status, 404)
    registry.mood = mood
    state.down = true
    for (const part of rest) {
      const isServed = (await ask(agent, `${base}/${part}`)).status === 200
      // The digest was forgotten with the tag.
      if (part === 'manifests/2' || code === 'NAME_UNKNOWN') assert.equal(isServed, code === 'MANIFEST_UNKNOWN', part)
    }
  }
})

test('an outage does not open what was closed before it, by other tags and digests neither', async (t) => {
  const { registry, agent, owned, state, path } = await setUp(t, { accessTtl: 0 })
  const base = path('team/wide')
  const one = registry.addImage('team/wide:1', [1000])
  const two = registry.addImage('team/wide:2', [1000])
  owned['team/wide'] = [one, two]
  for (const reference of ['1', '2', one.digest, two.digest]) {
    assert.equal((await ask(agent, `${base}/manifests/${reference}`)).status, 200)
  }
  assert.equal((await ask(agent, `${base}/blobs/${two.config}`)).status, 200)
  state.closed.add('team/wide')
  assert.equal((await ask(agent, `${base}/manifests/1`)).status, 401)
  state.down = true
  for (const path of ['manifests/2', `manifests/${one.digest}`, `manifests/${two.digest}`, `blobs/${two.config}`]) {
    assert.notEqual((await ask(agent, `${base}/${path}`)).status, 200, path)
  }
})

/** Types of layers that registries do not look for when the layer has URLs; some take any type for one with URLs. */
const FOREIGN_TYPES = ['nondistributable.v1.tar+gzip', 'v1.tar+gzip'].map(
  (end) => `application/vnd.oci.image.layer.${end}`,
)

testWithEach('a layer with URLs in a manifest of an open repository opens nothing', async (t, config) => {
  const { registry, agent, secret, open, owned, path } = await setUp(t, config)
  await pull(agent, path('team/private'), secret, RIGHT)
  await agent.idle()
  for (const [at, mediaType] of FOREIGN_TYPES.entries()) {
    const manifest = JSON.parse(open.text) as { layers: object[] }
    const stolen = { digest: secret.layers[0], size: 100_000, urls: ['https://elsewhere.test/layer'] }
    manifest.layers.push({ ...stolen, mediaType })
    const text = JSON.stringify(manifest)
    const digest = registry.addManifest(`team/open:foreign-${at}`, text, MANIFEST_TYPE)
    owned['team/open']!.push({ ...open, digest })
    assert.equal((await ask(agent, `${path('team/open')}/manifests/foreign-${at}`)).status, 200)
    assert.equal((await ask(agent, `${path('team/open')}/blobs/${secret.layers[0]!}`)).status, 404, mediaType)
  }
})

testWithEach('a manifest that its registry took for something else opens nothing', async (t, config) => {
  const { registry, agent, secret, open, owned, path } = await setUp(t, config)
  await pull(agent, path('team/private'), secret, RIGHT)
  await agent.idle()
  // A registry that does not look into documents took this one for an index without children, and once more as a blob.
  const { mediaType: _none, ...image } = JSON.parse(secret.text) as Record<string, unknown>
  const planted = registry.addManifest('team/open:2', JSON.stringify(image), INDEX_TYPE)
  registry.addBlob(registry.manifests.get(planted)!.bytes)
  owned['team/open']!.push({ ...open, digest: planted })
  assert.equal((await ask(agent, `${path('team/open')}/blobs/${planted}`)).status, 200)
  await agent.idle()
  for (const reference of [planted, '2']) {
    assert.equal((await ask(agent, `${path('team/open')}/manifests/${reference}`)).status, 200)
    for (const digest of [secret.config, ...secret.layers]) {
      assert.equal((await ask(agent, `${path('team/open')}/blobs/${digest}`)).status, 404)
    }
  }
})
