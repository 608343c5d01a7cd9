// Members that use what the tracker believes of them: leases that are never used, blobs that do not exist, chunks that
// nobody has, tags that nobody asked about. Each was a hole once.
import assert from 'node:assert/strict'
import { setImmediate as turn } from 'node:timers/promises'
import test, { type TestContext } from 'node:test'
import { InvalidMessageError } from '@shoal/network'
import { digestOf, type Digest } from '@shoal/oci'
import { MAX_BLOB_BYTES } from '@shoal/store'
import { DEFAULT_PARAMETERS } from '@shoal/swarm'
import { FakeChannel, until } from '@shoal/swarm/testing'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { Coordinator } from './coordinator.ts'
import { createTrackerMetrics } from './metrics.ts'
import { TagTable } from './tag-table.ts'
import type { Lease } from './member.ts'
import { LapsedMembers } from './lapsed-members.ts'
import { RescuedMembers } from './rescued-members.ts'
import { TrackedSwarm, type TrackedSwarmOptions } from './tracked-swarm.ts'

const CHUNK = 256 * 1024
const DIGEST: Digest = digestOf('blob')

function setUp(t: TestContext, leaseIdleMs = 60_000) {
  const registry = new Registry()
  const metrics = createTrackerMetrics(registry, { swarms: () => 0, nodes: () => 0, members: () => 0 })
  const logger = pino({ level: 'silent' })
  const coordinator = new Coordinator({ originConcurrency: 8, leaseIdleMs, tagTtlMs: 1000, logger, metrics })
  t.after(() => coordinator.close())
  return { coordinator, registry }
}

function join(digest: Digest, sizeBytes: number, more: object = {}) {
  const base = { type: 'tracker-join', digest, sizeBytes, originHost: 'origin.test' } as const
  return { ...base, chunks: new Uint8Array(), complete: false, leaseCredit: 2, ...more }
}

const report = (peerId: string, reason: string) => ({ type: 'peer-report', digest: DIGEST, peerId, reason }) as const
const channel = (name: string) => new FakeChannel(name)

const OPTIONS = { digest: DIGEST, originHost: 'origin.test', parameters: DEFAULT_PARAMETERS, leaseIdleMs: 2000 }

function swarmOf(chunks: number, more: Partial<TrackedSwarmOptions> = {}): TrackedSwarm {
  const books = { rescued: new RescuedMembers(), lapsed: new LapsedMembers() }
  return new TrackedSwarm({ ...OPTIONS, ...books, sizeBytes: chunks * CHUNK, random: () => 0, ...more })
}

test('a blob larger than any store would take costs the tracker nothing', async (t) => {
  const { coordinator, registry } = setUp(t)
  coordinator.receive(channel('liar'), join(DIGEST, Number.MAX_SAFE_INTEGER))
  coordinator.receive(channel('liar'), join(DIGEST, MAX_BLOB_BYTES + 1))
  assert.equal(coordinator.swarms.size, 0)
  assert.match(await registry.metrics(), /^shoal_tracker_refused_total\{reason="too_large"\} 1$/m)
})

test('a node that tells of huge blobs that do not exist is stopped at its share; others are not', async (t) => {
  const { coordinator, registry } = setUp(t)
  const liar = channel('liar')
  for (let blob = 0; blob < 100; blob++) coordinator.receive(liar, join(digestOf(`lie ${blob}`), MAX_BLOB_BYTES))
  assert.equal(coordinator.swarms.size, 4)
  assert.match(await registry.metrics(), /^shoal_tracker_refused_total\{reason="too_many_chunks"\} 1$/m)
  coordinator.receive(channel('honest'), join(DIGEST, 10 * CHUNK))
  assert.notEqual(coordinator.swarms.largest(DIGEST), undefined)
})

test('a million digests of one node: the first twenty thousand are kept', async (t) => {
  const { coordinator, registry } = setUp(t)
  const liar = channel('liar')
  for (let blob = 0; blob < 25_000; blob++) {
    const hex = blob.toString(16).padStart(64, '0')
    coordinator.receive(liar, join(`sha256:${hex}`, CHUNK, { complete: true }))
  }
  assert.equal(coordinator.swarms.size, 20_000)
  assert.match(await registry.metrics(), /^shoal_tracker_refused_total\{reason="too_many_blobs"\} 1$/m)
  // What it leaves it may use again, and a map that does not fit costs it nothing of its share.
  const first: Digest = `sha256:${'0'.repeat(64)}`
  coordinator.receive(liar, { type: 'tracker-leave', digest: first })
  coordinator.receive(channel('honest'), join(DIGEST, 20 * CHUNK))
  const broken = () => coordinator.receive(liar, join(DIGEST, 20 * CHUNK, { chunks: new Uint8Array(1) }))
  assert.throws(broken, InvalidMessageError)
  coordinator.receive(liar, join(DIGEST, 20 * CHUNK))
  assert.ok(coordinator.swarms.largest(DIGEST)?.members.has('liar'))
})

