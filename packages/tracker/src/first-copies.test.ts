// Members that fetch under leases and give nobody what they have fetched.
import assert from 'node:assert/strict'
import test from 'node:test'
import { digestOf } from '@shoal/oci'
import { ChunkMap } from '@shoal/store'
import { DEFAULT_PARAMETERS } from '@shoal/swarm'
import { FakeChannel } from '@shoal/swarm/testing'
import { LapsedMembers } from './lapsed-members.ts'
import type { Lease } from './member.ts'
import { RescuedMembers } from './rescued-members.ts'
import { TrackedSwarm } from './tracked-swarm.ts'

const CHUNK = 256 * 1024
const DIGEST = digestOf('blob')
/** What a chunk takes from the origin, in milliseconds. */
const USUAL_MS = 100

/** All of a lease was brought. */
function done(swarm: TrackedSwarm, lease: Lease, nowMs: number): void {
  const fetched = Array.from({ length: lease.count }, (_, at) => lease.first + at)
  const outcome = { fetched, failed: false, originBackoffMs: 0 }
  const { peerId } = lease.member.channel
  swarm.leaseDone({ type: 'lease-done', digest: DIGEST, leaseId: lease.id, ...outcome }, peerId, nowMs)
}

function join(
  swarm: TrackedSwarm,
  name: string,
  nowMs: number,
  more: { leaseCredit?: number; complete?: boolean } = {},
): void {
  const { digest, originHost, sizeBytes } = swarm
  const has = { chunks: new Uint8Array(), complete: false, leaseCredit: 1, ...more }
  swarm.join(new FakeChannel(name), { type: 'tracker-join', digest, sizeBytes, originHost, ...has }, nowMs)
}

/** A swarm in which leases are brought one after the other, and what honest members bring spreads at once. */
function rolloutWith(names: readonly string[], withheld: string[]) {
  // So few that each lease is for one chunk.
  const chunks = 8 * names.length - 1
  const swarm = new TrackedSwarm({
    digest: DIGEST,
    sizeBytes: chunks * CHUNK,
    originHost: 'origin.test',
    parameters: DEFAULT_PARAMETERS,
    leaseIdleMs: 60_000,
    random: () => 0,
    rescued: new RescuedMembers(),
    lapsed: new LapsedMembers(),
    onWithheld: (peerId) => withheld.push(peerId),
  })
  const maps = new Map(names.map((name) => [name, new ChunkMap(chunks)]))
  for (const name of names) join(swarm, name, 0)
  let id = 0
  const tell = (name: string, nowMs: number): void => {
    const told = { type: 'tracker-progress', digest: DIGEST, chunks: maps.get(name)!.toBytes() } as const
    swarm.progress(name, { ...told, complete: false, leaseCredit: 1 }, nowMs)
  }
  /** Grants and brings one lease; a liar's chunks stay with it. Returns who had it. */
  const bring = (nowMs: number): { name: string; chunk: number } | undefined => {
    const lease = swarm.grant(++id, USUAL_MS, nowMs)
    if (lease === undefined) return undefined
    const name = lease.member.channel.peerId
    done(swarm, lease, nowMs)
    maps.get(name)!.add(lease.first)
    tell(name, nowMs)
    for (const other of names) {
      if (other === name || name === 'liar') continue
      maps.get(other)!.add(lease.first)
      tell(other, nowMs + 50)
    }
    return { name, chunk: lease.first }
  }
  return { swarm, maps, tell, bring }
}

test('who gives nobody what it fetches is not counted on: others fetch it, and it gets no lease any more', () => {
  const withheld: string[] = []
  const { swarm, bring } = rolloutWith(['liar', 'one', 'two', 'three'], withheld)
  let kept = 0
  let nowMs = 0
  for (; withheld.length === 0; nowMs += 100) {
    assert.ok(nowMs < 5000, 'it is counted on for ever')
    if (bring(nowMs)?.name === 'liar') kept++
    swarm.expire(nowMs, USUAL_MS)
  }
  assert.deepEqual(withheld, ['liar'])
  assert.ok(kept >= 3)
  for (let brought = bring(nowMs); brought !== undefined; brought = bring((nowMs += 100))) {
    assert.notEqual(brought.name, 'liar')
    swarm.expire(nowMs, USUAL_MS)
  }
  assert.equal(swarm.coveredChunks, swarm.chunkCount)
  assert.deepEqual(withheld, ['liar'])
})

test('where nothing that anybody brings spreads, nobody is held for withholding it', () => {
  const withheld: string[] = []
  const { swarm, bring } = rolloutWith(['liar'], withheld)
  join(swarm, 'other', 0, { leaseCredit: 0 })
  for (let nowMs = 0; nowMs < 10_000; nowMs += 100) {
    bring(nowMs)
    swarm.expire(nowMs, USUAL_MS)
  }
  assert.deepEqual(withheld, [])
})

test('who was held for withholding is counted on again when a chunk of it spreads, not when another has to fetch it', () => {
  const withheld: string[] = []
  const { swarm, maps, tell, bring } = rolloutWith(['liar', 'one', 'two', 'three'], withheld)
  const kept: number[] = []
  let nowMs = 0
  for (; withheld.length === 0; nowMs += 100) {
    const brought = bring(nowMs)
    if (brought?.name === 'liar') kept.push(brought.chunk)
    swarm.expire(nowMs, USUAL_MS)
  }
  const isCounted = () => !swarm.members.get('liar')!.discredited
  const again = bring(nowMs)
  assert.ok(again !== undefined && kept.includes(again.chunk), 'the first that is free is one that only the liar has')
  assert.ok(!isCounted())
  const rest = kept.filter((chunk) => chunk !== again.chunk)
  maps.get('one')!.add(rest[0]!)
  tell('one', nowMs)
  assert.ok(isCounted())
  tell('liar', nowMs)
  for (const chunk of kept) assert.ok(swarm.members.get('liar')!.chunks.has(chunk))
  while (bring((nowMs += 100)) !== undefined) swarm.expire(nowMs, USUAL_MS)
  assert.equal(swarm.coveredChunks, swarm.chunkCount)
})

test('what a member fetches that others have already, because they do not serve it, is not withheld by it', () => {
  const withheld: string[] = []
  const { swarm, bring } = rolloutWith(['one', 'two', 'three'], withheld)
  let nowMs = 0
  for (; bring(nowMs) !== undefined; nowMs += 100) swarm.expire(nowMs, USUAL_MS)
  // Of those that have everything no single chunk is known.
  for (const name of ['one', 'two', 'three']) swarm.leave(name, nowMs)
  for (const name of ['four', 'five']) join(swarm, name, nowMs, { complete: true })
  join(swarm, 'refused', nowMs)
  for (let id = 1000; id < 1100; id++) {
    swarm.starved(swarm.members.get('refused')!, nowMs)
    const lease = swarm.grant(id, USUAL_MS, nowMs)
    if (lease !== undefined) {
      assert.equal(lease.kind, 'rescue')
      done(swarm, lease, nowMs)
    }
    swarm.expire(nowMs, USUAL_MS)
    nowMs += 500
  }
  assert.ok(swarm.members.get('refused')!.chunksTold >= 3)
  assert.deepEqual(withheld, [])
})
