// Which member brings which chunk into its zone, by the books of one blob.
import assert from 'node:assert/strict'
import test from 'node:test'
import { digestOf } from '@shoal/oci'
import { ChunkMap } from '@shoal/store'
import { DEFAULT_PARAMETERS } from '@shoal/swarm'
import fc from 'fast-check'
import { FakeChannel } from '@shoal/swarm/testing'
import type { ZoneLease } from './member.ts'
import { LapsedMembers } from './lapsed-members.ts'
import { RescuedMembers } from './rescued-members.ts'
import { TrackedSwarm } from './tracked-swarm.ts'

const CHUNK = 256 * 1024
const CHUNKS = 12
const PEERS = 6
const digest = digestOf('blob')
const LEASE_IDLE_MS = 2000

function setUp() {
  let seed = 1
  const swarm = new TrackedSwarm({
    digest,
    sizeBytes: CHUNKS * CHUNK,
    originHost: 'origin.test',
    parameters: DEFAULT_PARAMETERS,
    leaseIdleMs: LEASE_IDLE_MS,
    rescued: new RescuedMembers(),
    lapsed: new LapsedMembers(),
    random: () => (seed = (seed * 16807) % 2147483647) / 2147483647,
  })
  const channels = Array.from({ length: PEERS }, (_, at) => new FakeChannel(`peer${at}`, `zone${at % 3}`))
  let leaseId = 0
  return {
    swarm,
    join: (at: number, chunks: number[] = [], nowMs = 0, complete = false) => {
      const map = new ChunkMap(CHUNKS)
      for (const chunk of chunks) map.add(chunk)
      const sizeBytes = CHUNKS * CHUNK
      const message = { type: 'tracker-join', digest, sizeBytes, originHost: 'origin.test', leaseCredit: 2 } as const
      swarm.join(channels[at]!, { ...message, chunks: map.toBytes(), complete }, nowMs)
    },
    grant: (nowMs = 0): ZoneLease | undefined => swarm.grantAcross(++leaseId, nowMs),
    origin: (nowMs = 0) => swarm.grant(++leaseId, 0, nowMs),
    done: (lease: ZoneLease, isThere: boolean, nowMs = 0) =>
      swarm.leaseDone(
        {
          type: 'lease-done',
          digest,
          leaseId: lease.id,
          fetched: isThere ? [lease.chunk] : [],
          failed: !isThere,
          originBackoffMs: 0,
        },
        lease.member.channel.peerId,
        nowMs,
      ),
  }
}

function all<T>(grant: () => T | undefined): T[] {
  const granted: T[] = []
  for (let lease = grant(); lease !== undefined; lease = grant()) granted.push(lease)
  return granted
}

test('what one zone has is brought into each other zone once, by its members in turn', () => {
  const { swarm, join, grant, done } = setUp()
  join(0, [], 0, true)
  assert.deepEqual(all(grant), [], 'there is only one zone')
  join(1)
  join(4)
  const brought: ZoneLease[] = []
  for (let round = all(grant); round.length > 0; round = all(grant)) {
    for (const lease of round) {
      assert.equal(lease.source.channel.peerId, 'peer0')
      done(lease, true)
      brought.push(lease)
    }
  }
  const chunks = brought.map(({ chunk }) => chunk).sort((a, b) => a - b)
  assert.deepEqual(
    chunks,
    Array.from({ length: CHUNKS }, (_, at) => at),
  )
  for (const peer of ['peer1', 'peer4'])
    assert.equal(brought.filter(({ member }) => member.channel.peerId === peer).length, CHUNKS / 2)
  assert.equal(swarm.wantsZoneLeases, false)
})

