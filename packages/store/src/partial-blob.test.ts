import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import {
  ChunkMismatchError,
  ChunkMissingError,
  DigestMismatchError,
  StoreClosedError,
  StoreFullError,
} from './errors.ts'
import { assertBytes, readAll, testBlob, testStore, writeAll } from './store-fixture.ts'

const MIB = 1024 * 1024

for (const hashing of ['inline', 'thread'] as const) {
  test(`a blob arrives in any order and becomes whole (${hashing})`, async (t) => {
    const store = await testStore(t, { hashing })
    for (const [size, algorithm] of [
      [3 * MIB + 17, 'sha256'],
      [300_000, 'sha512'],
      [1, 'sha256'],
      [0, 'sha256'],
    ] as const) {
      const blob = testBlob(size, algorithm)
      const partial = await store.openPartial(blob.digest, blob.size)
      assert.equal(await store.openPartial(blob.digest, blob.size), partial)
      assert.equal(store.partial(blob.digest), partial)
      const order = Array.from({ length: blob.chunkCount }, (_, i) => (i * 5 + 3) % blob.chunkCount)
      await writeAll(partial, blob, [...new Set([...order, ...Array(blob.chunkCount).keys()])])
      assert.equal(partial.frontChunk, blob.chunkCount)
      assert.equal(store.has(blob.digest), false)
      await partial.complete('text/plain')
      assert.equal(store.has(blob.digest), true)
      assert.equal(store.partial(blob.digest), undefined)
      await partial.close()
      const stored = await store.open(blob.digest)
      assert.ok(stored)
      assert.equal(stored.mediaType, 'text/plain')
      assertBytes(await readAll(stored.createReadStream()), blob.content)
      assert.deepEqual(
        Buffer.from(stored.chunkHashes),
        Buffer.concat([...Array(blob.chunkCount).keys()].map((i) => blob.hash(i))),
      )
      stored.release()
    }
  })
}

test('a chunk with wrong bytes is refused and leaves nothing but its place', async (t) => {
  const store = await testStore(t)
  const blob = testBlob(MIB)
  const partial = await store.openPartial(blob.digest, blob.size)
  const wrong = Buffer.from(blob.chunk(1))
  wrong[7]! ^= 1
  await assert.rejects(partial.writeChunk(1, wrong, blob.hash(1)), ChunkMismatchError)
  await assert.rejects(partial.writeChunk(1, blob.chunk(1).subarray(1)), ChunkMismatchError)
  await assert.rejects(partial.writeChunk(4, blob.chunk(1)), RangeError)
  assert.equal(partial.chunks.count, 0)
  assert.equal(store.usage().storedBytes, partial.chunkSizeBytes, 'the one that was written to be checked')
  await assert.rejects(partial.readChunk(1, new Uint8Array(10)), ChunkMissingError)
  await assert.rejects(partial.complete(), ChunkMissingError)
  await writeAll(partial, blob)
  assert.equal(store.usage().storedBytes, blob.size)
  await partial.complete()
  await partial.close()
})

test('a second writer of a chunk cannot spoil the first', async (t) => {
  const store = await testStore(t, { hashing: 'thread' })
  const blob = testBlob(2 * MIB)
  const partial = await store.openPartial(blob.digest, blob.size)
  for (let index = 0; index < blob.chunkCount; index++) {
    const wrong = Buffer.alloc(blob.chunk(index).byteLength, 7)
    const results = await Promise.allSettled([
      partial.writeChunk(index, wrong, blob.hash(index)),
      partial.writeChunk(index, blob.chunk(index), blob.hash(index)),
      partial.writeChunk(index, wrong, blob.hash(index)),
    ])
    assert.deepEqual(
      results.map((result) => result.status),
      ['rejected', 'fulfilled', 'fulfilled'],
    )
  }
  await partial.complete()
  assertBytes(await readAll(partial.createReadStream()), blob.content)
  await partial.close()
})

