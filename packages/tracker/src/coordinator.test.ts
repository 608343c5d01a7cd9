import assert from 'node:assert/strict'
import { setImmediate as turn } from 'node:timers/promises'
import test, { type TestContext } from 'node:test'
import { digestOf, type Digest } from '@shoal/oci'
import { InvalidMessageError } from '@shoal/network'
import type { ControlMessage, LeaseGrant } from '@shoal/network'
import fc from 'fast-check'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { Coordinator } from './coordinator.ts'
import { createTrackerMetrics } from './metrics.ts'
import { FakeChannel } from '@shoal/swarm/testing'

const CHUNK = 256 * 1024

function setUp(t: TestContext | undefined, originConcurrency: number) {
  const metrics = createTrackerMetrics(new Registry(), { swarms: () => 0, nodes: () => 0, members: () => 0 })
  const logger = pino({ level: 'silent' })
  const coordinator = new Coordinator({ originConcurrency, leaseIdleMs: 60_000, tagTtlMs: 1000, logger, metrics })
  t?.after(() => coordinator.close())
  return coordinator
}

const blob = (name: string): Digest => digestOf(name)

function join(digest: Digest, chunkCount: number, originHost = 'origin.test', more: object = {}) {
  const base = { type: 'tracker-join', digest, sizeBytes: chunkCount * CHUNK, originHost } as const
  return { ...base, chunks: new Uint8Array(), complete: false, leaseCredit: 2, ...more }
}

function done(grant: LeaseGrant, more: object = {}) {
  const { digest, leaseId, first, count } = grant
  const fetched = Array.from({ length: count }, (_, at) => first + at)
  return { type: 'lease-done', digest, leaseId, fetched, failed: false, originBackoffMs: 0, ...more } as const
}

const liveLeases = (coordinator: Coordinator, host: string) =>
  [...coordinator.swarms]
    .filter(({ originHost }) => originHost === host)
    .reduce((sum, { leases }) => sum + leases.size, 0)

const channels = (count: number, name = 'peer') =>
  Array.from({ length: count }, (_, at) => new FakeChannel(`${name}${at}`))

test('a member is answered with neighbours and, if there is something to fetch, a lease', async (t) => {
  const coordinator = setUp(t, 8)
  const [one, two] = channels(2) as [FakeChannel, FakeChannel]
  coordinator.receive(one, join(blob('a'), 10))
  await turn()
  assert.deepEqual(one.take('tracker-peers')[0]?.peers, [])
  assert.ok(one.take('lease-grant').length >= 1)
  coordinator.receive(two, join(blob('a'), 10))
  assert.deepEqual(
    two.take('tracker-peers')[0]?.peers.map(({ peerId }) => peerId),
    ['peer0'],
  )
})

test('what a node has whole it may say in one message: each blob of it is as if it had joined', async (t) => {
  const coordinator = setUp(t, 8)
  const [one, two] = channels(2) as [FakeChannel, FakeChannel]
  const held = [blob('a'), blob('b')].map((digest) => ({ digest, sizeBytes: 10 * CHUNK }))
  coordinator.receive(one, { type: 'tracker-holdings', blobs: [...held, { digest: blob('c'), sizeBytes: 0 }] })
  await turn()
  assert.deepEqual(one.sent, [], 'it is asked for nothing, and a blob of no bytes is no question')
  for (const { digest } of held) {
    coordinator.receive(two, join(digest, 10))
    await turn()
    assert.deepEqual(
      two.take('tracker-peers')[0]?.peers.map(({ peerId }) => peerId),
      ['peer0'],
    )
    assert.deepEqual(two.take('lease-grant'), [])
  }
  coordinator.left(one)
  await turn()
  assert.ok(two.take('lease-grant').length > 0, 'nobody has it any more')
})

