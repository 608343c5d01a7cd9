import assert from 'node:assert/strict'
import test from 'node:test'
import { encodeControlMessage, type ChunkVoucher } from '@shoal/network'
import { digestOf } from '@shoal/oci'
import { ChunkMap } from '@shoal/store'
import fc from 'fast-check'
import { ChunkBoard } from './chunk-board.ts'
import { Neighbour } from './neighbour.ts'
import { FakeChannel } from './testing/channels.ts'
import { VoucherBook } from './voucher-book.ts'

const CHUNKS = 12
const digest = digestOf('blob')

function setUp() {
  const board = new ChunkBoard(new ChunkMap(CHUNKS))
  const sign = () => new Uint8Array(64)
  const book = new VoucherBook({ digest, chunkCount: CHUNKS, self: 'self', sign, verify: () => true })
  const channel = new FakeChannel('peer')
  return { board, book, channel, neighbour: new Neighbour(channel, board, book, 0, '') }
}

function voucher(chunks: number[], signer = 'signer'): ChunkVoucher {
  return { indices: chunks, hashes: new Uint8Array(chunks.length * 32).fill(7), signer, signature: new Uint8Array(64) }
}

test('a chunk can be asked for when it is offered and its hash is known, in either order', () => {
  const { board, book, neighbour } = setUp()
  neighbour.offers([1, 2])
  assert.equal(neighbour.chunks.count, 0)
  book.add(voucher([1]))
  neighbour.hashKnown(1)
  assert.deepEqual([...neighbour.chunks.indices()], [1])
  book.add(voucher([3]))
  neighbour.hashKnown(3)
  neighbour.offers([3])
  assert.deepEqual([...neighbour.chunks.indices()], [1, 3])
  assert.deepEqual([...board.availability.slice(0, 4)], [0, 1, 0, 1])
})

test('chunks that do not exist are not offered', () => {
  const { neighbour } = setUp()
  neighbour.offers([CHUNKS, 99, 0xffffff])
  neighbour.withdraws(CHUNKS)
  assert.equal(neighbour.chunks.count, 0)
})

test('a claim is over when the chunk is there', () => {
  const { neighbour } = setUp()
  neighbour.claims.set(4, 0)
  neighbour.offers([4])
  assert.equal(neighbour.claims.size, 0)
})

test('hashes are told once, and never back to who told them', () => {
  const { book, channel, neighbour } = setUp()
  const [theirs, ours] = [voucher([0, 1]), voucher([2, 3])]
  book.add(theirs)
  book.add(ours)
  neighbour.toldHashes([theirs])
  neighbour.tellHave(digest, [0, 2], false, 3)
  neighbour.tellHave(digest, [3], false, 3)
  const [first, second] = channel.take('have')
  assert.deepEqual(first?.vouchers, [ours])
  assert.deepEqual(first.indices, [0, 2])
  assert.deepEqual(second?.vouchers, [])
})

test('a voucher that fills a message is told in one of its own', () => {
  const count = 29_900
  const sign = () => new Uint8Array(64)
  const book = new VoucherBook({ digest, chunkCount: count, self: 'self', sign, verify: () => true })
  const channel = new FakeChannel('peer')
  const neighbour = new Neighbour(channel, new ChunkBoard(new ChunkMap(count)), book, 0, '')
  const chunks = Array.from({ length: count }, (_, chunk) => chunk)
  assert.equal(book.add(voucher(chunks)).invalid, false)
  neighbour.tellHave(digest, chunks, false, 3)
  for (const message of channel.sent) encodeControlMessage(message)
  const [hashes, news, ...more] = channel.take('have')
  assert.deepEqual([hashes?.vouchers.length, news?.indices.length, more.length], [1, count, 0])
})

test('who was told, or has told, a hash that is forgotten since is told the right one', () => {
  const { book, channel, neighbour } = setUp()
  book.add(voucher([0], 'liar'))
  neighbour.tellHave(digest, [0], false, 3)
  book.distrust('liar')
  neighbour.hashForgotten(0)
  // It does not know of the lie yet, and repeats it.
  neighbour.toldHashes([voucher([0], 'liar')])
  const right = { ...voucher([0]), hashes: new Uint8Array(32).fill(8) }
  book.add(right)
  neighbour.tellHave(digest, [0], false, 3)
  const [, second] = channel.take('have')
  assert.deepEqual(second?.vouchers, [right])
})

