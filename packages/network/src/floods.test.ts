// Members that hold the swarm key and use it to flood, to stall and to spread nonsense: they are held back, then left.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { suite, test, type TestContext } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import type { PeerId } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { Registry } from 'prom-client'
import { encodeControlMessage } from './control-codec.ts'
import { CONTROL_PROTOCOL, type Libp2pControlPlane } from './control-plane.ts'
import { lengthPrefix } from './frames.ts'
import { createIdentity } from './identity.ts'
import { createHost, type Host } from './libp2p-host.ts'
import type { ControlMessage } from './messages.ts'
import type { ChunkHandler } from './network.ts'
import { nextChannel, patience, startPlane, testKeys, until } from './testing/planes.ts'
import {
  addressOf,
  bytesAnswer,
  dialRaw,
  DIGEST,
  metric,
  missing,
  serveRaw,
  startNode,
  wanted,
} from './testing/transfer.ts'
import { encodeRequest, frame, FRAME } from './transfer-frames.ts'
import { ownHello } from './transfer-handshake.ts'
import type { Offence } from './standing.ts'

const MEMBER = { membership: { swarmKeys: testKeys, onFailure: () => undefined } }

async function startHost(t: TestContext): Promise<Host> {
  const { host } = await createHost({
    ...MEMBER,
    identity: await createIdentity(),
    listen: multiaddr('/ip4/127.0.0.1/tcp/0'),
    announce: [],
    maxConnections: 100,
    isRefused: () => false,
  })
  await host.start()
  t.after(() => host.stop())
  return host
}

function framed(message: ControlMessage): Uint8Array {
  const bytes = encodeControlMessage(message)
  return Buffer.concat([lengthPrefix(bytes.byteLength), bytes])
}

const HELLO = framed({
  type: 'hello',
  version: 1,
  agent: 'liar',
  node: { peerId: '', multiaddrs: [], transfer: '10.0.0.1:1', zone: '' },
  instance: 'one',
  sequence: 1,
})
const LEAVE = framed({ type: 'swarm-leave', digest: DIGEST })

const addressesOf = (plane: Libp2pControlPlane) => plane.address.multiaddrs.map((address) => multiaddr(address))

