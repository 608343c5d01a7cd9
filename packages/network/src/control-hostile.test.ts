import assert from 'node:assert/strict'
import { suite, test, type TestContext } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { KEEP_ALIVE, type Connection, type Stream } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import type { Digest } from '@shoal/oci'
import { multiaddr } from '@multiformats/multiaddr'
import { pEvent } from 'p-event'
import { PbfWriter } from 'pbf'
import { encodeControlMessage } from './control-codec.ts'
import { CONTROL_PROTOCOL, type Libp2pControlPlane } from './control-plane.ts'
import { lengthPrefix } from './frames.ts'
import { InvalidMessageError } from './errors.ts'
import { createIdentity } from './identity.ts'
import { createHost, type Host } from './libp2p-host.ts'
import type { ControlMessage, Hello } from './messages.ts'
import { Inbox, nextChannel, patience, startPlane, testKeys, until } from './testing/planes.ts'

const DIGEST: Digest = `sha256:${'ab'.repeat(32)}`

/** A member that has the key and speaks libp2p, but whose control protocol is written in the test. */
async function startHost(t: TestContext): Promise<Host> {
  const { host } = await createHost({
    identity: await createIdentity(),
    membership: { swarmKeys: testKeys, onFailure: () => undefined },
    listen: multiaddr('/ip4/127.0.0.1/tcp/0'),
    announce: [],
    maxConnections: 10,
    isRefused: () => false,
  })
  await host.start()
  t.after(() => host.stop())
  return host
}

async function dial(host: Host, plane: Libp2pControlPlane): Promise<{ stream: Stream; connection: Connection }> {
  const connection = await host.dial(plane.address.multiaddrs.map((address) => multiaddr(address)))
  return { stream: await connection.newStream(CONTROL_PROTOCOL, { signal: patience() }), connection }
}

function framed(...messages: (ControlMessage | Uint8Array)[]): Uint8Array {
  const parts = messages.map((each) => (each instanceof Uint8Array ? each : encodeControlMessage(each)))
  return Buffer.concat(parts.flatMap((bytes) => [lengthPrefix(bytes.byteLength), bytes]))
}

function hello(more: Partial<Hello> = {}): Hello {
  const node = { peerId: 'a lie', multiaddrs: [], transfer: '10.0.0.1:1', zone: '' }
  return { type: 'hello', version: 1, agent: 'test', node, instance: 'one', sequence: 1, ...more }
}

