// Members that name a size that a blob does not have, for content of which an agent knows nothing but the digest.
import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import { createControlPlane, createIdentity, SwarmKeys, type ControlMessage } from '@shoal/network'
import { startAgent, silent, type TestAgent } from './testing/agents.ts'
import { startRegistry } from './testing/registry.ts'

/** As in `startAgent`. */
const SWARM_KEYS = new SwarmKeys([new Uint8Array(32).fill(3)])

/** A member that says of everything that it has it, and that it has so many bytes. */
async function startLiar(t: TestContext, victim: TestAgent, sizeBytes: number) {
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
      const lie = { type: 'swarm-join', digest, sizeBytes, mediaType: 'application/json', complete: true } as const
      channel.send({ ...lie, chunks: new Uint8Array(), vouchers: [], reply: false, freeSlots: 3 })
    }
  }
  await plane.start()
  const { address } = await victim.status()
  await plane.channelTo(address.multiaddrs[0] ?? '', AbortSignal.timeout(20_000))
  return plane
}

async function setUp(t: TestContext, sizeBytes: number) {
  const registry = await startRegistry(t)
  const image = registry.addImage('team/app:1', [700_000])
  const agent = await startAgent(t)
  const liar = await startLiar(t, agent, sizeBytes)
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
    const { agent, image, liar, path } = await setUp(t, sizeBytes)
    const answer = await agent.ask(path(`manifests/${image.digest}`))
    assert.deepEqual([answer.status, answer.body.toString()], [200, image.text])
    assert.equal(await agent.metric('shoal_peers_banned_total', 'wrong_size'), 1)
    assert.ok((await agent.metric('shoal_peer_ban_seconds', liar.peerId)) > 0)
  })
}

test('a blob of which a member names a wrong size is got at the second try at the latest', async (t) => {
  const { agent, image, path, registry } = await setUp(t, 5_000_000)
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
  const { agent, image, path } = await setUp(t, 10)
  const answer = await agent.ask(path(`blobs/${image.layers[0]}`), { method: 'HEAD' })
  assert.deepEqual([answer.status, answer.headers.get('content-length')], [200, '700000'])
})
