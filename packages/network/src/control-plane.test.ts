import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { peerIdFromString } from '@libp2p/peer-id'
import type { Digest } from '@shoal/oci'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { endpointMultiaddr } from './addresses.ts'
import { NetworkError } from './errors.ts'
import { createIdentity, verifySignature } from './identity.ts'
import { createHost } from './libp2p-host.ts'
import { SwarmKeys } from './swarm-key.ts'
import {
  freePort,
  Inbox,
  makePlane,
  nextChannel,
  patience,
  startPlane,
  testKey,
  testKeys,
  until,
} from './testing/planes.ts'

const DIGEST: Digest = `sha256:${'ab'.repeat(32)}`

async function total(metrics: Registry, name: string): Promise<number> {
  const { values } = await metrics.getSingleMetric(name)!.get()
  return values.reduce((sum, { value }) => sum + value, 0)
}

suite('control plane', () => {
  test('two nodes say hello and talk both ways, in order', async (t) => {
    const a = await startPlane(t, { zone: 'rack-1' })
    const b = await startPlane(t, { zone: 'rack-2', agent: 'shoal-b/1' })
    const atB = nextChannel(b).then((channel) => ({ channel, inbox: new Inbox(channel) }))
    const channel = await a.channel(b.address, patience())
    const fromB = new Inbox(channel)
    const { channel: back, inbox: fromA } = await atB
    assert.equal(channel.peerId, b.peerId)
    assert.equal(channel.hello.agent, 'shoal-b/1')
    assert.deepEqual(channel.hello.node, b.address)
    assert.equal(channel.hello.node.zone, 'rack-2')
    assert.equal(channel.hello.node.transfer, '127.0.0.1:7702')
    assert.equal(back.peerId, a.peerId)
    assert.equal(a.openChannel(b.peerId), channel)
    assert.equal(await a.channel(b.address, patience()), channel)

    const count = 2000
    for (let index = 0; index < count; index++) {
      channel.send({ type: 'lost', digest: DIGEST, indices: [index] })
      back.send({ type: 'lost', digest: DIGEST, indices: [index, index] })
    }
    const expected = Array.from({ length: count }, (_, index) => [index])
    assert.deepEqual(
      (await fromA.has(count)).map((message) => message.type === 'lost' && message.indices),
      expected,
    )
    await fromB.has(count)
    await channel.close()
    await back.closed
    assert.equal(channel.isOpen, false)
    assert.equal(a.openChannel(b.peerId), undefined)
  })

  test('where it cannot listen, what the system says is passed on', async (t) => {
    const { address } = await startPlane(t)
    const port = Number(/\/tcp\/(\d+)/.exec(address.multiaddrs[0] ?? '')?.[1])
    const taken = await makePlane(t, { port })
    await assert.rejects(taken.start(), { code: 'EADDRINUSE', address: '127.0.0.1', port })
    // Of a network that is for documentation: no machine has it.
    const elsewhere = await makePlane(t, { host: '192.0.2.1', port })
    await assert.rejects(elsewhere.start(), { code: 'EADDRNOTAVAIL', address: '192.0.2.1', port })
  })

  test('a provider of which nothing was heard for a day is still known, with its addresses', async (t) => {
    // kad-dht answers with nothing at all where one provider is not known any more, and libp2p forgets peers after 6 h.
    const { host } = await createHost({
      identity: await createIdentity(),
      membership: { swarmKeys: testKeys, onFailure: () => undefined },
      listen: endpointMultiaddr('127.0.0.1', 0),
      announce: [],
      maxConnections: 10,
      isRefused: () => false,
    })
    const provider = peerIdFromString((await createIdentity()).peerId)
    const address = endpointMultiaddr('10.0.0.7', 7701)
    const heardMs = Date.now() - 24 * 3600_000
    t.mock.method(Date, 'now', () => heardMs)
    await host.peerStore.merge(provider, { multiaddrs: [address] })
    t.mock.restoreAll()
    const { addresses } = await host.peerStore.get(provider)
    assert.deepEqual(
      addresses.map(({ multiaddr }) => multiaddr.toString()),
      [address.toString()],
    )
  })

  test('messages that come before the listener is set are kept', async (t) => {
    const a = await startPlane(t)
    const b = await startPlane(t)
    b.onChannel = (channel) => {
      for (let index = 0; index < 10; index++) channel.send({ type: 'lost', digest: DIGEST, indices: [index] })
    }
    const channel = await a.channel(b.address, patience())
    await new Promise((resolve) => setImmediate(resolve))
    await new Inbox(channel).has(10)
  })

  test('both ends that open at once keep the same channel and lose nothing', async (t) => {
    const a = await startPlane(t)
    const b = await startPlane(t)
    for (let round = 0; round < 10; round++) {
      const [atA, atB] = await Promise.all([a.channel(b.address, patience()), b.channel(a.address, patience())])
      const fromB = new Inbox(atA)
      const fromA = new Inbox(atB)
      atA.send({ type: 'lost', digest: DIGEST, indices: [round] })
      atB.send({ type: 'lost', digest: DIGEST, indices: [round + 1000] })
      await Promise.all([fromA.has(1), fromB.has(1)])
      assert.equal(a.openChannel(b.peerId), atA)
      assert.equal(b.openChannel(a.peerId), atB)
      await atA.close()
      await atB.closed
    }
  })

  test('a node without the key gets nowhere and learns nothing', async (t) => {
    const member = await startPlane(t)
    const stranger = await startPlane(t, { swarmKeys: new SwarmKeys([testKey(9)]) })
    let channels = 0
    member.onChannel = () => (channels += 1)
    await assert.rejects(stranger.channel(member.address, patience()), { name: 'NetworkError', code: 'UNREACHABLE' })
    await assert.rejects(member.channel(stranger.address, patience()), { name: 'NetworkError', code: 'UNREACHABLE' })
    assert.equal(channels, 0)
    for (const plane of [member, stranger]) {
      assert.deepEqual(plane.connectedPeers(), [])
      assert.equal(plane.routingTableSize(), 0)
    }
  })

  test('keys are rotated without a gap', async (t) => {
    const before = await startPlane(t, { swarmKeys: new SwarmKeys([testKey(1)]) })
    const first = await startPlane(t, { swarmKeys: new SwarmKeys([testKey(1), testKey(2)]) })
    const second = await startPlane(t, { swarmKeys: new SwarmKeys([testKey(2), testKey(1)]) })
    const after = await startPlane(t, { swarmKeys: new SwarmKeys([testKey(2)]) })
    for (const [a, b] of [
      [before, first],
      [first, before],
      [first, second],
      [second, first],
      [second, after],
      [after, second],
    ] as const) {
      const channel = await a.channel(b.address, patience())
      await channel.close()
      await until(() => b.openChannel(a.peerId) === undefined, 'the channel is gone')
    }
    await assert.rejects(before.channel(after.address, patience()), NetworkError)
  })

  test('a channel by place, without knowing who is there', async (t) => {
    const tracker = await startPlane(t, { transferPort: 0 })
    const agent = await startPlane(t)
    const channel = await agent.channelTo(`127.0.0.1:${tracker.port}`, patience())
    assert.equal(channel.peerId, tracker.peerId)
    assert.equal(channel.hello.node.transfer, '')
    assert.deepEqual(agent.channels(), [], 'a tracker is no agent')
    await until(() => tracker.channels().length === 1, 'the tracker has a channel to the agent')
    const nobody = await freePort()
    await assert.rejects(agent.channelTo(`127.0.0.1:${nobody}`, patience()), { code: 'UNREACHABLE' })
    await assert.rejects(agent.channelTo('nonsense', patience()), { code: 'BAD_ADDRESS' })
  })

  test('another node at the address of a peer is not taken for it', async (t) => {
    const a = await startPlane(t)
    const b = await startPlane(t)
    const other = await createIdentity()
    const wrong = { ...b.address, peerId: other.peerId, multiaddrs: [`/ip4/127.0.0.1/tcp/${b.port}`] }
    await assert.rejects(a.channel(wrong, patience()), { code: 'UNREACHABLE' })
  })

  test('a listener that throws costs neither the channel nor the node', async (t) => {
    const a = await startPlane(t)
    const b = await startPlane(t)
    let calls = 0
    const second = Promise.withResolvers<void>()
    b.onChannel = (channel) => {
      channel.onMessage = () => {
        calls += 1
        if (calls === 2) second.resolve()
        throw new Error('a mistake in the listener')
      }
      throw new Error('a mistake in the other listener')
    }
    const channel = await a.channel(b.address, patience())
    channel.onMessage = () => undefined
    channel.send({ type: 'swarm-leave', digest: DIGEST })
    channel.send({ type: 'swarm-leave', digest: DIGEST })
    await second.promise
    assert.equal(channel.isOpen, true)
  })

  test('a peer that restarts is found again, also when its old channel looks open', async (t) => {
    const a = await startPlane(t)
    const identity = await createIdentity()
    const port = await freePort()
    const before = await startPlane(t, { identity, port: port })
    const first = await a.channel(before.address, patience())
    await before.stop()
    await first.closed
    const after = await startPlane(t, { identity, port: port })
    const second = await a.channel(after.address, patience())
    assert.notEqual(second, first)
    assert.notEqual(second.hello.instance, first.hello.instance)
    assert.equal(second.isOpen, true)
  })

  test('a tracker that comes up late, and again after it was lost', async (t) => {
    const port = await freePort()
    const agents = await Promise.all([1, 2].map(() => startPlane(t, { bootstrap: [`127.0.0.1:${port}`] })))
    const connected = (peerId: string) => agents.every((agent) => agent.connectedPeers().includes(peerId))
    assert.deepEqual(agents[0]?.connectedPeers(), [])
    const tracker = await startPlane(t, { port: port, transferPort: 0 })
    await until(() => connected(tracker.peerId), 'all agents are connected to the tracker')
    await until(() => agents.every((agent) => agent.routingTableSize() > 0), 'the DHT has peers')
    await tracker.stop()
    await until(() => !connected(tracker.peerId), 'the loss is noticed')
    const again = await startPlane(t, { port: port, transferPort: 0 })
    await until(() => connected(again.peerId), 'all agents are connected to the new tracker')
  })

  // Regression: a node that had never got in said nothing of it.
  test('who is not let in says so in the log, and so does who lets nobody in; not again and again', async (t) => {
    const lines: { level: number; msg: string; reason?: string }[] = []
    const logger = pino({ level: 'warn' }, { write: (line: string) => void lines.push(JSON.parse(line)) })
    const said = (text: string) => lines.filter(({ msg }) => msg.includes(text))
    const tracker = await startPlane(t, { transferPort: 0, logger })
    const metrics = new Registry()
    const swarmKeys = new SwarmKeys([testKey(9)])
    await startPlane(t, { bootstrap: [`127.0.0.1:${tracker.port}`], swarmKeys, logger, metrics })
    await until(() => said('not reached').length > 0 && said('did not get in').length > 1, 'both say it')
    const failures = () => total(metrics, 'shoal_membership_failures_total')
    while ((await failures()) < 3) await new Promise((resolve) => setImmediate(resolve))
    assert.equal(said('not reached').length, 1)
    assert.match(said('not reached')[0]!.reason!, /swarm key/)
  })

  // Regression: it counted trackers, so a node that reached its tracker but no agent gave no alarm.
  test('the gauge of connected peers counts agents', async (t) => {
    const metrics = new Registry()
    const tracker = await startPlane(t, { transferPort: 0 })
    const agent = await startPlane(t, { metrics })
    const connected = () => total(metrics, 'shoal_peers_connected')
    await agent.channel(tracker.address, patience())
    assert.equal(await connected(), 0)
    await agent.channel((await startPlane(t)).address, patience())
    assert.equal(await connected(), 1)
  })

  test('a bootstrap address that leads to the node itself does no harm', async (t) => {
    const port = await freePort()
    const other = await startPlane(t)
    const plane = await startPlane(t, { port: port, bootstrap: [`127.0.0.1:${port}`, `127.0.0.1:${other.port}`] })
    await until(() => plane.connectedPeers().includes(other.peerId), 'the other bootstrap node is connected')
  })

  test('providers are found over the DHT, those who provided into an empty one too', async (t) => {
    const port = await freePort()
    const planes = await Promise.all(
      Array.from({ length: 5 }, () => startPlane(t, { bootstrap: [`127.0.0.1:${port}`] })),
    )
    const [first, second, third] = planes as [(typeof planes)[0], (typeof planes)[0], (typeof planes)[0]]
    const early = first.provide(DIGEST, patience())
    await startPlane(t, { port: port, transferPort: 0 })
    await early
    await second.provide(DIGEST, patience())
    const found = new Set<string>()
    const signal = patience()
    while (found.size < 2) {
      signal.throwIfAborted()
      for await (const node of third.findProviders(DIGEST, AbortSignal.any([signal, AbortSignal.timeout(3000)]))) {
        assert.ok(node.multiaddrs.length > 0)
        found.add(node.peerId)
      }
      // Without a connection the search ends at once, and no connection can come while only promises settle.
      await turn()
    }
    assert.deepEqual(found, new Set([first.peerId, second.peerId]))
    for await (const node of first.findProviders(DIGEST, patience(3000))) assert.notEqual(node.peerId, first.peerId)
    const missing: Digest = `sha256:${'00'.repeat(32)}`
    for await (const node of third.findProviders(missing, patience())) assert.fail(`${node.peerId} has nothing`)
    // A digest that the DHT has no name for is not an error.
    await first.provide(`sha512:${'00'.repeat(64)}`, patience())
  })

  test('alone, providing waits and finding ends at once', async (t) => {
    const alone = await startPlane(t)
    for await (const node of alone.findProviders(DIGEST, patience())) assert.fail(node.peerId)
    const giveUp = new AbortController()
    const provided = alone.provide(DIGEST, giveUp.signal)
    giveUp.abort()
    await assert.rejects(provided, { code: 'ABORTED' })
    const stopped = alone.provide(DIGEST, patience())
    await alone.stopProviding(DIGEST)
    await assert.rejects(stopped, { code: 'ABORTED' })
  })

  test('a banned peer is cut off and refused, and let in again afterwards', async (t) => {
    const a = await startPlane(t)
    const b = await startPlane(t)
    const channel = await b.channel(a.address, patience())
    a.ban(b.peerId, 3600_000, 'protocol')
    await channel.closed
    assert.equal(a.isBanned(b.peerId), true)
    await assert.rejects(a.channel(b.address, patience()), { code: 'REFUSED' })
    await assert.rejects(b.channel(a.address, patience()), NetworkError)
    a.ban(b.peerId, 0, 'protocol')
    assert.equal(a.isBanned(b.peerId), false)
    await b.channel(a.address, patience())
  })

  test('an aborted caller does not wait', async (t) => {
    const a = await startPlane(t)
    const b = await startPlane(t)
    await assert.rejects(a.channel(b.address, AbortSignal.abort()), { code: 'ABORTED' })
  })

  test('before start and after stop every call says so', async (t) => {
    const plane = await makePlane(t)
    await assert.rejects(plane.channelTo('127.0.0.1:1', patience()), { code: 'NOT_RUNNING' })
    await plane.start()
    await plane.stop()
    await plane.stop()
    await assert.rejects(plane.channelTo('127.0.0.1:1', patience()), { code: 'NOT_RUNNING' })
    await assert.rejects(plane.provide(DIGEST, patience()), { code: 'NOT_RUNNING' })
  })

  test('signatures of a node are checked by its peer id alone', async (t) => {
    const plane = await makePlane(t)
    const bytes = Buffer.from('what was said')
    const signature = plane.sign(bytes)
    assert.equal(verifySignature(plane.peerId, bytes, signature), true)
    assert.equal(verifySignature(plane.peerId, Buffer.from('something else'), signature), false)
  })
})
