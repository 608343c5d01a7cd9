import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  chunkCountFor,
  chunkLength,
  chunkSizeFor,
  chunkStart,
  MAX_CHUNK_SIZE_BYTES,
  MIN_CHUNK_SIZE_BYTES,
} from './chunk-geometry.ts'
import { ChunkMap } from './chunk-map.ts'

const MIB = 1024 * 1024

test('chunk sizes are powers of two between 256 KiB and 4 MiB, with 128 chunks or more where possible', () => {
  assert.equal(chunkSizeFor(0), MIN_CHUNK_SIZE_BYTES)
  assert.equal(chunkSizeFor(64 * MIB - 1), 256 * 1024)
  assert.equal(chunkSizeFor(64 * MIB), 512 * 1024)
  assert.equal(chunkSizeFor(512 * MIB - 1), 2 * MIB)
  assert.equal(chunkSizeFor(512 * MIB), 4 * MIB)
  fc.assert(
    fc.property(fc.nat({ max: 2 ** 42 }), (size) => {
      const chunk = chunkSizeFor(size)
      assert.equal(Number.isInteger(Math.log2(chunk)), true)
      assert.ok(chunk >= MIN_CHUNK_SIZE_BYTES && chunk <= MAX_CHUNK_SIZE_BYTES)
      if (chunk > MIN_CHUNK_SIZE_BYTES) assert.ok(chunkCountFor(size) >= 128)
    }),
  )
})

test('the chunks of a blob cover it exactly', () => {
  assert.equal(chunkCountFor(0), 0)
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2 ** 30 }), (size) => {
      const last = chunkCountFor(size) - 1
      assert.equal(chunkStart(size, last) + chunkLength(size, last), size)
      assert.ok(chunkLength(size, last) > 0)
      if (last > 0) assert.equal(chunkStart(size, last - 1) + chunkLength(size, last - 1), chunkStart(size, last))
    }),
  )
})

test('a chunk map behaves like a set', () => {
  const length = fc.integer({ min: 0, max: 70 })
  const steps = fc.array(fc.tuple(fc.boolean(), fc.nat({ max: 69 })), { maxLength: 200 })
  fc.assert(
    fc.property(length, steps, (size, changes) => {
      const map = new ChunkMap(size)
      const model = new Set<number>()
      for (const [add, index] of changes) {
        if (index >= size) {
          assert.throws(() => map.add(index), RangeError)
          assert.throws(() => map.delete(index), RangeError)
        } else if (add) {
          assert.equal(map.add(index), !model.has(index))
          model.add(index)
        } else {
          assert.equal(map.delete(index), model.delete(index))
        }
      }
      const sorted = [...model].sort((a, b) => a - b)
      assert.deepEqual([...map.indices()], sorted)
      assert.equal(map.count, model.size)
      assert.equal(map.isFull, model.size === size)
      for (let from = 0; from <= size; from++) {
        let expected = from
        while (expected < size && model.has(expected)) expected++
        assert.equal(map.firstMissing(from), expected)
      }
      const copy = ChunkMap.fromBytes(size, map.toBytes())
      assert.deepEqual([...copy.indices()], sorted)
      assert.equal(copy.count, map.count)
      const clone = map.clone()
      if (size > 0 && !clone.delete(0)) clone.add(0)
      assert.deepEqual([...map.indices()], sorted)
    }),
  )
})

test('a full map has exactly the chunks of the blob', () => {
  for (const length of [0, 1, 7, 8, 9, 16, 129]) {
    const map = ChunkMap.full(length)
    assert.equal(map.isFull, true)
    assert.equal(map.firstMissing(), length)
    assert.deepEqual([...map.indices()], [...Array(length).keys()])
    assert.equal(ChunkMap.fromBytes(length, map.toBytes()).count, length)
  }
})

test('bytes that are no chunk map of this length are refused', () => {
  assert.throws(() => ChunkMap.fromBytes(9, new Uint8Array(1)), RangeError)
  assert.throws(() => ChunkMap.fromBytes(9, Uint8Array.of(0, 2)), RangeError)
  assert.throws(() => ChunkMap.fromBytes(2 ** 50, new Uint8Array(1)), RangeError)
  assert.throws(() => ChunkMap.fromBytes(-1, new Uint8Array(0)), RangeError)
  fc.assert(
    fc.property(fc.nat({ max: 40 }), fc.uint8Array({ maxLength: 6 }), (length, bytes) => {
      try {
        assert.deepEqual(ChunkMap.fromBytes(length, bytes).toBytes(), bytes)
      } catch (error) {
        assert.ok(error instanceof RangeError)
      }
    }),
  )
})
