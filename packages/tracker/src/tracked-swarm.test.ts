import assert from 'node:assert/strict'
import test from 'node:test'
import { InvalidMessageError } from '@shoal/network'
import { digestOf } from '@shoal/oci'
import { ChunkMap } from '@shoal/store'
import { DEFAULT_PARAMETERS } from '@shoal/swarm'
import fc from 'fast-check'
import { FakeChannel } from '@shoal/swarm/testing'
import { Member, type Lease } from './member.ts'
import { LapsedMembers } from './lapsed-members.ts'
import { RescuedMembers } from './rescued-members.ts'
import { TrackedSwarm } from './tracked-swarm.ts'

const CHUNK = 256 * 1024
const digest = digestOf('blob')
const LEASE_IDLE_MS = 2000

function setUp(chunkCount: number, originHost = 'origin.test', rescued = new RescuedMembers()) {
  let seed = 1
  const swarm = new TrackedSwarm({
    digest,
    sizeBytes: chunkCount * CHUNK,
    originHost,
    parameters: DEFAULT_PARAMETERS,
    leaseIdleMs: LEASE_IDLE_MS,
    rescued,
    lapsed: new LapsedMembers(),
    random: () => (seed = (seed * 16807) % 2147483647) / 2147483647,
  })
  const channels = Array.from({ length: 6 }, (_, at) => new FakeChannel(`peer${at}`))
  let leaseId = 0
  return {
    swarm,
    channels: channels as [FakeChannel, FakeChannel, FakeChannel],
    join: (at: number, chunks: number[] = [], nowMs = 0, more: { complete?: boolean; leaseCredit?: number } = {}) =>
      swarm.join(channels[at]!, joinMessage(chunkCount, chunks, more), nowMs),
    grant: (nowMs = 0, usualMs = 0): Lease | undefined => swarm.grant(++leaseId, usualMs, nowMs),
  }
}

function mapOf(chunkCount: number, chunks: Iterable<number>): Uint8Array {
  const map = new ChunkMap(chunkCount)
  for (const chunk of chunks) map.add(chunk)
  return map.toBytes()
}

function joinMessage(
  chunkCount: number,
  chunks: Iterable<number>,
  more: { complete?: boolean; leaseCredit?: number } = {},
) {
  const map = mapOf(chunkCount, chunks)
  const sizeBytes = chunkCount * CHUNK
  const base = { type: 'tracker-join', digest, sizeBytes, originHost: 'origin.test', chunks: map } as const
  return { ...base, complete: false, leaseCredit: 2, ...more }
}

function progressMessage(chunkCount: number, chunks: Iterable<number>, leaseCredit = 2) {
  return { type: 'tracker-progress', digest, chunks: mapOf(chunkCount, chunks), complete: false, leaseCredit } as const
}

function done(lease: Lease, fetched: number[], failed = false) {
  return { type: 'lease-done', digest, leaseId: lease.id, fetched, failed, originBackoffMs: 0 } as const
}

const chunksOf = ({ first, count }: Lease) => Array.from({ length: count }, (_, at) => first + at)

test('chunks that a member has are not leased', () => {
  const { join, grant } = setUp(4)
  join(0, [0, 1, 3])
  join(1)
  const lease = grant()
  assert.deepEqual(lease && chunksOf(lease), [2])
  assert.equal(grant(), undefined)
})

test('a complete member ends the leases, and its leaving begins them again', () => {
  const { swarm, join, grant } = setUp(4)
  join(0, [], 0, { complete: true, leaseCredit: 0 })
  join(1)
  assert.equal(swarm.coveredChunks, 4)
  assert.equal(grant(), undefined)
  swarm.leave('peer0', 0)
  assert.equal(swarm.coveredChunks, 0)
  assert.ok(grant())
})

test('a member that leaves gives its leases and its chunks back', () => {
  const { swarm, join, grant } = setUp(2)
  join(0, [0])
  const lease = grant()!
  assert.deepEqual(chunksOf(lease), [1])
  join(1)
  swarm.leave('peer0', 5)
  assert.equal(swarm.leases.size, 0)
  const again: number[] = []
  for (let next = grant(); next !== undefined; next = grant()) again.push(...chunksOf(next))
  assert.deepEqual(again.sort(), [0, 1])
})

