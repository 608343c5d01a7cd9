import assert from 'node:assert/strict'
import { once } from 'node:events'
import { pipeline } from 'node:stream/promises'
import { Writable } from 'node:stream'
import { test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import { STREAM_BUFFER_BYTES, type BlobStream } from './blob-stream.ts'
import { assertBytes, readAll, storeBlob, testBlob, testStore, writeAll } from './store-fixture.ts'

test('a range of a stored blob is exactly that, in buffers of a MiB', async (t) => {
  const store = await testStore(t)
  const blob = testBlob(3_500_000)
  await storeBlob(store, blob)
  const stored = (await store.open(blob.digest))!
  const position = fc.nat({ max: blob.size - 1 })
  await fc.assert(
    fc.asyncProperty(position, position, async (a, b) => {
      const [start, end] = [Math.min(a, b), Math.max(a, b)]
      const stream = stored.createReadStream({ start, end })
      let got = start
      for await (const piece of stream as AsyncIterable<Buffer>) {
        assert.ok(piece.equals(blob.content.subarray(got, got + piece.byteLength)))
        got += piece.byteLength
        assert.ok(piece.byteLength === STREAM_BUFFER_BYTES || got === end + 1)
      }
      assert.equal(got, end + 1)
    }),
    { numRuns: 30 },
  )
  assert.deepEqual(await readAll(stored.createReadStream({ start: blob.size })), Buffer.alloc(0))
  for (const range of [{ start: -1 }, { end: blob.size }, { start: 1.5 }, { start: 9, end: 2 }]) {
    assert.throws(() => stored.createReadStream(range), RangeError)
  }
  const signal = AbortSignal.abort()
  await assert.rejects(readAll(stored.createReadStream({ signal })), { name: 'AbortError' })
  stored.release()
  assert.equal(await store.delete(blob.digest), true, 'all streams have let go')
})

test('what comes back is filled again or freed, and what is of others is left alone', async (t) => {
  const store = await testStore(t)
  const blob = testBlob(3_500_000)
  await storeBlob(store, blob)
  const stored = (await store.open(blob.digest))!
  const whole = stored.createReadStream() as BlobStream
  const given: Buffer[] = []
  for await (const piece of whole as AsyncIterable<Buffer>) {
    assert.ok(piece.length > 0)
    given.push(piece)
    if (given.length === 1) whole.recycle(piece)
  }
  // The first one came back while the stream still read.
  assert.equal(new Set(given.map(({ buffer }) => buffer)).size, 3)
  for (const piece of given) whole.recycle(piece)
  assert.deepEqual(
    given.map(({ length }) => length),
    [0, 0, 0, 0],
  )
  const small = stored.createReadStream({ end: 9 }) as BlobStream
  const [piece] = (await small.toArray()) as [Buffer]
  const others = Buffer.from('shares its memory with others')
  for (const each of [piece, others, Buffer.alloc(10), Buffer.concat([others, others])]) small.recycle(each)
  assert.deepEqual([piece.length, others.toString()], [0, 'shares its memory with others'])
  stored.release()
})

test('a reader that stands still stops the reading', async (t) => {
  const store = await testStore(t)
  const blob = testBlob(8 * STREAM_BUFFER_BYTES)
  const partial = await store.openPartial(blob.digest, blob.size)
  const stream = partial.createReadStream()
  stream.once('data', () => stream.pause())
  await writeAll(partial, blob)
  await partial.complete()
  await partial.close()
  for (let i = 0; i < 100; i++) await turn()
  assert.ok(stream.position <= 3 * STREAM_BUFFER_BYTES, `it read on to ${stream.position}`)
  stream.destroy()
  await once(stream, 'close')
  assert.equal(await store.delete(blob.digest), true)
})

test('slow and fast readers of an arriving blob all get all of it', async (t) => {
  const store = await testStore(t, { hashing: 'thread' })
  const blob = testBlob(5 * STREAM_BUFFER_BYTES + 77)
  const partial = await store.openPartial(blob.digest, blob.size)
  const starts = [0, 1, 262_143, 262_144, 3_000_000, blob.size - 1]
  const readers = starts.map(async (start, number) => {
    const pieces: Buffer[] = []
    const sink = new Writable({
      highWaterMark: 1,
      write(piece: Buffer, _encoding, done) {
        pieces.push(piece)
        let left = number * 3
        const later = (): void => {
          if (left-- > 0) setImmediate(later)
          else done()
        }
        later()
      },
    })
    await pipeline(partial.createReadStream({ start }), sink)
    assertBytes(Buffer.concat(pieces), blob.content.subarray(start))
  })
  const gone = partial.createReadStream()
  gone.once('data', () => gone.destroy())
  const closed = once(gone, 'close')
  const order = [...Array(blob.chunkCount).keys()].sort((a, b) => (a % 5) - (b % 5))
  await writeAll(partial, blob, order)
  await partial.complete()
  await partial.close()
  await Promise.all([...readers, closed])
  assert.equal(await store.delete(blob.digest), true)
})

test('the last chunk of a blob with the wrong digest never leaves', async (t) => {
  const store = await testStore(t)
  const blob = testBlob(500_000)
  const partial = await store.openPartial(blob.digest, blob.size)
  await partial.writeChunk(0, blob.chunk(0))
  await partial.writeChunk(1, Buffer.alloc(blob.chunk(1).byteLength))
  const stream = partial.createReadStream()
  let received = 0
  stream.on('data', (piece: Buffer) => (received += piece.byteLength))
  const failed = once(stream, 'error')
  await assert.rejects(partial.complete(), { name: 'DigestMismatchError' })
  await partial.close(new Error('given up'))
  assert.match(String((await failed)[0]), /given up/)
  assert.ok(received <= blob.chunk(0).byteLength)
})
