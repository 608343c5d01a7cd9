import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import { ChunkMap } from '@shoal/store'
import fc from 'fast-check'
import {
  grantOriginLease,
  isBrought,
  isLeaseLate,
  leaseRun,
  originLeaseLimit,
  originLeasesPerNode,
  pauseOf,
  type LeaseCandidate,
} from './leases.ts'
import { DEFAULT_PARAMETERS } from './parameters.ts'

function randomOf(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 4_294_967_296
  }
}

interface Book extends LeaseCandidate {
  granted: number
  held: number
}

test('no chunk is ever leased twice, and leases go on while a chunk is free and a member has room', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 300 }),
      fc.integer({ min: 1, max: 40 }),
      fc.nat(),
      fc.array(fc.boolean(), { minLength: 50, maxLength: 400 }),
      (length, members, seed, ends) => {
        const random = randomOf(seed)
        const unleased = ChunkMap.full(length)
        const books: Book[] = Array.from({ length: members }, () => ({
          chunks: new ChunkMap(length),
          granted: 0,
          held: 0,
        }))
        const leased = new Set<number>()
        const running: { book: Book; chunks: number[] }[] = []
        for (const end of ends) {
          const oldest = running[0]
          if (end && oldest !== undefined) {
            running.shift()
            oldest.book.held--
            // Every other lease fails and its chunks are free again.
            if (random() < 0.5) {
              for (const chunk of oldest.chunks) {
                leased.delete(chunk)
                unleased.add(chunk)
              }
            }
            continue
          }
          const view = { unleased, incompleteMembers: members }
          const decision = grantOriginLease(view, books, DEFAULT_PARAMETERS, random)
          const limit = DEFAULT_PARAMETERS.leasesPerNode * (members <= 1 ? 2 : 1)
          const possible = unleased.count > 0 && books.some((book) => book.held < limit)
          assert.equal(decision !== undefined, possible)
          if (decision === undefined) continue
          assert.ok(decision.count >= 1 && decision.count <= DEFAULT_PARAMETERS.leaseRunChunks)
          const book = books[decision.candidate]!
          const chunks = Array.from({ length: decision.count }, (_, at) => decision.first + at)
          for (const chunk of chunks) {
            assert.ok(!leased.has(chunk), `chunk ${chunk} leased twice`)
            assert.ok(unleased.delete(chunk))
            leased.add(chunk)
          }
          book.held++
          book.granted++
          assert.ok(book.held <= limit)
          running.push({ book, chunks })
        }
      },
    ),
  )
})

test('leases go to those that were given the fewest', () => {
  const length = 256
  const unleased = ChunkMap.full(length)
  const books: Book[] = Array.from({ length: 16 }, () => ({ chunks: new ChunkMap(length), granted: 0, held: 0 }))
  const random = randomOf(5)
  for (let round = 0; round < 64; round++) {
    const decision = grantOriginLease({ unleased, incompleteMembers: 16 }, books, DEFAULT_PARAMETERS, random)!
    for (let at = 0; at < decision.count; at++) unleased.delete(decision.first + at)
    books[decision.candidate]!.granted++
  }
  for (const book of books) assert.equal(book.granted, 4)
})

test('a lone node gets long runs, a crowd gets single chunks', () => {
  const unleased = ChunkMap.full(128)
  assert.equal(leaseRun({ unleased, incompleteMembers: 1 }, DEFAULT_PARAMETERS), DEFAULT_PARAMETERS.leaseRunChunks)
  assert.equal(leaseRun({ unleased, incompleteMembers: 16 }, DEFAULT_PARAMETERS), 1)
  assert.equal(leaseRun({ unleased: ChunkMap.full(1), incompleteMembers: 1 }, DEFAULT_PARAMETERS), 1)
})