test('what a zone is fetching from the origin does not cross as well, until that has failed', () => {
  const { swarm, join, grant, origin } = setUp()
  join(0)
  join(1)
  const [first] = all(origin)
  assert.ok(first !== undefined)
  const chunk = first.first
  const own = first.member.channel.peerId === 'peer0' ? 0 : 1
  // The other zone gets the chunk by another way.
  join(1 - own, [chunk])
  assert.deepEqual(all(grant), [])
  swarm.leaseDone(
    { type: 'lease-done', digest, leaseId: first.id, fetched: [], originBackoffMs: 0, failed: true },
    `peer${own}`,
    0,
  )
  assert.deepEqual(
    all(grant).map((lease) => [lease.member.channel.peerId, lease.chunk]),
    [[`peer${own}`, chunk]],
  )
})

test('who fails to bring or to give has a rest; a lease without news lapses', () => {
  const { swarm, join, grant, done } = setUp()
  join(0, [3])
  join(1)
  const [failing] = all(grant)
  done(failing!, false)
  assert.deepEqual(all(grant), [])
  assert.equal(swarm.wantsZoneLeases, true)
  const [silent] = all(() => grant(1000))
  assert.equal(silent?.chunk, 3)
  swarm.leaseProgress(silent.id, 'peer1', 10, 6000)
  swarm.expire(8000)
  assert.equal(swarm.zoneLeases.size, 1)
  swarm.expire(8001)
  assert.equal(swarm.zoneLeases.size, 0)
  assert.equal(all(() => grant(9001)).length, 1)
})

const event = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('join' as const),
      peer: fc.nat(PEERS - 1),
      chunks: fc.array(fc.nat(CHUNKS - 1), { maxLength: CHUNKS }),
      complete: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('leave' as const), peer: fc.nat(PEERS - 1) }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('grant' as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('origin' as const) }) },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant('done' as const), which: fc.nat(100), success: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('expire' as const), ms: fc.nat(10_000) }) },
)

test('no chunk is ever on its way into a zone twice, or into one that has it, and in the end each zone has all', () => {
  fc.assert(
    fc.property(fc.array(event, { maxLength: 60 }), (events) => {
      const { swarm, join, grant, origin, done } = setUp()
      let now = 0
      const granted: ZoneLease[] = []
      const check = (lease: ZoneLease) => {
        const { zone } = lease.member
        granted.push(lease)
        const same = [...swarm.zoneLeases.values()].filter((one) => one.chunk === lease.chunk)
        assert.equal(same.filter(({ member }) => member.zone === zone).length, 1)
        assert.ok(lease.source.zone !== zone && (lease.source.complete || lease.source.chunks.has(lease.chunk)))
        for (const member of swarm.members.values()) {
          if (member.zone === zone) assert.ok(!member.complete && !member.chunks.has(lease.chunk))
        }
      }
      for (const step of events) {
        now += 100
        if (step.kind === 'join') join(step.peer, step.chunks, now, step.complete)
        else if (step.kind === 'leave') swarm.leave(`peer${step.peer}`, now)
        else if (step.kind === 'origin') origin(now)
        else if (step.kind === 'expire') swarm.expire((now += step.ms))
        else if (step.kind === 'grant') {
          const lease = grant(now)
          if (lease !== undefined) check(lease)
        } else if (granted.length > 0) done(granted[step.which % granted.length]!, step.success, now)
        for (const member of swarm.members.values()) {
          const live = [...swarm.zoneLeases.values()]
          assert.equal(member.bringing, live.filter((lease) => lease.member === member).length)
          assert.equal(member.crossings, live.filter(({ source }) => source === member).length)
        }
      }
      // Whatever has happened: with one that has all, everything comes into every zone that wants it.
      now += 1e6
      swarm.expire(now)
      join(0, [], now, true)
      for (const peer of [1, 2, 4]) join(peer, [], now)
      now += 1e6
      for (let round = all(() => grant(now)); round.length > 0; round = all(() => grant(now))) {
        for (const lease of round) done(lease, true, now)
      }
      assert.equal(swarm.wantsZoneLeases, false)
      assert.equal(swarm.zoneLeases.size, 0)
    }),
    { numRuns: 200 },
  )
})