test('who holds too many leases of an origin while others wait loses those that are late', () => {
  const lapses: string[] = []
  let held = 0
  const swarm = swarmOf(10, {
    onLapse: (_, how) => lapses.push(how),
    onCount: (_, by) => (held += by),
    isHoarding: () => held > 1,
  })
  swarm.join(channel('liar'), join(DIGEST, 10 * CHUNK), 0)
  for (const id of [1, 2]) assert.ok(swarm.grant(id, 0, 0))
  let nowMs = 0
  // While it is unknown how long a chunk takes, too.
  for (; nowMs < 5500; nowMs += 500) {
    for (const id of [1, 2]) swarm.leaseProgress(id, 'liar', nowMs, nowMs)
    assert.equal(swarm.expire(nowMs), 0)
  }
  for (const id of [1, 2]) swarm.leaseProgress(id, 'liar', 6500, 6500)
  assert.equal(swarm.expire(6500), 1)
  assert.deepEqual(lapses, ['hoarded'])
})

test('no lease lasts for ever, though nobody knows how long a chunk takes', () => {
  const swarm = swarmOf(10)
  swarm.join(channel('liar'), join(DIGEST, 10 * CHUNK), 0)
  assert.ok(swarm.grant(1, 0, 0))
  let nowMs = 0
  for (; nowMs <= 120_000; nowMs += 1000) {
    swarm.leaseProgress(1, 'liar', nowMs, nowMs)
    assert.equal(swarm.expire(nowMs), 0)
  }
  swarm.leaseProgress(1, 'liar', nowMs, nowMs)
  assert.equal(swarm.expire(nowMs), 1)
})

test('a holder that tells of progress for ever without an end loses its lease', () => {
  const swarm = swarmOf(10)
  const liar = channel('liar')
  swarm.join(liar, join(DIGEST, 10 * CHUNK), 0)
  const lease = swarm.grant(1, 100, 0)
  assert.ok(lease !== undefined)
  let nowMs = 0
  while (swarm.leases.size > 0) {
    nowMs += 1000
    swarm.leaseProgress(lease.id, 'liar', nowMs, nowMs)
    swarm.expire(nowMs, 100)
    assert.ok(nowMs <= 31_000, 'a lease is held for ever by telling of a byte now and then')
  }
})

test('who only tells of progress keeps nobody waiting: what is left in the end another fetches as well', () => {
  const lapses: [string, string][] = []
  const swarm = swarmOf(4, { onLapse: (lease, how) => lapses.push([lease.member.channel.peerId, how]) })
  swarm.join(channel('liar'), join(DIGEST, 4 * CHUNK), 0)
  const first = swarm.grant(1, 100, 0)
  swarm.join(channel('honest'), join(DIGEST, 4 * CHUNK), 0)
  let id = 1
  let nowMs = 0
  const seconds: Lease[] = []
  while (swarm.coveredChunks < 4 && nowMs < 10_000) {
    nowMs += 250
    swarm.leaseProgress(1, 'liar', nowMs, nowMs)
    const lease = swarm.grant(++id, 100, nowMs)
    if (lease === undefined || lease.member.channel.peerId === 'liar') continue
    if (lease.kind === 'second') seconds.push(lease)
    const outcome = { fetched: [lease.first], failed: false, originBackoffMs: 0 }
    swarm.leaseDone({ type: 'lease-done', digest: DIGEST, leaseId: lease.id, ...outcome }, 'honest', nowMs)
  }
  assert.ok(swarm.coveredChunks === 4 && nowMs <= 4000, `${swarm.coveredChunks} chunks after ${nowMs} ms`)
  assert.ok(seconds.some((lease) => lease.first === first?.first))
  swarm.expire(nowMs, 100)
  assert.deepEqual(lapses[0], ['liar', 'overtaken'])
})

test('a node that loses its leases is named in metrics', async (t) => {
  const { coordinator, registry } = setUp(t, 10)
  coordinator.receive(channel('liar'), join(DIGEST, 10 * CHUNK))
  const named = /^shoal_tracker_peer_faults\{peer="liar",reason="lease_idle"\} 2$/m
  let page = ''
  const isNamed = () => {
    registry.metrics().then((text) => (page = text), assert.ifError)
    return named.test(page)
  }
  await until(isNamed, 'the liar is named')
})

