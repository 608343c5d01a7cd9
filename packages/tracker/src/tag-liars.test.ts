// A member that lies about tags, among honest ones, in whatever order things happen: it is told of, it is asked, it says
// what it likes. Nobody else ever hears of its digest from the tracker, and nobody waits long because of it.
import assert from 'node:assert/strict'
import test from 'node:test'
import { digestOf, type Digest } from '@shoal/oci'
import { FakeChannel } from '@shoal/swarm/testing'
import fc from 'fast-check'
import { TagTable } from './tag-table.ts'

const REFERENCE = 'ghcr.io/org/app:1'
const EVIL = digestOf('evil')
const OLD = digestOf('before it moved')
const NEW = digestOf('after it moved')
/** The tracker lets nobody wait longer than that, and looks at the clock every 250 ms. */
const BOUND_MS = 1500 + 250
const TTL_MS = 3000

type Said = { digest: Digest } | { errorCode: string } | 'nothing'

function say(table: TagTable, channel: FakeChannel, requestId: number, said: Said, nowMs: number): void {
  if (said === 'nothing') return
  const base = { type: 'tag-result', requestId, reference: REFERENCE, mediaType: 'm', sizeBytes: 1 } as const
  table.result(channel, { ...base, digest: '', errorCode: '', ...said }, nowMs)
}

const lie: fc.Arbitrary<Said> = fc.constantFrom<Said[]>(
  { digest: EVIL },
  { digest: EVIL },
  { digest: OLD },
  { errorCode: 'NOT_FOUND' },
  { errorCode: 'TIMEOUT' },
  { errorCode: 'ABORTED' },
  'nothing',
)

const scenario = fc.record({
  ttlMs: fc.constantFrom(0, 500, TTL_MS, 20_000),
  movesMs: fc.nat(20_000),
  asks: fc.array(
    fc.record({
      peer: fc.nat(7),
      atMs: fc.nat(20_000),
      // What the origin takes to answer an honest node; some are as good as dead.
      tookMs: fc.oneof({ weight: 6, arbitrary: fc.nat(400) }, fc.nat(5000), fc.constant(Infinity)),
      lie,
    }),
    { minLength: 1, maxLength: 60 },
  ),
})

test('one liar among those who ask: its digest goes to nobody, nobody waits long, nothing old is told', () => {
  fc.assert(
    fc.property(scenario, ({ ttlMs, movesMs, asks }) => {
      const table = new TagTable({ ttlMs })
      // The first is the liar.
      const channels = Array.from({ length: 8 }, (_, at) => new FakeChannel(`peer${at}`))
      const events = asks.map((ask, requestId) => ({ ...ask, requestId }))
      const open = new Map<number, number>()
      const results: { atMs: number; seenMs: number; peer: number; requestId: number }[] = []
      const look = (nowMs: number) => {
        for (const [peer, channel] of channels.entries()) {
          for (const { requestId } of channel.take('tag-lookup')) {
            open.delete(requestId)
            const { tookMs } = events[requestId]!
            results.push({ atMs: nowMs + tookMs, seenMs: nowMs + tookMs / 2, peer, requestId })
          }
          for (const { requestId, digest, stale } of channel.take('tag-answer')) {
            open.delete(requestId)
            if (peer === 0) continue
            assert.notEqual(digest, EVIL)
            assert.equal(stale, false, 'the origin was there all the time')
            const { atMs } = events[requestId]!
            // What was true when the older of two words was said, which took five seconds at most to come.
            const oldest = Math.max(ttlMs, 3000) + 5000
            assert.ok(digest === NEW || atMs <= movesMs + oldest, 'told what it was long ago')
          }
        }
        for (const [requestId, sinceMs] of open) assert.ok(nowMs - sinceMs <= BOUND_MS, `${requestId} waits`)
      }
      for (let nowMs = 0; nowMs <= 30_000; nowMs += 50) {
        for (const { peer, atMs, requestId } of events) {
          if (atMs < nowMs - 50 || atMs >= nowMs) continue
          open.set(requestId, nowMs)
          table.ask(channels[peer]!, { type: 'tag-ask', requestId, reference: REFERENCE }, nowMs)
          look(nowMs)
        }
        for (const due of results.filter(({ atMs }) => atMs <= nowMs)) {
          results.splice(results.indexOf(due), 1)
          const honest = { digest: due.seenMs < movesMs ? OLD : NEW }
          const said = due.peer === 0 ? events[due.requestId]!.lie : honest
          say(table, channels[due.peer]!, due.requestId, said, nowMs)
          look(nowMs)
        }
        if (nowMs % 250 === 0) table.expire(nowMs)
        look(nowMs)
      }
      assert.equal(open.size, 0)
    }),
    { numRuns: 120 },
  )
})