test('a lease without progress is taken away, one with progress stays', () => {
  const { swarm, join, grant } = setUp(64)
  for (const at of [0, 1]) join(at)
  const [one, two] = [grant()!, grant()!]
  assert.notEqual(one.member, two.member)
  // Before the first byte there is three times the time.
  assert.equal(swarm.expire(3 * LEASE_IDLE_MS), 0)
  swarm.leaseProgress(one.id, one.member.channel.peerId, 10, 3 * LEASE_IDLE_MS)
  assert.equal(swarm.expire(3 * LEASE_IDLE_MS + 1), 1)
  assert.deepEqual([...swarm.leases.keys()], [one.id])
  // The same number of bytes is no progress.
  swarm.leaseProgress(one.id, one.member.channel.peerId, 10, 4 * LEASE_IDLE_MS)
  assert.equal(swarm.expire(4 * LEASE_IDLE_MS + 1), 1)
})

test('who lost a lease by silence gets another one after it has told of itself', () => {
  const { swarm, join, grant } = setUp(4)
  join(0)
  grant()
  swarm.expire(1e6)
  assert.equal(grant(1e6), undefined)
  swarm.progress('peer0', progressMessage(4, []), 1e6)
  assert.ok(grant(1e6))
})

test('progress and results of somebody else are not believed', () => {
  const { swarm, join, grant } = setUp(8)
  join(0)
  join(1, [], 0, { leaseCredit: 0 })
  const lease = grant()!
  swarm.leaseProgress(lease.id, 'peer1', 100, 5000)
  assert.equal(lease.newsMs, 0)
  assert.equal(swarm.leaseDone(done(lease, []), 'peer1', 5000), undefined)
  assert.equal(swarm.leases.size, 1)
})

test('what a lease that was taken away brings late is covered all the same', () => {
  const { swarm, join, grant } = setUp(1)
  join(0)
  const lease = grant()!
  swarm.expire(1e6)
  assert.equal(swarm.leaseDone(done(lease, [0]), 'peer0', 1e6), undefined)
  assert.equal(swarm.coveredChunks, 1)
})

test('a member over a new channel loses what it held over the old one', () => {
  const { swarm, join, grant, channels } = setUp(4)
  join(0, [0, 1])
  grant()
  const again = new FakeChannel(channels[0].peerId)
  swarm.join(again, joinMessage(4, [0]), 0)
  assert.equal(swarm.leases.size, 0)
  assert.equal(swarm.coveredChunks, 1)
  assert.equal(swarm.members.get('peer0')?.channel, again)
})

test('without a known origin there is nothing to lease', () => {
  const { swarm, channels, grant } = setUp(4, '')
  swarm.join(channels[0], { ...joinMessage(4, []), originHost: '' }, 0)
  assert.equal(grant(), undefined)
  swarm.join(channels[1], joinMessage(4, []), 0)
  assert.ok(grant())
})

test('a chunk map that does not fit is refused and changes nothing that counts', () => {
  const { swarm, channels } = setUp(9)
  const bad = { ...joinMessage(9, []), chunks: new Uint8Array(5) }
  assert.throws(() => swarm.join(channels[0], bad, 0), InvalidMessageError)
  assert.equal(swarm.members.size, 0)
  const past = { ...joinMessage(9, []), chunks: new Uint8Array([0, 0xff]) }
  assert.throws(() => swarm.join(channels[0], past, 0), InvalidMessageError)
  assert.equal(swarm.coveredChunks, 0)
})

test('a member that is starved for long fetches a chunk that the books have, one at a time', () => {
  const { swarm, join, grant } = setUp(2)
  join(0, [0, 1], 0, { leaseCredit: 0 })
  const member = join(1)
  assert.equal(grant(0), undefined)
  let now = 0
  let lease: Lease | undefined
  while (lease === undefined && now < 60_000) {
    now += 500
    swarm.starved(member, now)
    lease = grant(now)
  }
  assert.equal(lease?.kind, 'rescue')
  assert.equal(lease.member, member)
  assert.equal(lease.count, 1)
  assert.ok(now >= 2000, 'not before it was starved for two seconds')
  assert.equal(grant(now), undefined)
})

