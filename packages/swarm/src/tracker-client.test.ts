import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import { HOLDINGS_VERSION, type ControlMessage, type ControlPlane } from '@shoal/network'
import { digestOf, type Digest } from '@shoal/oci'
import { pino } from 'pino'
import { FakeChannel } from './testing/channels.ts'
import { until } from './testing/cluster.ts'
import { TrackerClient, type TrackerSession } from './tracker-client.ts'

const digests = Array.from({ length: 40 }, (_, at) => digestOf(`blob ${at}`))

/** Trackers that can be reached or not, and their ends of the channels. */
class FakeTrackers {
  readonly channels = new Map<string, FakeChannel>()
  readonly down = new Set<string>()
  /** Of the protocol that they speak. */
  version = 1

  get control(): ControlPlane {
    const channelTo = async (address: string) => {
      if (this.down.has(address)) throw new Error('nobody there')
      const channel = new FakeChannel(`tracker at ${address}`, '', this.version)
      this.channels.set(address, channel)
      return channel
    }
    return { channelTo } as unknown as ControlPlane
  }

  async lose(address: string): Promise<void> {
    this.down.add(address)
    await this.channels.get(address)!.close()
  }
}

class FakeSession implements TrackerSession {
  readonly digest: Digest
  readonly connected: boolean[] = []
  readonly received: ControlMessage[] = []

  constructor(digest: Digest) {
    this.digest = digest
  }

  describe(): ControlMessage {
    const base = { type: 'tracker-join', digest: this.digest, sizeBytes: 1, originHost: 'o' } as const
    return { ...base, chunks: new Uint8Array(), complete: false, leaseCredit: 1 }
  }

  onPeers(message: ControlMessage): void {
    this.received.push(message)
  }

  onLease(message: ControlMessage): void {
    this.received.push(message)
  }

  onTracker(connected: boolean): void {
    this.connected.push(connected)
  }
}

async function setUp(t: TestContext, addresses: string[], holdings: Digest[] = [], version = 1) {
  const trackers = new FakeTrackers()
  trackers.version = version
  const client = new TrackerClient({
    control: trackers.control,
    addresses,
    holdings: () => holdings.map((digest) => ({ digest, sizeBytes: 1 })),
    logger: pino({ level: 'silent' }),
  })
  client.start()
  t.after(() => client.stop())
  const connected = (wanted: string[]) =>
    until(
      () => client.status().every(({ address, connected }) => connected === wanted.includes(address)),
      `connected to ${wanted.join(' and ')}`,
    )
  await connected(addresses)
  return { trackers, client, connected }
}

const told = (channel: FakeChannel) => channel.take('tracker-join').map(({ digest }) => digest)

test('digests are spread over the trackers, each to one, always the same', async (t) => {
  const { trackers, client } = await setUp(t, ['a', 'b'])
  for (const digest of digests) assert.equal(client.join(digest, new FakeSession(digest)), true)
  const [a, b] = [told(trackers.channels.get('a')!), told(trackers.channels.get('b')!)]
  assert.deepEqual([...a, ...b].sort(), digests.toSorted())
  assert.ok(a.length >= 5 && b.length >= 5, `${a.length} and ${b.length}`)
  for (const digest of a) client.send(digest, { type: 'tracker-leave', digest })
  assert.equal(trackers.channels.get('a')!.take('tracker-leave').length, a.length)
  assert.equal(trackers.channels.get('b')!.sent.length, 0)
})

test('when a tracker is lost, its digests go to the other, and come back with it', async (t) => {
  const { trackers, client, connected } = await setUp(t, ['a', 'b'])
  const sessions = digests.map((digest) => new FakeSession(digest))
  for (const session of sessions) client.join(session.digest, session)
  const ofA = told(trackers.channels.get('a')!)
  told(trackers.channels.get('b')!)
  await trackers.lose('a')
  await connected(['b'])
  assert.deepEqual(told(trackers.channels.get('b')!).sort(), ofA.toSorted())
  for (const { digest, connected: heard } of sessions) assert.deepEqual(heard, ofA.includes(digest) ? [true] : [])

  trackers.down.clear()
  await connected(['a', 'b'])
  assert.deepEqual(told(trackers.channels.get('a')!).sort(), ofA.toSorted())
  const left = trackers.channels
    .get('b')!
    .take('tracker-leave')
    .map(({ digest }) => digest)
  assert.deepEqual(left.sort(), ofA.toSorted(), 'the other gives no leases for them any more')
})

