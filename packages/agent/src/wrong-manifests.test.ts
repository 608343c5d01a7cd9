// Images that name a layer of others with a size that it does not have, or that their own repository does not have.
import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import type { AgentConfig } from './config.ts'
import { startAgent } from './testing/agents.ts'
import { INDEX_TYPE, MANIFEST_TYPE, refuse, startRegistry } from './testing/registry.ts'

const LAYER = 3_000_000

/** `team/app:1`, and `evil/app:1`, which names the same layer with `sizeBytes`. */
async function setUp(t: TestContext, sizeBytes: number, config: Partial<AgentConfig> = {}) {
  const registry = await startRegistry(t)
  const good = registry.addImage('team/app:1', [LAYER])
  const layer = good.layers[0]!
  const evil = { ...(JSON.parse(good.text) as { layers: object[] }), annotations: { of: 'evil' } }
  evil.layers = [{ ...evil.layers[0], size: sizeBytes }]
  registry.addManifest('evil/app:1', JSON.stringify(evil), MANIFEST_TYPE)
  const agent = await startAgent(t, config)
  const ask = async (name: string, rest: string, options: RequestInit = {}) =>
    await agent.ask(`/v2/${name}/${rest}?ns=${registry.host}`, options)
  /** The status of the layer's answer, or how it broke; right bytes only. */
  const layerOf = async (name: string) => {
    const answer = await ask(name, `blobs/${layer}`).catch(() => undefined)
    if (answer?.status === 200) assert.ok(answer.body.equals(registry.blobs.get(layer)!))
    return answer?.status ?? 'broken'
  }
  return { registry, agent, good, layer, ask, layerOf }
}

for (const [name, sizeBytes] of [
  ['smaller', 2_000_000],
  ['larger', 80_000_000],
  ['more than any blob has', Number.MAX_SAFE_INTEGER],
] as const) {
  for (const lookahead of [0, 1e9]) {
    test(`another image names a layer with a size that is ${name}: the layer is got (lookahead ${lookahead})`, async (t) => {
      const { ask, layerOf } = await setUp(t, sizeBytes, { lookahead })
      assert.equal((await ask('team/app', 'manifests/1', { method: 'HEAD' })).status, 200)
      assert.equal((await ask('evil/app', 'manifests/1')).status, 200)
      assert.equal(await layerOf('team/app'), 200)
    })
  }
}

test('whichever of two images is read last, its layer is got, at the price of one question', async (t) => {
  const { registry, ask, layer, layerOf } = await setUp(t, 2_000_000, { lookahead: 0 })
  for (const name of ['team/app', 'evil/app']) assert.equal((await ask(name, 'manifests/1')).status, 200)
  assert.equal(await layerOf('team/app'), 200)
  assert.deepEqual(registry.askedFor('HEAD /v2/').filter((line) => line.includes(layer)).length, 1)
})

test('of an image whose own layers have another size each request ends, and the next one is right', async (t) => {
  const { ask, layerOf } = await setUp(t, 2_000_000, { lookahead: 0 })
  assert.equal((await ask('evil/app', 'manifests/1')).status, 200)
  assert.notEqual(await layerOf('evil/app'), 200)
  // What the origin has refuted is not believed again.
  assert.equal((await ask('evil/app', 'manifests/1')).status, 200)
  assert.equal(await layerOf('evil/app'), 200)
})

test('a download of another size, which another origin keeps alive, makes nobody wait', async (t) => {
  const { registry, agent, ask, layer, layerOf } = await setUp(t, 2_000_000, { lookahead: 0 })
  const over = Promise.withResolvers<void>()
  const other = await startRegistry(t)
  other.blobs.set(layer, registry.blobs.get(layer)!.subarray(0, 2_000_000))
  other.addManifest('evil/app:1', registry.manifests.get('evil/app:1')!.bytes.toString(), MANIFEST_TYPE)
  const asked = Promise.withResolvers<void>()
  other.pace = () => {
    asked.resolve()
    return over.promise
  }
  assert.equal((await agent.ask(`/v2/evil/app/manifests/1?ns=${other.host}`)).status, 200)
  const hanging = agent.ask(`/v2/evil/app/blobs/${layer}?ns=${other.host}`).catch(() => undefined)
  await asked.promise
  assert.equal((await ask('team/app', 'manifests/1')).status, 200)
  assert.equal(await layerOf('team/app'), 200)
  other.pace = () => undefined
  over.resolve()
  assert.notEqual((await hanging)?.status, 200)
})

test('what another registry says of a size is not what a client of this one is told', async (t) => {
  const { registry, agent, ask, layer, layerOf } = await setUp(t, 2_000_000, { lookahead: 0 })
  const over = Promise.withResolvers<void>()
  const asked = Promise.withResolvers<void>()
  registry.pace = () => {
    asked.resolve()
    return over.promise
  }
  assert.equal((await ask('team/app', 'manifests/1')).status, 200)
  const first = layerOf('team/app')
  await asked.promise
  const other = await startRegistry(t)
  other.blobs.set(layer, registry.blobs.get(layer)!.subarray(0, 2_000_000))
  other.addManifest('evil/app:1', registry.manifests.get('evil/app:1')!.bytes.toString(), MANIFEST_TYPE)
  assert.equal((await agent.ask(`/v2/evil/app/manifests/1?ns=${other.host}`)).status, 200)
  // Two manifests differ, so that its registry is asked.
  const head = await agent.ask(`/v2/evil/app/blobs/${layer}?ns=${other.host}`, { method: 'HEAD' })
  assert.equal(head.headers.get('content-length'), '2000000')
  const second = layerOf('team/app')
  registry.pace = () => undefined
  over.resolve()
  assert.deepEqual([await first, await second], [200, 200])
})

test('a layer that the first repository does not have is got by those who have it from another one', async (t) => {
  const { registry, ask, layer, layerOf } = await setUp(t, LAYER, { lookahead: 1e9 })
  const asked = Promise.withResolvers<void>()
  const joined = Promise.withResolvers<void>()
  registry.mood = async ({ url, method }, response) => {
    if (url?.startsWith(`/v2/evil/app/blobs/${layer}`) !== true || method !== 'GET') return false
    asked.resolve()
    await joined.promise
    refuse(response, 404, 'BLOB_UNKNOWN')
    return true
  }
  assert.equal((await ask('evil/app', 'manifests/1')).status, 200)
  await asked.promise
  assert.equal((await ask('team/app', 'manifests/1')).status, 200)
  const getting = layerOf('team/app')
  joined.resolve()
  assert.equal(await getting, 200)
})

test('an index that names its manifest with a wrong size gives it at the first request', async (t) => {
  for (const size of [10, 90_000, 1e9]) {
    const { registry, good, ask } = await setUp(t, LAYER, { lookahead: 0 })
    const child = {
      mediaType: MANIFEST_TYPE,
      digest: good.digest,
      size,
      platform: { os: 'linux', architecture: 'amd64' },
    }
    registry.addManifest(
      'team/app:2',
      JSON.stringify({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests: [child] }),
      INDEX_TYPE,
    )
    assert.equal((await ask('team/app', 'manifests/2')).status, 200)
    const answer = await ask('team/app', `manifests/${good.digest}`)
    assert.deepEqual([answer.status, answer.body.toString()], [200, good.text])
  }
})