test('a member to whom nobody gives anything has the whole blob from the origin in seconds, not in minutes', () => {
  const { swarm, join, grant } = setUp(32)
  join(0, [...Array(32).keys()], 0, { leaseCredit: 0 })
  const member = join(1)
  const counts: number[] = []
  let now = 0
  while (member.chunks.count < 32 && now < 120_000) {
    now += 500
    swarm.starved(member, now)
    const lease = grant(now)
    if (lease === undefined) continue
    counts.push(lease.count)
    swarm.leaseDone(done(lease, chunksOf(lease)), 'peer1', now)
  }
  assert.deepEqual(counts, [1, 2, 4, 8, 16, 1])
  assert.ok(now <= 12_000, `after ${now} ms`)
})

test('a member whom the others refused in one swarm waits a second in the next ones, everybody else four', () => {
  const rescued = new RescuedMembers()
  const firstHelp = (at: number): number => {
    const { swarm, join, grant } = setUp(2, 'origin.test', rescued)
    join(0, [0, 1], 0, { leaseCredit: 0 })
    const member = join(at)
    for (let now = 0; now < 60_000; now += 250) {
      swarm.starved(member, now)
      const lease = grant(now)
      if (lease === undefined) continue
      // It gets all from the origin, and the blob is complete.
      swarm.leaseDone(done(lease, chunksOf(lease)), `peer${at}`, now)
      if (member.chunks.count === 2) return now
    }
    return NaN
  }
  const [first, second, third] = [firstHelp(1), firstHelp(1), firstHelp(1)]
  assert.ok(first >= 4000 && second < 1500 && third < 1500, `${first}, ${second}, ${third}`)
  assert.ok(firstHelp(2) >= 4000)
})

test('where a chunk takes seconds, a member that gets none for as long is not helped past the books', () => {
  const { swarm, join, grant } = setUp(32)
  join(0, [...Array(32).keys()], 0, { leaseCredit: 0 })
  join(1)
  const usualMs = 3000
  const granted: number[] = []
  for (let now = 0; now <= 60_000; now += 500) {
    const member = swarm.members.get('peer1')!
    swarm.starved(member, now)
    const lease = grant(now, usualMs)
    if (lease === undefined) continue
    granted.push(now)
    swarm.leaseDone(done(lease, chunksOf(lease)), 'peer1', now)
  }
  assert.ok(granted[0]! >= 4 * usualMs)
  for (let at = 1; at < granted.length; at++) assert.ok(granted[at]! - granted[at - 1]! >= usualMs)
})

test('a member whose word does not count is given what it lacks, and never the same twice', () => {
  const { swarm, join, grant } = setUp(32)
  const all = [...Array(32).keys()]
  join(0, all, 0, { leaseCredit: 0 })
  const member = join(1, [0, 1, 2])
  assert.ok(swarm.complaint('peer0', 'peer1', 1))
  assert.equal(swarm.coveredChunks, 32)
  swarm.leave('peer0', 0)
  // What only it has counts as missing.
  assert.equal(swarm.coveredChunks, 0)
  join(2, [], 0, { complete: true, leaseCredit: 0 })
  swarm.progress('peer1', progressMessage(32, [0, 1, 2]), 0)
  const got: number[] = []
  for (let now = 0; member.chunks.count < 32 && now < 120_000; now += 500) {
    swarm.starved(member, now)
    const lease = grant(now)
    if (lease === undefined) continue
    got.push(...chunksOf(lease))
    swarm.leaseDone(done(lease, chunksOf(lease)), 'peer1', now)
  }
  assert.deepEqual(got, all.slice(3))
  swarm.leave('peer2', 0)
  assert.equal(swarm.coveredChunks, 0)
  swarm.leave('peer1', 0)
  assert.equal(swarm.coveredChunks, 0)
})

test('neighbours are named evenly, never the asker, the excluded or the gone', () => {
  const { swarm, join, channels } = setUp(4)
  for (const at of [0, 1, 2, 3, 4, 5]) join(at)
  channels[2].isOpen = false
  const asker = swarm.members.get('peer0')!
  const named = swarm.introduce(asker, new Set(['peer1']), 10).map(({ peerId }) => peerId)
  assert.deepEqual(named.sort(), ['peer3', 'peer4', 'peer5'])
})

// ---- properties -------------------------------------------------------------------------------------------------

const CHUNKS = 20
const PEERS = 6
const event = fc.oneof(
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('join' as const),
      peer: fc.nat(PEERS - 1),
      chunks: fc.uniqueArray(fc.nat(CHUNKS - 1)),
      complete: fc.boolean(),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('progress' as const),
      peer: fc.nat(PEERS - 1),
      chunks: fc.uniqueArray(fc.nat(CHUNKS - 1)),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('leave' as const), peer: fc.nat(PEERS - 1) }) },
  { weight: 8, arbitrary: fc.record({ kind: fc.constant('grant' as const), usualMs: fc.constantFrom(0, 300) }) },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant('done' as const), which: fc.nat(100), success: fc.boolean() }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('starved' as const), peer: fc.nat(PEERS - 1) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('expire' as const), ms: fc.nat(10_000) }) },
)