test('a fast origin gets more leases, a slow one never fewer than the floor', () => {
  const { leasesPerOrigin, leasesPerSlowOrigin, fastLeaseMs } = DEFAULT_PARAMETERS
  assert.equal(originLeaseLimit(0, DEFAULT_PARAMETERS), leasesPerSlowOrigin)
  assert.equal(originLeaseLimit(fastLeaseMs, DEFAULT_PARAMETERS), leasesPerOrigin)
  assert.equal(originLeaseLimit(fastLeaseMs * 2, DEFAULT_PARAMETERS), leasesPerOrigin / 2)
  assert.equal(originLeaseLimit(1e6, DEFAULT_PARAMETERS), leasesPerSlowOrigin)
  // What the operator allows is never exceeded, not by the floor either.
  assert.equal(originLeaseLimit(1e6, { ...DEFAULT_PARAMETERS, leasesPerOrigin: 2 }), 2)
})

test('an unknown member starts with one chunk, and one that is known to be slow comes last', () => {
  const chunks = new ChunkMap(64)
  const view = { unleased: ChunkMap.full(64), incompleteMembers: 1, usualChunkMs: 100 }
  const newcomer = { chunks, granted: 0, held: 0 }
  assert.equal(grantOriginLease(view, [newcomer], DEFAULT_PARAMETERS, () => 0)?.count, 1)
  assert.equal(grantOriginLease(view, [{ ...newcomer, granted: 2 }], DEFAULT_PARAMETERS, () => 0)?.count, 4)
  const slow = { chunks, granted: 1, held: 0, chunkMs: 1000 }
  const quick = { chunks, granted: 9, held: 0, chunkMs: 120 }
  assert.equal(grantOriginLease(view, [slow, quick], DEFAULT_PARAMETERS, () => 0)?.candidate, 1)
  assert.equal(grantOriginLease(view, [slow], DEFAULT_PARAMETERS, () => 0)?.candidate, 0)
})

test('a lease is late by what its chunks usually take, and never at once', () => {
  const { lateLeaseFactor, lateLeaseMinMs } = DEFAULT_PARAMETERS
  const isLate = (count: number, usualMs: number, nowMs: number) =>
    isLeaseLate({ grantedMs: 0, count }, usualMs, DEFAULT_PARAMETERS, nowMs)
  assert.equal(isLate(1, 0, lateLeaseMinMs * lateLeaseFactor), false)
  assert.equal(isLate(1, 0, lateLeaseMinMs * lateLeaseFactor + 1), true)
  assert.equal(isLate(1, 10, lateLeaseMinMs), false)
  assert.equal(isLate(1, 10, lateLeaseMinMs + 1), true)
  // A slow link, and a long run of chunks.
  assert.equal(isLate(1, 20_000, 20_000 * lateLeaseFactor), false)
  assert.equal(isLate(4, 20_000, 20_000 * lateLeaseFactor + 1), false)
  assert.equal(isLate(1, 20_000, 20_000 * lateLeaseFactor + 1), true)
})

test('a lease is brought when all of its chunks are, in whatever order and with whatever else', () => {
  const lease = { first: 3, count: 2 }
  assert.equal(isBrought(lease, [9, 4, 3]), true)
  assert.equal(isBrought(lease, [3, 3]), false)
  assert.equal(isBrought(lease, []), false)
})

test('one who asks for a pause of the origin is believed for a second, once; two as they say', () => {
  assert.equal(pauseOf(60_000, undefined, 'one'), 1000)
  assert.equal(pauseOf(300, undefined, 'one'), 300)
  assert.equal(pauseOf(60_000, 'one', 'one'), 0)
  assert.equal(pauseOf(4000, 'one', 'two'), 4000)
  assert.equal(pauseOf(60_000, 'one', 'two'), 10_000)
})

test('what one node holds of an origin while others wait leaves something for them', () => {
  assert.deepEqual([1, 2, 3, 8, 16, 32].map(originLeasesPerNode), [1, 1, 2, 2, 4, 8])
})