suite('control channels among bad neighbours', () => {
  test('a peer that hangs up at once is not dialled again and again, though libp2p wants to keep it', async (t) => {
    const plane = await startPlane(t)
    const host = await startHost(t)
    const multiaddrs = plane.address.multiaddrs.map((address) => multiaddr(address))
    const peerId = peerIdFromString(plane.peerId)
    // As the DHT does with the peers near to a node.
    await host.peerStore.merge(peerId, { multiaddrs, tags: { [`${KEEP_ALIVE}-kad-dht`]: { value: 1 } } })
    plane.ban(host.peerId.toString(), 3600_000, 'protocol')
    let dialled = 0
    host.addEventListener('connection:open', () => dialled++)
    const denied = async (): Promise<boolean> => {
      const failure = await host.dial(peerId).then(
        () => undefined,
        (error: unknown) => error,
      )

      return failure instanceof Error && failure.name === 'DialDeniedError'
    }
    while (!(await denied())) {
      assert.ok(dialled < 20, `dialled ${dialled} times`)
      // An open connection is given at once: its end has to be heard of.
      await turn()
    }
    assert.ok(dialled <= 5, `dialled ${dialled} times`)
  })

  test('a later version, unknown messages and signs of life are taken; its peer id is not believed', async (t) => {
    const plane = await startPlane(t)
    const host = await startHost(t)
    const opened = nextChannel(plane).then((channel) => ({ channel, inbox: new Inbox(channel) }))
    const { stream } = await dial(host, plane)
    const later = new PbfWriter()
    later.writeMessage(500, (_, writer) => writer.writeStringField(1, 'of version 7'), undefined)
    stream.send(
      framed(hello({ version: 7 }), later.finish(), new Uint8Array(), { type: 'swarm-leave', digest: DIGEST }),
    )
    const { channel, inbox } = await opened
    assert.equal(channel.hello.version, 7)
    assert.equal(channel.hello.node.peerId, host.peerId.toString())
    assert.deepEqual(await inbox.has(1), [{ type: 'swarm-leave', digest: DIGEST }])
  })

  test('ends the stream of who sends a message that only its receiver can see is wrong', async (t) => {
    const plane = await startPlane(t)
    const host = await startHost(t)
    const opened = nextChannel(plane)
    const { stream } = await dial(host, plane)
    stream.send(framed(hello()))
    const channel = await opened
    channel.onMessage = () => {
      throw new InvalidMessageError('a map that does not fit')
    }
    stream.send(framed({ type: 'swarm-leave', digest: DIGEST }))
    await channel.closed
    assert.equal(channel.isOpen, false)
  })

  test('an answer of our own that cannot be sent is not held against who asked', async (t) => {
    const plane = await startPlane(t)
    const host = await startHost(t)
    const opened = nextChannel(plane)
    const { stream } = await dial(host, plane)
    stream.send(framed(hello()))
    const channel = await opened
    const heard = new Promise<void>((resolve) => {
      channel.onMessage = (message) => {
        if (message.type === 'swarm-leave') resolve()
        channel.send({ type: 'lost', digest: DIGEST, indices: [-1] })
      }
    })
    stream.send(framed({ type: 'lost', digest: DIGEST, indices: [] }, { type: 'swarm-leave', digest: DIGEST }))
    await Promise.race([heard, channel.closed])
    assert.equal(channel.isOpen, true)
  })

  const broken: Record<string, Uint8Array> = {
    'another message before hello': framed({ type: 'swarm-leave', digest: DIGEST }),
    'hello twice': framed(hello(), hello()),
    'version 0': framed(hello({ version: 0 })),
    'a message that is too long': lengthPrefix(1024 * 1024 + 1),
    'bytes that are no message': framed(hello(), Buffer.from('ffffffff', 'hex')),
  }
  for (const [what, bytes] of Object.entries(broken)) {
    test(`ends the stream of who sends ${what}`, async (t) => {
      const plane = await startPlane(t)
      const host = await startHost(t)
      const { stream } = await dial(host, plane)
      const closed = pEvent(stream, 'close', { signal: patience() })
      stream.send(bytes)
      await closed
      await until(() => plane.openChannel(host.peerId.toString()) === undefined, 'no channel is left')
      // The node itself is as well as before.
      const other = await startPlane(t)
      await other.channel(plane.address, patience())
    })
  }

  test('who says no hello is left after a while', async (t) => {
    const plane = await startPlane(t, { timing: { helloTimeoutMs: 50 } })
    const host = await startHost(t)
    const { stream } = await dial(host, plane)
    await pEvent(stream, 'close', { signal: patience() })

    await host.handle(CONTROL_PROTOCOL, () => new Promise(() => undefined))
    const address = {
      peerId: host.peerId.toString(),
      multiaddrs: host.getMultiaddrs().map(String),
      transfer: '',
      zone: '',
    }
    await assert.rejects(plane.channel(address, patience()), { name: 'NetworkError', code: 'REFUSED' })
  })

  test('who does not read is cut off, and memory stays bounded', async (t) => {
    const maxQueuedBytes = 256 * 1024
    const plane = await startPlane(t, { timing: { stream: { maxQueuedBytes } } })
    const host = await startHost(t)
    const opened = nextChannel(plane)
    const { stream } = await dial(host, plane)
    stream.send(framed(hello()))
    stream.pause()
    const channel = await opened
    const indices = Array.from({ length: 1000 }, (_, index) => index)
    let sent = 0
    while (channel.isOpen) {
      channel.send({ type: 'lost', digest: DIGEST, indices })
      sent += 1
      assert.ok(sent < 20_000, 'a peer that does not read is never cut off')
      if (sent % 50 === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    await channel.closed
    // Sending to it is no error afterwards.
    channel.send({ type: 'swarm-leave', digest: DIGEST })
  })

  test('who takes nothing for a while is cut off, however little waits for it', async (t) => {
    const plane = await startPlane(t, { timing: { stream: { drainTimeoutMs: 50 } } })
    const host = await startHost(t)
    const opened = nextChannel(plane)
    const { stream } = await dial(host, plane)
    stream.send(framed(hello()))
    stream.pause()
    const channel = await opened
    const indices = Array.from({ length: 60_000 }, () => 0x7fffff)
    // More than a stream's first window, less than the queue may hold.
    for (let count = 0; count < 10; count++) channel.send({ type: 'lost', digest: DIGEST, indices })
    await channel.closed
  })

  test('who says nothing at all is taken for dead; signs of life keep a channel open', async (t) => {
    const timing = { stream: { heartbeatMs: 50, silenceTimeoutMs: 300 } }
    const [a, b] = [await startPlane(t, { timing }), await startPlane(t, { timing })]
    const alive = await a.channel(b.address, patience())
    alive.onMessage = () => undefined
    b.channels().forEach((channel) => (channel.onMessage = () => undefined))
    const host = await startHost(t)
    const opened = nextChannel(a)
    const { stream } = await dial(host, a)
    stream.send(framed(hello()))
    const mute = await opened
    mute.onMessage = () => undefined
    await mute.closed
    assert.equal(alive.isOpen, true)
  })

  test('a stream with an older hello does not replace the open channel, one of a new instance does', async (t) => {
    const plane = await startPlane(t)
    const host = await startHost(t)
    const peerId = host.peerId.toString()
    const open = async (said: Hello): Promise<Stream> => {
      const { stream } = await dial(host, plane)
      stream.send(framed(said))
      return stream
    }
    const first = nextChannel(plane)
    await open(hello({ sequence: 5 }))
    const channel = await first
    const late = await open(hello({ sequence: 4 }))
    await pEvent(late, 'close', { signal: patience() })
    assert.equal(plane.openChannel(peerId), channel)
    const second = nextChannel(plane)
    await open(hello({ instance: 'two', sequence: 1 }))
    const replaced = await second
    await channel.closed
    assert.equal(plane.openChannel(peerId), replaced)
  })
})