test('no chunk ever has two leases but where the first is late, none that is there has a regular one, and every chunk is leased in the end', () => {
  fc.assert(
    fc.property(fc.array(event, { maxLength: 60 }), (events) => {
      const { swarm, join, grant } = setUp(CHUNKS)
      let now = 0
      const granted: Lease[] = []
      const check = (lease: Lease | undefined) => {
        if (lease === undefined) return
        granted.push(lease)
        for (const kinds of [
          ['regular', 'rescue'],
          ['second', 'rescue'],
        ]) {
          const held = [...swarm.leases.values()].filter(({ kind }) => kinds.includes(kind)).flatMap(chunksOf)
          assert.equal(new Set(held).size, held.length, 'two live leases for one chunk')
        }
        if (lease.kind === 'second') {
          const regular = [...swarm.leases.values()].filter(({ kind }) => kind === 'regular')
          const first = regular.find((other) => chunksOf(other).includes(lease.first))
          assert.ok(first === undefined || now - first.grantedMs > DEFAULT_PARAMETERS.lateLeaseMinMs)
          assert.notEqual(first?.member, lease.member)
        }
        for (const chunk of lease.kind === 'rescue' ? [] : chunksOf(lease)) {
          for (const member of swarm.members.values()) {
            assert.ok(!member.complete && !member.chunks.has(chunk), 'a chunk that is there was leased')
          }
        }
      }
      for (const step of events) {
        now += 100
        const peerId = 'peer' in step ? `peer${step.peer}` : ''
        if (step.kind === 'join') join(step.peer, step.chunks, now, { complete: step.complete })
        else if (step.kind === 'progress') swarm.progress(peerId, progressMessage(CHUNKS, step.chunks), now)
        else if (step.kind === 'leave') swarm.leave(peerId, now)
        else if (step.kind === 'grant') check(grant(now, step.usualMs))
        else if (step.kind === 'starved') {
          const member = swarm.members.get(peerId)
          if (member !== undefined) swarm.starved(member, now)
        } else if (step.kind === 'expire') {
          now += step.ms
          swarm.expire(now, 300)
        } else if (granted.length > 0) {
          const lease = granted[step.which % granted.length]!
          swarm.leaseDone(
            done(lease, step.success ? chunksOf(lease) : [], !step.success),
            lease.member.channel.peerId,
            now,
          )
        }
        for (const member of swarm.members.values()) {
          const held = [...swarm.leases.values()].filter((lease) => lease.member === member).length
          assert.equal(member.held, held)
        }
        const complete = [...swarm.members.values()].filter((member) => member.complete).length
        assert.equal(swarm.completeMembers, complete)
      }
      // Whatever has happened: one member that is alive and able gets the whole blob leased.
      now += 1e6
      swarm.expire(now)
      for (let peer = 0; peer < PEERS; peer++) swarm.leave(`peer${peer}`, now)
      assert.equal(swarm.leases.size, 0)
      assert.equal(swarm.coveredChunks, 0)
      join(0, [], now)
      const got: number[] = []
      for (let lease = grant(now); lease !== undefined; lease = grant(now)) {
        got.push(...chunksOf(lease))
        swarm.leaseDone(done(lease, chunksOf(lease)), 'peer0', now)
      }
      assert.deepEqual(
        got.sort((a, b) => a - b),
        Array.from({ length: CHUNKS }, (_, at) => at),
      )
    }),
    { numRuns: 300 },
  )
})

test('a member that has the whole blob costs no map of its chunks, coming or going', (t) => {
  const { swarm, join, grant } = setUp(4)
  const read = t.mock.getter(Member.prototype, 'chunks')
  join(0, [], 0, { complete: true, leaseCredit: 0 })
  join(1, [], 0, { complete: true, leaseCredit: 0 })
  swarm.leave('peer0', 0)
  assert.equal(read.mock.callCount(), 0)
  swarm.leave('peer1', 0)
  assert.equal(read.mock.callCount(), 0)
  join(2)
  assert.ok(grant())
})