test('who takes leases and does nothing gets no more while others would take them', () => {
  const swarm = swarmOf(10)
  const [liar, honest] = [channel('a liar'), channel('honest')]
  swarm.join(liar, join(DIGEST, 10 * CHUNK), 0)
  let nowMs = 0
  for (let id = 1; id <= 3; id++) {
    swarm.join(liar, join(DIGEST, 10 * CHUNK), nowMs)
    assert.equal(swarm.grant(id, 100, nowMs)?.member.channel, liar)
    nowMs += 7000
    assert.equal(swarm.expire(nowMs), 1)
  }
  swarm.join(liar, join(DIGEST, 10 * CHUNK), nowMs)
  swarm.join(honest, join(DIGEST, 10 * CHUNK, { leaseCredit: 1 }), nowMs)
  assert.equal(swarm.grant(4, 100, nowMs)?.member.channel, honest)
  // Nobody else is left to ask: somebody unreliable is better than nobody.
  assert.equal(swarm.grant(5, 100, nowMs)?.member.channel, liar)
})

test('a member that says it has everything and delivers nothing keeps nobody from the origin', async (t) => {
  const { coordinator } = setUp(t)
  const [liar, one, two] = [channel('liar'), channel('one'), channel('two')]
  for (const each of [one, two]) coordinator.receive(each, join(DIGEST, 10 * CHUNK))
  await turn()
  for (const each of [one, two]) each.take('lease-grant')
  coordinator.left(one)
  coordinator.left(two)
  coordinator.receive(liar, join(DIGEST, 10 * CHUNK, { complete: true }))
  for (const each of [one, two]) coordinator.receive(each, join(DIGEST, 10 * CHUNK))
  await turn()
  assert.equal(one.take('lease-grant').length + two.take('lease-grant').length, 0)
  coordinator.receive(one, report('liar', 'undelivered'))
  await turn()
  assert.equal(one.take('lease-grant').length + two.take('lease-grant').length, 0, 'one complaint is not enough')
  coordinator.receive(two, report('liar', 'undelivered'))
  await turn()
  assert.ok(one.take('lease-grant').length + two.take('lease-grant').length > 0)
  // Saying it again does not help it, and it is no outcast: it may have been slow only.
  coordinator.receive(liar, join(DIGEST, 10 * CHUNK, { complete: true }))
  assert.equal(coordinator.swarms.largest(DIGEST)?.completeMembers, 0)
  assert.ok(coordinator.swarms.largest(DIGEST)?.members.has('liar'))
})

test('a member whose word does not count gets no lease while others wait, and all of them afterwards', () => {
  const swarm = swarmOf(10)
  const [liar, honest] = [channel('liar'), channel('honest')]
  for (const each of [liar, honest]) swarm.join(each, join(DIGEST, 10 * CHUNK), 0)
  assert.ok(swarm.complaint('honest', 'liar', 1))
  const holders = new Set<string>()
  let id = 0
  for (let lease = swarm.grant(++id, 100, 0); lease !== undefined; lease = swarm.grant(++id, 100, 0))
    holders.add(lease.member.channel.peerId)
  assert.deepEqual([...holders], ['honest'], 'also where the others hold all that they may')
  swarm.leave('honest', 0)
  assert.equal(swarm.grant(id + 1, 100, 0)?.member.channel, liar)
})

test('the word of one node about another counts for the blob that only the two have, and no other', async (t) => {
  const { coordinator } = setUp(t)
  const [liar, victim, others] = [channel('liar'), channel('victim'), [channel('one'), channel('two')]]
  const rollout = digestOf('rollout')
  for (const each of [victim, ...others]) coordinator.receive(each, join(rollout, 10 * CHUNK))
  coordinator.receive(victim, join(DIGEST, CHUNK, { complete: true }))
  coordinator.receive(liar, join(DIGEST, CHUNK))
  await turn()
  assert.equal(liar.take('lease-grant').length, 0)
  coordinator.receive(liar, report('victim', 'wrong_bytes'))
  await turn()
  assert.ok(coordinator.swarms.largest(rollout)?.members.has('victim'))
  assert.ok(liar.take('lease-grant').length > 0, 'where it is true, the other has to get it elsewhere')
})