test('after a failure it is left alone, longer each time, and given up after three in a row', () => {
  const { neighbour } = setUp()
  assert.equal(neighbour.strike(0), false)
  const first = neighbour.notBeforeMs
  assert.equal(neighbour.strike(0), false)
  assert.ok(neighbour.notBeforeMs > first && first > 0)
  assert.equal(neighbour.strike(0), true)
})

test('who never gave anything is given up at once while others do', () => {
  const { neighbour } = setUp()
  assert.equal(neighbour.strike(0, true), true)
  const other = setUp().neighbour
  other.hasDelivered = true
  assert.equal(other.strike(0, true), false)
})

test('it is noted since when a neighbour says that it has what nobody vouches for', () => {
  const { book, neighbour } = setUp()
  neighbour.offers([])
  assert.equal(neighbour.unvouchedSinceMs, undefined)
  neighbour.offers([1, 2])
  const since = neighbour.unvouchedSinceMs
  assert.notEqual(since, undefined)
  book.add(voucher([1]))
  neighbour.hashKnown(1)
  // One hash does not make up for the other.
  assert.equal(neighbour.unvouchedSinceMs, since)
  neighbour.withdraws(2)
  assert.equal(neighbour.unvouchedSinceMs, undefined)
})

test('a hash that was forgotten is not held against those who told it', () => {
  const { book, neighbour } = setUp()
  book.add(voucher([1]))
  neighbour.offers([1])
  book.distrust('signer')
  neighbour.hashForgotten(1)
  assert.equal(neighbour.unvouchedSinceMs, undefined)
})

test('while it is left alone, its chunks count as being at the origin only', () => {
  const { board, book, neighbour } = setUp()
  book.add(voucher([0]))
  neighbour.offers([0])
  neighbour.strike(0)
  assert.equal(board.availability[0], 0)
  neighbour.resume(neighbour.notBeforeMs - 1)
  assert.equal(board.availability[0], 0)
  neighbour.resume(neighbour.notBeforeMs)
  assert.equal(board.availability[0], 1)
})

// ---- properties -------------------------------------------------------------------------------------------------

const chunk = fc.nat(CHUNKS - 1)
const who = fc.nat(2)
const operation = fc.oneof(
  fc.record({
    kind: fc.constantFrom('offers' as const, 'exactly' as const),
    who,
    chunks: fc.array(fc.nat(CHUNKS + 3)),
  }),
  fc.record({ kind: fc.constantFrom('withdraws' as const, 'learn' as const, 'forget' as const), who, chunk }),
  fc.record({ kind: fc.constantFrom('strike' as const, 'resume' as const, 'replace' as const), who }),
)

test('whatever happens, availability is the number of neighbours that can be asked for a chunk', () => {
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 80 }), (operations) => {
      const { board, book } = setUp()
      const make = (at: number) => new Neighbour(new FakeChannel(`peer${at}`), board, book, 0, '')
      const neighbours = [make(0), make(1), make(2)]
      const suspended = new Set<Neighbour>()
      for (const step of operations) {
        const neighbour = neighbours[step.who]!
        if (step.kind === 'offers') neighbour.offers(step.chunks)
        else if (step.kind === 'exactly') {
          const map = new ChunkMap(CHUNKS)
          for (const one of step.chunks) if (one < CHUNKS) map.add(one)
          neighbour.offersExactly(map)
        } else if (step.kind === 'withdraws') neighbour.withdraws(step.chunk)
        else if (step.kind === 'learn') {
          book.add(voucher([step.chunk]))
          for (const other of neighbours) other.hashKnown(step.chunk)
        } else if (step.kind === 'forget') {
          book.forget([step.chunk])
          for (const other of neighbours) other.hashForgotten(step.chunk)
        } else if (step.kind === 'strike') {
          neighbour.strike(0)
          suspended.add(neighbour)
        } else if (step.kind === 'resume') {
          neighbour.resume(Infinity)
          suspended.delete(neighbour)
        } else {
          neighbour.leave()
          suspended.delete(neighbour)
          neighbours[step.who] = make(step.who)
        }
        for (let index = 0; index < CHUNKS; index++) {
          const able = neighbours.filter((one) => one.chunks.has(index))
          if (able.length > 0) assert.notEqual(book.hash(index), undefined)
          const counted = able.filter((one) => !suspended.has(one)).length
          assert.equal(board.availability[index], counted, `chunk ${index} after ${step.kind}`)
        }
      }
      for (const neighbour of neighbours) neighbour.leave()
      assert.ok(board.availability.every((count) => count === 0))
    }),
    { numRuns: 300 },
  )
})