test('an origin has no more leases out than allowed, over all its blobs; others have their own', async (t) => {
  const coordinator = setUp(t, 3)
  const nodes = channels(12)
  for (const [at, node] of nodes.entries()) {
    coordinator.receive(node, join(blob(`blob ${at % 4}`), 50))
    coordinator.receive(node, join(blob('elsewhere'), 50, 'other.test'))
  }
  await turn()
  assert.equal(liveLeases(coordinator, 'origin.test'), 3)
  assert.equal(liveLeases(coordinator, 'other.test'), 3)
  // What becomes free is given out again, and no more than that.
  for (let round = 0; round < 20; round++) {
    for (const node of nodes) for (const grant of node.take('lease-grant')) coordinator.receive(node, done(grant))
    await turn()
    assert.ok(liveLeases(coordinator, 'origin.test') <= 3)
    assert.ok(liveLeases(coordinator, 'origin.test') >= 1)
  }
})

test('a small blob does not wait for a large one that came first', async (t) => {
  const coordinator = setUp(t, 1)
  const nodes = channels(10)
  for (const node of nodes) coordinator.receive(node, join(blob('large'), 100))
  await turn()
  const late = new FakeChannel('late')
  coordinator.receive(late, join(blob('small'), 1))
  await turn()
  let finished = 0
  while (finished < 3 && late.take('lease-grant').length === 0) {
    const holder = nodes.find(({ sent }) => sent.some(({ type }) => type === 'lease-grant'))!
    for (const grant of holder.take('lease-grant')) coordinator.receive(holder, done(grant))
    finished++
    await turn()
  }
  assert.ok(finished <= 2, `${finished} leases of the large blob went first`)
})

test('a node that tells of many blobs has no more than its share of an origin while others want something of it', async (t) => {
  const coordinator = setUp(t, 8)
  const hog = new FakeChannel('hog')
  const honest = channels(3)
  for (let at = 0; at < 40; at++) coordinator.receive(hog, join(blob(`fake ${at}`), 4))
  for (const node of honest) for (const name of ['a', 'b']) coordinator.receive(node, join(blob(name), 64))
  await turn()
  assert.equal(hog.take('lease-grant').length, 2)
  assert.equal(honest.flatMap((node) => node.take('lease-grant')).length, 6)
})

test('a node that is alone at an origin has all of it, and gives of it when others come', async (t) => {
  const coordinator = setUp(t, 8)
  const [alone, other] = channels(2) as [FakeChannel, FakeChannel]
  for (let at = 0; at < 40; at++) coordinator.receive(alone, join(blob(`blob ${at}`), 4))
  await turn()
  const grants = alone.take('lease-grant')
  assert.equal(grants.length, 8)
  coordinator.receive(other, join(blob('other'), 64))
  await turn()
  for (const grant of grants.slice(0, 2)) coordinator.receive(alone, done(grant))
  await turn()
  assert.equal(alone.take('lease-grant').length, 0)
  assert.equal(other.take('lease-grant').length, 2, 'what is free is for the one that has less')
})

test('who gives leases of one blob back comes behind others with all its blobs', async (t) => {
  const coordinator = setUp(t, 1)
  const [liar, honest] = channels(2) as [FakeChannel, FakeChannel]
  for (let at = 0; at < 20; at++) coordinator.receive(liar, join(blob(`fake ${at}`), 4))
  for (let round = 0; round < 3; round++) {
    await turn()
    for (const grant of liar.take('lease-grant')) coordinator.receive(liar, done(grant, { fetched: [] }))
  }
  coordinator.receive(honest, join(blob('a'), 64))
  await turn()
  for (const grant of liar.take('lease-grant')) coordinator.receive(liar, done(grant, { fetched: [] }))
  for (let round = 0; round < 10; round++) {
    await turn()
    const grants = honest.take('lease-grant')
    assert.equal(grants.length, 1)
    coordinator.receive(honest, done(grants[0]!))
  }
})

test('news of a lease of an earlier run of the tracker ends no lease of this one', async (t) => {
  const [old, fresh] = [setUp(t, 8), setUp(t, 8)]
  const [agent] = channels(1) as [FakeChannel]
  old.receive(agent, join(blob('a'), 40))
  await turn()
  const before = agent.take('lease-grant')
  fresh.receive(agent, join(blob('a'), 40))
  await turn()
  const live = liveLeases(fresh, 'origin.test')
  for (const grant of before) fresh.receive(agent, done(grant))
  assert.ok(before.length > 0 && live > 0)
  assert.equal(liveLeases(fresh, 'origin.test'), live)
})