test('a node that reports everybody is not believed beyond the first few', async (t) => {
  const { coordinator, registry } = setUp(t)
  const liars = [channel('liar 1'), channel('liar 2')]
  const honest = Array.from({ length: 30 }, (_, at) => channel(`honest ${at}`))
  for (const each of [...liars, ...honest]) coordinator.receive(each, join(DIGEST, 10 * CHUNK))
  for (const liar of liars) for (const { peerId } of honest) coordinator.receive(liar, report(peerId, 'wrong_bytes'))
  assert.equal(coordinator.swarms.largest(DIGEST)?.members.size, 24)
  assert.match(await registry.metrics(), /^shoal_tracker_refused_total\{reason="reports"\} 44$/m)
})

test('a tag that nobody asked the node about is not taken from it', () => {
  const table = new TagTable({ ttlMs: 60_000 })
  const [liar, one, two] = [channel('liar'), channel('one'), channel('two')]
  const reference = 'ghcr.io/org/app:1'
  const say = (from: FakeChannel, requestId: number, digest: Digest, nowMs: number) => {
    const found = { digest, mediaType: 'x', sizeBytes: 1, errorCode: '' }
    table.result(from, { type: 'tag-result', requestId, reference, ...found }, nowMs)
  }
  say(liar, 1, DIGEST, 0)
  table.ask(one, { type: 'tag-ask', requestId: 7, reference }, 1)
  assert.equal(one.take('tag-lookup').length, 1)
  // Nor may it answer in the place of those that are asked, not even what the other one says.
  say(one, 7, DIGEST, 2)
  say(liar, 1, DIGEST, 3)
  table.ask(two, { type: 'tag-ask', requestId: 8, reference }, 4)
  assert.deepEqual([two.take('tag-lookup').length, two.sent.length], [1, 0])
  say(two, 8, DIGEST, 5)
  table.ask(liar, { type: 'tag-ask', requestId: 9, reference }, 6)
  assert.equal(liar.take('tag-answer')[0]?.digest, DIGEST)
})

test('who names another size is alone with it, also when it was the first to tell of the blob', async (t) => {
  const { coordinator } = setUp(t)
  const liar = channel('liar')
  const honest = [channel('honest 1'), channel('honest 2'), channel('honest 3')]
  coordinator.receive(liar, join(DIGEST, 11 * CHUNK, { complete: true }))
  for (const each of honest) coordinator.receive(each, join(DIGEST, 10 * CHUNK))
  await turn()
  const named = honest.flatMap((each) => each.take('tracker-peers').flatMap(({ peers }) => peers))
  assert.deepEqual(new Set(named.map(({ peerId }) => peerId)), new Set(['honest 1', 'honest 2']))
  assert.ok(honest.some((each) => each.take('lease-grant').length > 0))

  const asker = channel('asker')
  coordinator.receive(asker, join(DIGEST, 0))
  assert.equal(asker.take('tracker-peers')[0]?.sizeBytes, 10 * CHUNK)

  // It can change its mind, and is in one of the two only.
  coordinator.receive(liar, join(DIGEST, 10 * CHUNK))
  assert.equal(coordinator.swarms.ofSize(DIGEST, 11 * CHUNK)?.members.size, 0)
  assert.equal(coordinator.swarms.ofMember(DIGEST, 'liar')?.sizeBytes, 10 * CHUNK)
})

for (const failed of [true, false]) {
  const words = failed ? 'as failed' : 'as done'
  test(`a node that gives leases back ${words} gets none after the third, while others would take them`, () =>
    giveBack(failed))
}

function giveBack(failed: boolean): void {
  const swarm = swarmOf(40)
  const [liar, honest] = [channel('liar'), channel('honest')]
  let id = 0
  const given = new Map<string, number>()
  swarm.join(honest, join(DIGEST, 40 * CHUNK, { leaseCredit: 1 }), 0)
  for (let round = 0; swarm.coveredChunks < 40; round++) {
    swarm.join(liar, join(DIGEST, 40 * CHUNK, { leaseCredit: 1 }), round)
    const lease = swarm.grant(++id, 0, round)
    assert.notEqual(lease, undefined)
    if (lease === undefined) return
    const holder = lease.member.channel
    given.set(holder.peerId, (given.get(holder.peerId) ?? 0) + 1)
    const isHonest = holder.peerId === 'honest'
    const fetched = isHonest ? Array.from({ length: lease.count }, (_, at) => lease.first + at) : []
    const outcome = { fetched, failed: failed && !isHonest, originBackoffMs: 10_000 }
    const end = swarm.leaseDone(
      { type: 'lease-done', digest: DIGEST, leaseId: lease.id, ...outcome },
      holder.peerId,
      round,
    )
    assert.equal(end?.isBrought, isHonest)
  }
  assert.ok((given.get('liar') ?? 0) <= 3, `${given.get('liar')} leases went to the liar`)
}