test('however many ask at once, two look up', () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 500 }), fc.boolean(), (count, backwards) => {
      const table = new TagTable({ ttlMs: TTL_MS })
      const channels = Array.from({ length: count }, (_, at) => new FakeChannel(`peer${at}`))
      for (const [at, channel] of channels.entries()) {
        table.ask(channel, { type: 'tag-ask', requestId: at, reference: REFERENCE }, at)
      }
      const asked = () => channels.flatMap((channel, at) => channel.take('tag-lookup').map(() => at))
      const both = asked()
      assert.deepEqual(both, [0, 1])
      for (const at of backwards ? both.reverse() : both) say(table, channels[at]!, at, { digest: NEW }, 600)
      table.expire(700)
      assert.deepEqual(asked(), [])
      const told = channels.flatMap((channel) => channel.take('tag-answer').map(({ digest }) => digest))
      assert.deepEqual(told, Array<Digest>(count - 2).fill(NEW))
    }),
    { numRuns: 50 },
  )
})

test('a liar that is asked first costs one lookup more, whatever it says', () => {
  for (const lied of [{ digest: EVIL }, { errorCode: 'NOT_FOUND' }, { errorCode: 'TIMEOUT' }, { errorCode: 'OTHER' }]) {
    const table = new TagTable({ ttlMs: TTL_MS })
    const channels = Array.from({ length: 50 }, (_, at) => new FakeChannel(`peer${at}`))
    for (const [at, channel] of channels.entries()) {
      table.ask(channel, { type: 'tag-ask', requestId: at, reference: REFERENCE }, 0)
    }
    const asked = () => channels.flatMap((channel, at) => channel.take('tag-lookup').map(() => at))
    assert.deepEqual(asked(), [0, 1])
    say(table, channels[0]!, 0, lied, 1)
    say(table, channels[1]!, 1, { digest: NEW }, 2)
    assert.deepEqual(asked(), [2])
    say(table, channels[2]!, 2, { digest: NEW }, 3)
    assert.deepEqual(asked(), [])
    for (const channel of channels.slice(3)) assert.equal(channel.take('tag-answer')[0]?.digest, NEW)
  }
})

test('a liar brings nothing back that a tag was before it moved', () => {
  const table = new TagTable({ ttlMs: 10_000 })
  const [liar, one, two, three, four] = Array.from({ length: 5 }, (_, at) => new FakeChannel(`peer${at}`))
  const found = (channel: FakeChannel, digest: Digest, nowMs: number) => {
    table.ask(channel, { type: 'tag-ask', requestId: 1, reference: REFERENCE }, nowMs)
    assert.equal(channel.take('tag-lookup').length, 1)
    say(table, channel, 1, { digest }, nowMs)
  }
  found(one!, OLD, 0)
  found(liar!, NEW, 1)
  found(two!, NEW, 2)
  // The pair of the old digest would be older than the one that is confirmed.
  say(table, liar!, 1, { digest: OLD }, 3)
  table.ask(three!, { type: 'tag-ask', requestId: 1, reference: REFERENCE }, 4)
  assert.equal(three!.take('tag-answer')[0]?.digest, NEW)
  // Much later one more honest node has seen the new one, and the origin is down.
  found(four!, NEW, 50_000)
  say(table, liar!, 1, { digest: OLD }, 50_001)
  say(table, four!, 1, { errorCode: 'TIMEOUT' }, 50_002)
  table.ask(three!, { type: 'tag-ask', requestId: 2, reference: REFERENCE }, 70_000)
  assert.equal(three!.take('tag-lookup').length, 1)
  say(table, three!, 2, { errorCode: 'UNREACHABLE' }, 70_001)
  const [answer] = three!.take('tag-answer')
  assert.deepEqual([answer?.digest, answer?.stale], [NEW, true])
})

test('while the origin is down and one node alone has ever said something, that is told, as stale', () => {
  const table = new TagTable({ ttlMs: TTL_MS })
  const [one, two] = [new FakeChannel('one'), new FakeChannel('two')]
  table.ask(one, { type: 'tag-ask', requestId: 1, reference: REFERENCE }, 0)
  say(table, one, 1, { digest: OLD }, 1)
  table.ask(two, { type: 'tag-ask', requestId: 2, reference: REFERENCE }, 100_000)
  assert.equal(two.take('tag-lookup').length, 1)
  say(table, two, 2, { errorCode: 'UNREACHABLE' }, 100_001)
  const [answer] = two.take('tag-answer')
  assert.deepEqual([answer?.digest, answer?.stale], [OLD, true])
})