test('when an origin asks for less, nobody is sent to it; a node that fails by itself stops nobody', async (t) => {
  const coordinator = setUp(t, 8)
  const nodes = channels(4)
  for (const node of nodes) coordinator.receive(node, join(blob('a'), 64))
  await turn()
  const [first, second] = nodes.filter(({ sent }) => sent.some(({ type }) => type === 'lease-grant'))
  const [own] = first!.take('lease-grant')
  coordinator.receive(first!, done(own!, { fetched: [], failed: true, originBackoffMs: 0 }))
  for (const node of nodes) coordinator.receive(node, progress(blob('a'), 2))
  await turn()
  assert.equal(liveLeases(coordinator, 'origin.test'), 4)
  const [limited] = second!.take('lease-grant')
  coordinator.receive(second!, done(limited!, { fetched: [], failed: true, originBackoffMs: 60_000 }))
  for (const node of nodes) coordinator.receive(node, progress(blob('a'), 2))
  await turn()
  assert.equal(liveLeases(coordinator, 'origin.test'), 3)
})

test('a pause of the origin is believed only of a member that has not brought what its lease was for', async (t) => {
  const coordinator = setUp(t, 1)
  const [one, two] = channels(2) as [FakeChannel, FakeChannel]
  for (const node of [one, two]) coordinator.receive(node, join(blob('a'), 64))
  await turn()
  const holder = [one, two].find(({ sent }) => sent.some(({ type }) => type === 'lease-grant'))!
  coordinator.receive(holder, done(holder.take('lease-grant')[0]!, { originBackoffMs: 60_000 }))
  await turn()
  assert.equal(liveLeases(coordinator, 'origin.test'), 1)
})

function progress(digest: Digest, leaseCredit: number) {
  return { type: 'tracker-progress', digest, chunks: new Uint8Array(), complete: false, leaseCredit } as const
}

test('a node that is gone leaves all its swarms, unless it has come back over another channel', async (t) => {
  const coordinator = setUp(t, 8)
  const old = new FakeChannel('peer')
  const fresh = new FakeChannel('peer')
  coordinator.receive(old, join(blob('a'), 4))
  coordinator.receive(old, join(blob('b'), 4))
  coordinator.receive(fresh, join(blob('b'), 4))
  coordinator.left(old)
  assert.equal(coordinator.swarms.largest(blob('a'))?.members.size, 0)
  assert.equal(coordinator.swarms.largest(blob('b'))?.members.size, 1)
})

test('who names another size has a swarm of its own; who asks for a size is told that of the larger one', (t) => {
  const coordinator = setUp(t, 8)
  const [one, two] = channels(2) as [FakeChannel, FakeChannel]
  coordinator.receive(one, join(blob('a'), 4))
  coordinator.receive(two, join(blob('a'), 5))
  assert.equal(coordinator.swarms.size, 2)
  assert.equal(coordinator.swarms.largest(blob('a'))?.members.size, 1)
  coordinator.receive(two, join(blob('unknown size'), 0))
  assert.equal(coordinator.swarms.largest(blob('unknown size')), undefined)
})

test('a peer that two nodes report is named to nobody', (t) => {
  const coordinator = setUp(t, 8)
  const [liar, one, two, asker] = channels(4) as [FakeChannel, FakeChannel, FakeChannel, FakeChannel]
  for (const node of [liar, one, two]) coordinator.receive(node, join(blob('a'), 4))
  const report = { type: 'peer-report', digest: blob('a'), peerId: liar.peerId, reason: 'lies' } as const
  const named = () => {
    coordinator.receive(asker, join(blob('a'), 4))
    return asker.take('tracker-peers')[0]?.peers.map(({ peerId }) => peerId)
  }
  coordinator.receive(one, report)
  coordinator.receive(one, report)
  assert.ok(named()?.includes(liar.peerId), 'the word of one is not enough')
  coordinator.receive(two, report)
  assert.deepEqual(named()?.sort(), [one.peerId, two.peerId])
})