test('when the last tracker is lost, sessions hear of it, and of its return', async (t) => {
  const { trackers, client, connected } = await setUp(t, ['a'])
  const session = new FakeSession(digests[0]!)
  client.join(session.digest, session)
  await trackers.lose('a')
  await connected([])
  assert.equal(client.send(session.digest, { type: 'tracker-leave', digest: session.digest }), false)
  assert.equal(client.join(digests[1]!, new FakeSession(digests[1]!)), false)
  trackers.down.clear()
  await connected(['a'])
  assert.deepEqual(session.connected, [false, true])
  assert.deepEqual(told(trackers.channels.get('a')!).sort(), [digests[0]!, digests[1]!].sort())
})

test('a session that has ended hears nothing more', async (t) => {
  const { trackers, client, connected } = await setUp(t, ['a'])
  const session = new FakeSession(digests[0]!)
  client.join(session.digest, session)
  const { digest } = session
  const peers: ControlMessage = { type: 'tracker-peers', digest, sizeBytes: 1, members: 1, peers: [] }
  client.receive(peers)
  client.leave(session.digest)
  client.receive(peers)
  await trackers.lose('a')
  await connected([])
  assert.deepEqual(session.received, [peers])
  assert.deepEqual(session.connected, [])
})

test('trackers are told of whole blobs, each of its own, and inherit those of one that is lost', async (t) => {
  const { trackers, connected } = await setUp(t, ['a', 'b'], digests)
  const b = trackers.channels.get('b')!
  const [toldA, toldB] = [told(trackers.channels.get('a')!), told(b)]
  // Who connects first is told of everything; the other takes its own.
  assert.deepEqual(new Set([...toldA, ...toldB]).size, digests.length)
  await trackers.lose('a')
  await connected(['b'])
  const all = new Set([...toldB, ...told(b)])
  assert.equal(all.size, digests.length)
})

test('a tracker that can is told of all whole blobs in one message, an older one of each', async (t) => {
  const blobs = digests.map((digest) => ({ digest, sizeBytes: 1 }))
  const { trackers } = await setUp(t, ['a'], digests, HOLDINGS_VERSION)
  assert.deepEqual(trackers.channels.get('a')!.sent, [{ type: 'tracker-holdings', blobs }])
  const { trackers: older } = await setUp(t, ['a'], digests, HOLDINGS_VERSION - 1)
  assert.deepEqual(told(older.channels.get('a')!), digests)
  const { trackers: ofNothing } = await setUp(t, ['a'], [], HOLDINGS_VERSION)
  assert.deepEqual(ofNothing.channels.get('a')!.sent, [])
})

test('what is not here any more all trackers are told, whoever is in charge', async (t) => {
  const { trackers, client } = await setUp(t, ['a', 'b'])
  client.tellGone(digests[0]!)
  for (const channel of trackers.channels.values()) {
    assert.deepEqual(channel.take('tracker-leave'), [{ type: 'tracker-leave', digest: digests[0] }])
  }
})

test('a question about a tag ends with the tracker that was asked, not with another', async (t) => {
  const { trackers, client, connected } = await setUp(t, ['a', 'b'])
  const lookup = () => Promise.reject(new Error('not asked'))
  const references = Array.from({ length: 20 }, (_, at) => `r/app:${at}`)
  const outcomes = references.map((reference) => client.askTag(reference, lookup, 20_000))
  const [a, b] = ['a', 'b'].map((address) => trackers.channels.get(address)!.take('tag-ask'))
  assert.ok(a!.length > 0 && b!.length > 0)
  await trackers.lose('a')
  await connected(['b'])
  const found = { digest: digests[0]!, mediaType: 'm', sizeBytes: 1 }
  for (const { requestId, reference } of b!) {
    client.receive({ type: 'tag-answer', requestId, reference, ...found, stale: false, errorCode: '' })
  }
  const told = (await Promise.all(outcomes)).filter((outcome) => outcome?.kind === 'told')
  assert.equal(told.length, b!.length)
})

test('a tracker is known as one while its channel is open', async (t) => {
  const { trackers, client, connected } = await setUp(t, ['a'])
  assert.equal(client.isTracker('tracker at a'), true)
  assert.equal(client.isTracker('an agent'), false)
  await trackers.lose('a')
  await connected([])
  assert.equal(client.isTracker('tracker at a'), false)
})

test('without trackers nobody is asked', async (t) => {
  const { client } = await setUp(t, [])
  assert.equal(client.configured, false)
  assert.equal(client.join(digests[0]!, new FakeSession(digests[0]!)), false)
  assert.equal(await client.askTag('r/app:1', () => Promise.reject(new Error('not asked')), 20_000), undefined)
})