suite('floods on the control plane', () => {
  // Regression: libp2p refuses the newest connection when too many prove nothing.
  test('a stranger who opens many connections and says nothing keeps no member out', async (t) => {
    const [one, other] = [await startPlane(t), await startPlane(t)]
    const silent = Array.from({ length: 600 }, () => connect(one.port, '127.0.0.1').on('error', () => undefined))
    t.after(() => silent.forEach((socket) => socket.destroy()))
    await Promise.all(silent.map((socket) => once(socket, 'connect')))
    await other.channel(one.address, patience())
  })

  test('a flood of messages is read at a bounded rate, then its sender is banned by name', async (t) => {
    const metrics = new Registry()
    const inbound = { ratePerSecond: 20_000, burst: 20_000, floodAfterMs: 1000 }
    const plane = await startPlane(t, { metrics, inbound })
    const banned = new Promise<string>((resolve) => (plane.onBan = (peerId, reason) => resolve(`${peerId} ${reason}`)))
    const host = await startHost(t)
    const opened = nextChannel(plane)
    const stream = await (await host.dial(addressesOf(plane))).newStream(CONTROL_PROTOCOL, { signal: patience() })
    stream.send(HELLO)
    let received = 0
    const channel = await opened
    channel.onMessage = () => (received += 1)
    const startedMs = performance.now()
    const batch = Buffer.concat(Array.from({ length: 20 }, () => LEAVE))
    while (stream.status === 'open' && channel.isOpen) {
      if (stream.writableNeedsDrain) {
        const drained = new Promise((resolve) => stream.addEventListener('drain', resolve, { once: true }))
        await Promise.race([channel.closed, drained])
      } else stream.send(batch)
      await new Promise((resolve) => setImmediate(resolve))
    }
    assert.equal(await banned, `${host.peerId.toString()} flood`)
    const tookMs = performance.now() - startedMs
    // What lies in one read passes at once: a window of a stream at most.
    const window = (1024 * 1024) / LEAVE.byteLength
    assert.ok(received <= 20_000 + tookMs * 20 + window, `${received} messages in ${tookMs} ms`)
    assert.match(
      await metrics.metrics(),
      new RegExp(`shoal_peer_ban_seconds\\{peer="${host.peerId.toString()}",reason="flood"\\}`),
    )
    await assert.rejects(host.dial(addressesOf(plane)).then((again) => again.newStream(CONTROL_PROTOCOL)))
  })

  test('an honest burst beyond the rate is late, not lost, and costs nobody a ban', async (t) => {
    const inbound = { ratePerSecond: 1000, burst: 50, floodAfterMs: 10_000 }
    const metrics = new Registry()
    const [plane, honest] = [await startPlane(t, { metrics, inbound }), await startPlane(t)]
    const opened = nextChannel(plane)
    const out = await honest.channel(plane.address, patience())
    let received = 0
    ;(await opened).onMessage = () => (received += 1)
    for (let sent = 0; sent < 300; sent++) {
      out.send({ type: 'swarm-leave', digest: DIGEST })
      if (sent % 10 === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    await until(() => received === 300, 'all messages have come')
    assert.equal(plane.isBanned(honest.peerId), false)
    assert.ok(out.isOpen)
    assert.match(await metrics.metrics(), /^shoal_control_held_total [1-9]/m)
  })

  test('who sends broken messages again and again is banned, who does it once is not', async (t) => {
    const plane = await startPlane(t)
    const host = await startHost(t)
    let reason: string | undefined
    plane.onBan = (_peerId, why) => (reason = why)
    for (let count = 1; reason === undefined; count++) {
      assert.ok(count <= 5, 'five broken messages are not enough')
      const connection = await host.dial(addressesOf(plane), { force: true })
      const stream = await connection.newStream(CONTROL_PROTOCOL, { signal: patience() })
      const closed = new Promise((resolve) => stream.addEventListener('close', resolve))
      stream.send(Buffer.from('0401020304', 'hex'))
      await closed
    }
    assert.equal(reason, 'protocol')
    assert.equal(plane.isBanned(host.peerId.toString()), true)
  })

  test('one peer gets so many connections and streams and no more; others still come in', async (t) => {
    const plane = await startPlane(t)
    const host = await startHost(t)
    const dials = Array.from({ length: 40 }, () => host.dial(addressesOf(plane), { force: true }))
    const connections = (await Promise.allSettled(dials)).filter(({ status }) => status === 'fulfilled')
    await until(() => host.getConnections().length <= 8, 'the rest was closed')
    assert.ok(connections.length >= 1)
    const [connection] = host.getConnections()
    assert.ok(connection !== undefined)
    const streams = Array.from({ length: 50 }, () => connection.newStream(CONTROL_PROTOCOL, { signal: patience() }))
    const opened = await Promise.allSettled(streams)
    const open = () => opened.filter((each) => each.status === 'fulfilled' && each.value.status === 'open').length
    await until(() => open() <= 4, 'all but four streams were refused')
    const other = await startPlane(t)
    await other.channel(plane.address, patience())
  })
})

suite('nonsense in the DHT', () => {
  test('an answer full of false providers keeps nobody busy, and true ones are found beside it', async (t) => {
    const [asker, honest] = [await startPlane(t), await startPlane(t)]
    const liar = await startHost(t)
    const fakes = await Promise.all(Array.from({ length: 60 }, () => createIdentity()))
    // The liar answers every question with sixty nodes that do not exist.
    const { providers } = liar.services.dht as unknown as { providers: { getProviders: () => Promise<PeerId[]> } }
    assert.equal(typeof providers.getProviders, 'function')
    const ids = fakes.map(({ peerId }) => peerIdFromString(peerId))
    for (const id of ids) await liar.peerStore.merge(id, { multiaddrs: [multiaddr('/ip4/127.0.0.1/tcp/1')] })
    providers.getProviders = () => Promise.resolve(ids)
    await asker.channel(honest.address, patience())
    await liar.dial(addressesOf(asker))
    await liar.dial(addressesOf(honest))
    await until(() => asker.routingTableSize() >= 2 && honest.routingTableSize() >= 2, 'all know each other')
    await honest.provide(DIGEST, patience())
    const deadline = patience()
    let found: string[] = []
    // A search ends with twenty names, and the liar may answer before the honest node's word has come: downloads ask again.
    while (!found.includes(honest.peerId)) {
      deadline.throwIfAborted()
      found = []
      for await (const { peerId } of asker.findProviders(DIGEST, deadline)) found.push(peerId)
      const lies = found.filter((peerId) => fakes.some((fake) => fake.peerId === peerId))
      assert.ok(lies.length >= 1 && lies.length <= 20, `${lies.length} false providers`)
    }
  })
})

suite('floods on the transfer plane', () => {
  type Told = [peerId: string, offence: Offence]

  /** Sends frames as fast as it goes to a server that takes a hundred requests a second, until that tells of a flood. */
  async function flood(t: TestContext, handler: ChunkHandler, frameOf: (request: number) => Buffer): Promise<number> {
    const told: Told[] = []
    const server = await startNode(t, handler, {
      limits: { requestsPerSecond: 100, floodAfterMs: 200 },
      onOffence: (peerId, offence) => told.push([peerId, offence]),
    })
    const identity = await createIdentity()
    const raw = await dialRaw(t, server.plane.port)
    raw.resume()
    raw.write(ownHello(raw, 'client', { identity, swarmKeys: testKeys }))
    const startedMs = performance.now()
    const deadline = patience()
    for (let request = 1; told.length === 0; request++) {
      deadline.throwIfAborted()
      raw.write(frameOf(request))
      if (request % 100 === 0) await turn()
    }
    assert.deepEqual(told[0], [identity.peerId, 'flood'])
    return performance.now() - startedMs
  }

  test('a flood of requests is read at a bounded rate, and told of', async (t) => {
    let asked = 0
    const handler = () => {
      asked += 1
      return { status: 'missing' } as const
    }
    const tookMs = await flood(t, handler, (request) =>
      encodeRequest(request, { digest: DIGEST, index: 0, requestId: '' }),
    )
    // One read holds 64 KiB at most, thus some thousand requests.
    assert.ok(asked <= 400 + tookMs / 10 + 1500, `${asked} requests were taken in ${tookMs} ms`)
  })

  test('a flood of cancels is one, too', async (t) => {
    await flood(t, missing, (request) => frame(FRAME.cancel, request))
  })

  test('who asks for a chunk and does not take it loses its upload slot, and is told of', async (t) => {
    const told: Told[] = []
    const freed = Promise.withResolvers<void>()
    const chunk = Buffer.alloc(16 * 1024 * 1024)
    const server = await startNode(t, () => bytesAnswer(chunk, () => freed.resolve()), {
      limits: { minSendBytesPerSecond: 4 * 1024 * 1024 },
      onOffence: (peerId, offence) => told.push([peerId, offence]),
    })
    const identity = await createIdentity()
    const raw = await dialRaw(t, server.plane.port)
    raw.write(ownHello(raw, 'client', { identity, swarmKeys: testKeys }))
    raw.write(encodeRequest(1, { digest: DIGEST, index: 0, requestId: '' }))
    raw.pause()
    await freed.promise
    assert.deepEqual(told, [[identity.peerId, 'slow_reader']])
  })

  test('broken answers and broken requests are told of with the name of the peer', async (t) => {
    const told: Told[] = []
    const node = await startNode(t, missing, { onOffence: (peerId, offence) => told.push([peerId, offence]) })
    const identity = await createIdentity()
    const port = await serveRaw(t, identity, (socket) => socket.write(frame(200, 1)))
    const fetched = node.plane.fetch(addressOf(identity.peerId, port), wanted(Buffer.alloc(10)))
    await assert.rejects(fetched, { code: 'PROTOCOL' })
    assert.deepEqual(told, [[identity.peerId, 'protocol']])
    const raw = await dialRaw(t, node.plane.port)
    const closed = once(raw, 'close')
    raw.resume()
    raw.write(ownHello(raw, 'client', { identity, swarmKeys: testKeys }))
    raw.write(frame(FRAME.data, 1))
    await closed
    assert.deepEqual(told.slice(1), [[identity.peerId, 'protocol']])
    // Who has proven nothing has no name that could be held against it.
    const stranger = await dialRaw(t, node.plane.port)
    const gone = once(stranger, 'close')
    stranger.resume()
    stranger.write(frame(FRAME.data, 1))
    await gone
    assert.equal(told.length, 2)
    assert.ok((await metric(node, 'shoal_transfer_handshake_failures_total')) >= 1)
  })
})