test('a chunk that was wrong from an authority is found by the digest, discarded and fetched again', async (t) => {
  for (const hashing of ['inline', 'thread'] as const) {
    const store = await testStore(t, { hashing })
    const blob = testBlob(2 * MIB)
    const partial = await store.openPartial(blob.digest, blob.size)
    const wrong = Buffer.alloc(blob.chunk(3).byteLength)
    await partial.writeChunk(3, wrong)
    await writeAll(partial, blob)
    const stream = partial.createReadStream({ start: blob.size - 5 })
    await assert.rejects(partial.complete(), DigestMismatchError)
    assert.equal(partial.chunks.isFull, true)
    await partial.discard([3, 3])
    assert.equal(partial.frontChunk, 3)
    assert.equal(partial.hashOf(3), undefined)
    await assert.rejects(partial.complete(), ChunkMissingError)
    await partial.writeChunk(3, blob.chunk(3), blob.hash(3))
    await partial.complete()
    assertBytes(await readAll(stream), blob.content.subarray(-5))
    await partial.close()
    await store.close()
  }
})

test('a stream follows the front and holds the last chunk back until the digest has matched', async (t) => {
  const store = await testStore(t)
  const blob = testBlob(MIB)
  const partial = await store.openPartial(blob.digest, blob.size)
  const stream = partial.createReadStream()
  const seen: Buffer[] = []
  stream.on('data', (bytes: Buffer) => seen.push(bytes))
  const ended = once(stream, 'end')
  await writeAll(partial, blob, [3, 2, 1])
  assert.equal(stream.position, 0)
  await partial.writeChunk(0, blob.chunk(0))
  while (stream.position < partial.chunkSizeBytes * 3) await once(stream, 'data')
  assert.equal(stream.position, partial.chunkSizeBytes * 3)
  await partial.complete()
  await partial.close()
  await ended
  assertBytes(Buffer.concat(seen), blob.content)
})

test('streams end with the reason of the close, the signal, or their range', async (t) => {
  const store = await testStore(t)
  const blob = testBlob(MIB)
  const partial = await store.openPartial(blob.digest, blob.size)
  await writeAll(partial, blob, [0])
  assert.throws(() => partial.createReadStream({ start: blob.size + 1 }), RangeError)
  assert.throws(() => partial.createReadStream({ end: blob.size }), RangeError)
  assertBytes(await readAll(partial.createReadStream({ start: 5, end: 9 })), blob.content.subarray(5, 10))
  const aborting = new AbortController()
  const aborted = readAll(partial.createReadStream({ signal: aborting.signal }))
  const closed = readAll(partial.createReadStream())
  aborting.abort()
  await assert.rejects(aborted, { name: 'AbortError' })
  const rejected = assert.rejects(closed, /nobody has it/)
  await partial.close(new Error('nobody has it'))
  await rejected
  assert.throws(() => partial.createReadStream(), StoreClosedError)
  await assert.rejects(partial.writeChunk(1, blob.chunk(1)), StoreClosedError)
  const again = await store.openPartial(blob.digest, blob.size)
  assert.notEqual(again, partial)
  assert.deepEqual([...again.chunks.indices()], [0])
  await again.close()
})

test('a stream that comes after the close of a whole blob is refused, and holds nothing', async (t) => {
  const store = await testStore(t, { quotaBytes: 2 * MIB })
  const [blob, other] = [testBlob(MIB), testBlob(MIB + 1)]
  const partial = await store.openPartial(blob.digest, blob.size)
  await writeAll(partial, blob)
  await partial.complete()
  await partial.close()
  assert.throws(() => partial.createReadStream(), StoreClosedError)
  const user = await store.open(blob.digest)
  await assert.rejects(store.put(other.digest, other.content), StoreFullError)
  assert.equal(store.has(blob.digest), true, 'who has it open holds it')
  user!.release()
})
