// Members, and manifests, that say of content what it is not: its size, or its type.
import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import { createControlPlane, createIdentity, SwarmKeys, type ControlMessage } from '@shoal/network'
import { startAgent, silent, type TestAgent } from './testing/agents.ts'
import { INDEX_TYPE, MANIFEST_TYPE, startRegistry } from './testing/registry.ts'

/** As in `startAgent`. */
const SWARM_KEYS = new SwarmKeys([new Uint8Array(32).fill(3)])

interface Lie {
  sizeBytes: number
  mediaType: string
}

/** A member that says this of everything. */
async function startLiar(t: TestContext, victim: TestAgent, told: Lie) {
  const plane = await createControlPlane({
    identity: await createIdentity(),
    swarmKeys: SWARM_KEYS,
    agent: 'shoal-test/0.0.0',
    logger: silent,
    host: '127.0.0.1',
    port: 0,
    transferPort: 1,
  })
  t.after(() => plane.stop())
  plane.onChannel = (channel) => {
    channel.onMessage = (message: ControlMessage) => {
      if (message.type !== 'swarm-join') return
      const { digest } = message
      const lie = { type: 'swarm-join', digest, ...told, complete: true } as const
      channel.send({ ...lie, chunks: new Uint8Array(), vouchers: [], reply: false, freeSlots: 3 })
    }
  }
  await plane.start()
  const { address } = await victim.status()
  await plane.channelTo(address.multiaddrs[0] ?? '', AbortSignal.timeout(20_000))
  return plane
}

async function setUp(t: TestContext, lie: { sizeBytes?: number; mediaType?: string }) {
  const registry = await startRegistry(t)
  const image = registry.addImage('team/app:1', [700_000])
  const agent = await startAgent(t)
  const told = { sizeBytes: image.text.length, mediaType: 'application/json', ...lie }
  const liar = await startLiar(t, agent, told)
  while ((await agent.status()).peersConnected === 0) await new Promise((resolve) => setImmediate(resolve))
  return { registry, image, agent, liar, path: (rest: string) => `/v2/team/app/${rest}?ns=${registry.host}` }
}

for (const [name, sizeBytes] of [
  ['too small', 10],
  ['too large', 1_000_000],
  ['more than a manifest may have', 1e9],
  ['more than any blob has', Number.MAX_SAFE_INTEGER],
] as const) {
  test(`a manifest is got by its digest although a member names a size that is ${name}`, async (t) => {
    const { agent, image, liar, path } = await setUp(t, { sizeBytes })
    const answer = await agent.ask(path(`manifests/${image.digest}`))
    assert.deepEqual([answer.status, answer.body.toString()], [200, image.text])
    assert.equal(await agent.metric('shoal_peers_banned_total', 'wrong_size'), 1)
    assert.ok((await agent.metric('shoal_peer_ban_seconds', liar.peerId)) > 0)
  })
}

test('a blob of which a member names a wrong size is got at the second try at the latest', async (t) => {
  const { agent, image, path, registry } = await setUp(t, { sizeBytes: 5_000_000 })
  const [layer] = image.layers
  const ask = () => agent.ask(path(`blobs/${layer}`)).catch(() => undefined)
  const first = await ask()
  const answer = first?.status === 200 ? first : await ask()
  assert.equal(answer?.status, 200)
  assert.deepEqual(answer.body, registry.blobs.get(layer!))
  await agent.idle()
  const banned = await agent.metric('shoal_peers_banned_total', 'wrong_size')
  // Where the origin has said the size before the member could, nobody believes the member.
  if (first?.status !== 200) assert.equal(banned, 1)
})

test('how large a blob is, the origin says, while it answers', async (t) => {
  const { agent, image, path } = await setUp(t, { sizeBytes: 10 })
  const answer = await agent.ask(path(`blobs/${image.layers[0]}`), { method: 'HEAD' })
  assert.deepEqual([answer.status, answer.headers.get('content-length')], [200, '700000'])
})

for (const mediaType of [INDEX_TYPE, 'application/json', 'text/html']) {
  test(`a manifest has its own type although a member says ${mediaType}`, async (t) => {
    const { agent, image, path } = await setUp(t, { mediaType })
    for (const time of ['first', 'second']) {
      const answer = await agent.ask(path(`manifests/${image.digest}`))
      assert.deepEqual([answer.status, answer.headers.get('content-type')], [200, MANIFEST_TYPE], time)
    }
  })
}

test('an image has its own type although an index names another, also for other nodes', async (t) => {
  const registry = await startRegistry(t)
  const image = registry.addImage('team/app:1', [1000])
  const child = { mediaType: INDEX_TYPE, digest: image.digest, size: image.text.length }
  const index = JSON.stringify({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests: [child] })
  const path = (rest: string | undefined) => `/v2/team/app/manifests/${rest}?ns=${registry.host}`
  const top = path(registry.addManifest('team/app', index, INDEX_TYPE))
  const agent = await startAgent(t)
  assert.equal((await agent.ask(top)).status, 200)
  const answer = await agent.ask(path(image.digest))
  assert.deepEqual([answer.status, answer.headers.get('content-type')], [200, MANIFEST_TYPE])
  const { address } = await agent.status()
  const other = await startAgent(t, { bootstrapPeers: address.multiaddrs })
  while ((await other.status()).peersConnected === 0) await new Promise((resolve) => setImmediate(resolve))
  const second = await other.ask(path(image.digest))
  assert.deepEqual([second.status, second.headers.get('content-type')], [200, MANIFEST_TYPE])
})

test('a layer of which a manifest says that it is empty is got with its bytes', async (t) => {
  const registry = await startRegistry(t)
  const image = registry.addImage('team/app:1', [5000])
  const manifest = JSON.parse(image.text) as { layers: { size: number }[] }
  manifest.layers[0]!.size = 0
  registry.addManifest('team/app:2', JSON.stringify(manifest), MANIFEST_TYPE)
  const agent = await startAgent(t)
  assert.equal((await agent.ask(`/v2/team/app/manifests/2?ns=${registry.host}`)).status, 200)
  for (const time of ['first', 'second']) {
    const answer = await agent.ask(`/v2/team/app/blobs/${image.layers[0]}?ns=${registry.host}`)
    assert.deepEqual([answer.status, answer.body.length], [200, 5000], time)
  }
})