test('messages about blobs that nobody joined, and of other kinds, change nothing', async (t) => {
  const coordinator = setUp(t, 8)
  const [one] = channels(1) as [FakeChannel]
  const digest = blob('a')
  const messages: ControlMessage[] = [
    { type: 'tracker-leave', digest },
    progress(digest, 3),
    { type: 'tracker-peers-wanted', digest, exclude: [] },
    { type: 'lease-progress', digest, leaseId: 1, receivedBytes: 5 },
    { type: 'lease-done', digest, leaseId: 1, fetched: [1, 2], failed: false, originBackoffMs: 0 },
    { type: 'swarm-leave', digest },
  ]
  for (const message of messages) coordinator.receive(one, message)
  await turn()
  assert.deepEqual(one.sent, [])
  assert.equal(coordinator.swarms.size, 0)
})

// ---- properties -------------------------------------------------------------------------------------------------

const PEERS = 4
const BLOBS = 2
const event = fc.oneof(
  fc.record({
    kind: fc.constant('join' as const),
    peer: fc.nat(PEERS - 1),
    blob: fc.nat(BLOBS - 1),
    fits: fc.boolean(),
  }),
  fc.record({
    kind: fc.constant('rejoin' as const),
    peer: fc.nat(PEERS - 1),
    blob: fc.nat(BLOBS - 1),
    fits: fc.boolean(),
  }),
  fc.record({ kind: fc.constant('left' as const), peer: fc.nat(PEERS - 1) }),
  fc.record({ kind: fc.constant('leave' as const), peer: fc.nat(PEERS - 1), blob: fc.nat(BLOBS - 1) }),
  fc.record({ kind: fc.constant('done' as const), peer: fc.nat(PEERS - 1), failed: fc.boolean(), twice: fc.boolean() }),
)

test('whatever nodes say and in whatever order, no lease is lost count of', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(event, { maxLength: 40 }), async (events) => {
      const limit = 3
      const coordinator = setUp(undefined, limit)
      try {
        let nodes = channels(PEERS)
        const tell = (node: FakeChannel, message: ControlMessage) => {
          try {
            coordinator.receive(node, message)
          } catch (error) {
            // As a channel does: a message that does not fit is logged.
            assert.ok(error instanceof InvalidMessageError)
          }
        }
        for (const step of events) {
          const node = nodes[step.peer]!
          if (step.kind === 'join' || step.kind === 'rejoin') {
            if (step.kind === 'rejoin') nodes = nodes.with(step.peer, new FakeChannel(node.peerId))
            const chunks = step.fits ? {} : { chunks: new Uint8Array(77) }
            tell(nodes[step.peer]!, join(blob(`blob ${step.blob}`), 12, 'origin.test', chunks))
            // The end of the old channel is noticed after the new one was used.
            if (step.kind === 'rejoin') coordinator.left(node)
          } else if (step.kind === 'left') coordinator.left(node)
          else if (step.kind === 'leave') tell(node, { type: 'tracker-leave', digest: blob(`blob ${step.blob}`) })
          else {
            for (const grant of node.take('lease-grant')) {
              const message = done(grant, step.failed ? { fetched: [], failed: true } : {})
              tell(node, message)
              if (step.twice) tell(node, message)
            }
          }
          await turn()
          assert.ok(liveLeases(coordinator, 'origin.test') <= limit)
        }
        for (const node of nodes) coordinator.left(node)
        assert.equal(liveLeases(coordinator, 'origin.test'), 0)
        // All of the origin is free again.
        for (const node of channels(10, 'new')) tell(node, join(blob('new'), 100))
        await turn()
        assert.equal(liveLeases(coordinator, 'origin.test'), limit)
      } finally {
        coordinator.close()
      }
    }),
    { numRuns: 150 },
  )
})
