import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { chunkCountFor, chunkLength, chunkStart } from './chunk-geometry.ts'
import { ChunkHasher, hashChunksOfFile } from './chunk-hasher.ts'

function expectedHashes(content: Uint8Array): Buffer {
  const size = content.byteLength
  const hashes = Array.from({ length: chunkCountFor(size) }, (_, index) => {
    const start = chunkStart(size, index)
    return createHash('sha256')
      .update(content.subarray(start, start + chunkLength(size, index)))
      .digest()
  })
  return Buffer.concat(hashes)
}

test('the pieces in which a blob passes by do not matter', () => {
  const content = randomBytes(900_000)
  const sizes = fc.array(fc.integer({ min: 0, max: 400_000 }), { maxLength: 20 })
  fc.assert(
    fc.property(fc.integer({ min: 0, max: content.byteLength }), sizes, (length, pieces) => {
      const blob = content.subarray(0, length)
      const hasher = new ChunkHasher(length)
      let position = 0
      for (const piece of [...pieces, length]) {
        hasher.update(blob.subarray(position, position + piece))
        position = Math.min(length, position + piece)
      }
      assert.deepEqual(Buffer.from(hasher.digest().hashes), expectedHashes(blob))
    }),
    { numRuns: 30 },
  )
})

test('a blob that is longer or shorter than announced is refused', () => {
  const hasher = new ChunkHasher(10)
  hasher.update(new Uint8Array(9))
  assert.throws(() => hasher.digest(), RangeError)
  assert.throws(() => hasher.update(new Uint8Array(2)), RangeError)
})

test('the chunk list of a file', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'shoal-hasher-'))
  t.after(() => rm(folder, { recursive: true }))
  const path = join(folder, 'blob')
  const content = randomBytes(3_000_001)
  await writeFile(path, content)
  const list = await hashChunksOfFile(path)
  assert.equal(list.sizeBytes, content.byteLength)
  assert.deepEqual(Buffer.from(list.hashes), expectedHashes(content))
  await assert.rejects(hashChunksOfFile(path, 10), RangeError)
  await assert.rejects(hashChunksOfFile(path, content.byteLength, AbortSignal.abort()), { name: 'AbortError' })
})
