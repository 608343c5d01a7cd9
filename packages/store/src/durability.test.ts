// The order of what reaches the disk: bytes, then the map that names them.
import assert from 'node:assert/strict'
import { cp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { pino } from 'pino'
import { BlobFile } from './blob-file.ts'
import { ChunkMap } from './chunk-map.ts'
import { ChunkSyncer } from './chunk-syncer.ts'
import { StoreFailedError } from './errors.ts'
import type { LevelStore } from './level-store.ts'
import type { FilePartialBlob } from './partial-blob.ts'
import { PARTIAL_MAPS, StoreIndex } from './store-index.ts'
import { assertBytes, readAll, temporaryFolder, testBlob, testStore, writeAll, type TestBlob } from './store-fixture.ts'

const blob = testBlob(5 * 256 * 1024)

async function recorded(store: LevelStore, { digest, chunkCount }: TestBlob): Promise<number[]> {
  const bytes = await store.index.get(PARTIAL_MAPS, digest)
  return bytes === undefined ? [] : [...ChunkMap.fromBytes(chunkCount, bytes).indices()]
}

/** Lets the test decide when (and whether) bytes reach the disk. */
function holdDisk(t: TestContext): { reached: () => Promise<void>; finish: (error?: Error) => void } {
  const waiting = Promise.withResolvers<void>()
  const done = Promise.withResolvers<void>()
  t.mock.method(BlobFile.prototype, 'datasync', () => {
    waiting.resolve()
    return done.promise
  })
  const finish = (error?: Error): void => {
    if (error === undefined) done.resolve()
    else done.reject(error)
  }
  return { reached: () => waiting.promise, finish }
}

test('a chunk is in the durable map only after its bytes are on the disk', async (t) => {
  const store = await testStore(t)
  const partial = (await store.openPartial(blob.digest, blob.size)) as FilePartialBlob
  await writeAll(partial, blob, [0, 1, 2])
  const disk = holdDisk(t)
  const syncing = partial.sync()
  await disk.reached()
  assert.deepEqual(await recorded(store, blob), [])
  // Chunk 1 is taken back and written anew, and 3 is written, while the bytes of the old ones are on their way.
  await partial.discard([1])
  await writeAll(partial, blob, [1, 3])
  disk.finish()
  await syncing
  assert.deepEqual(await recorded(store, blob), [0, 2])
  await partial.sync()
  assert.deepEqual(await recorded(store, blob), [0, 1, 2, 3])
  await partial.discard([0, 3])
  assert.deepEqual(await recorded(store, blob), [1, 2], 'a chunk leaves the map before its place is written again')
})

test('chunks that did not reach the disk are not there any more', async (t) => {
  const directory = await temporaryFolder(t)
  const store = await testStore(t, { directory })
  const partial = (await store.openPartial(blob.digest, blob.size)) as FilePartialBlob
  await writeAll(partial, blob, [0, 1])
  await partial.sync()
  await writeAll(partial, blob, [2])
  const stream = assert.rejects(readAll(partial.createReadStream()), StoreFailedError)
  const disk = holdDisk(t)
  const syncing = partial.sync()
  await disk.reached()
  disk.finish(Object.assign(new Error('input/output error'), { code: 'EIO' }))
  await assert.rejects(syncing, { name: 'StoreFailedError', code: 'EIO' })
  await stream
  await assert.rejects(partial.writeChunk(3, blob.chunk(3)), { code: 'EIO' })
  await assert.rejects(partial.complete(), { code: 'EIO' })
  t.mock.restoreAll()
  await partial.close()
  const again = await store.openPartial(blob.digest, blob.size)
  assert.deepEqual([...again.chunks.indices()], [0, 1])
  assert.equal(store.usage().storedBytes, 3 * 256 * 1024, 'the place of the lost one is still in the file')
  await writeAll(again, blob)
  await again.complete()
  await again.close()
})

test('those who wait for the last chunk need not wait for the disk', async (t) => {
  const store = await testStore(t)
  const partial = await store.openPartial(blob.digest, blob.size)
  await writeAll(partial, blob)
  const disk = holdDisk(t)
  const completing = partial.complete()
  assertBytes(await readAll(partial.createReadStream()), blob.content)
  assert.equal(store.has(blob.digest), false)
  disk.finish()
  await completing
  assert.equal(store.has(blob.digest), true)
  await partial.close()
})

test('the syncer waits five seconds, or for 256 MiB', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const syncer = new ChunkSyncer(pino({ level: 'silent' }))
  let synced = 0
  let fails = false
  const small = {
    sync: async () => {
      synced++
      if (fails) throw new Error('not now')
    },
  }
  const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
  syncer.mark(small, 1)
  syncer.mark(small, 1)
  t.mock.timers.tick(4999)
  assert.equal(synced, 0)
  t.mock.timers.tick(1)
  assert.equal(synced, 1)
  await settled()
  syncer.mark(small, 256 * 1024 * 1024)
  assert.equal(synced, 2)
  await settled()
  fails = true
  syncer.mark(small, 1)
  t.mock.timers.tick(5000)
  await settled()
  t.mock.timers.tick(5000)
  assert.equal(synced, 4, 'what failed is tried again')
  await syncer.close()
})

test('a read during which a chunk was replaced is made again', async (t) => {
  const store = await testStore(t)
  const partial = await store.openPartial(blob.digest, blob.size)
  const wrong = Buffer.alloc(blob.chunk(0).byteLength, 1)
  await partial.writeChunk(0, wrong)
  const read = Object.getOwnPropertyDescriptor(BlobFile.prototype, 'read')?.value as BlobFile['read']
  const arrived = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  const go = Promise.withResolvers<void>()
  let reads = 0
  t.mock.method(BlobFile.prototype, 'read', async function (this: BlobFile, into: Uint8Array, position: number) {
    await read.call(this, into, position)
    arrived[reads++]?.resolve()
    await go.promise
  })
  const into = Buffer.alloc(wrong.byteLength)
  const reading = partial.readChunk(0, into)
  const streaming = readAll(partial.createReadStream({ end: wrong.byteLength - 1 }))
  await Promise.all(arrived.map(({ promise }) => promise))
  await partial.discard([0])
  await partial.writeChunk(0, blob.chunk(0))
  go.resolve()
  await reading
  assertBytes(into, blob.chunk(0))
  assertBytes(await streaming, blob.chunk(0))
})

test('a blob is not whole when a sync before the last one failed, though that one succeeds', async (t) => {
  const store = await testStore(t)
  const partial = (await store.openPartial(blob.digest, blob.size)) as FilePartialBlob
  await writeAll(partial, blob)
  const failing = Promise.withResolvers<void>()
  const reached = Promise.withResolvers<void>()
  let syncs = 0
  t.mock.method(BlobFile.prototype, 'datasync', () => {
    if (syncs++ > 0) return Promise.resolve()
    reached.resolve()
    return failing.promise
  })
  const syncing = assert.rejects(partial.sync(), { code: 'EIO' })
  await reached.promise
  const reading = readAll(partial.createReadStream())
  const completing = assert.rejects(partial.complete(), { code: 'EIO' })
  // Its digest has matched: only the disk is waited for.
  await reading
  failing.reject(Object.assign(new Error('input/output error'), { code: 'EIO' }))
  await Promise.all([syncing, completing])
  assert.equal(store.has(blob.digest), false)
  t.mock.restoreAll()
  await partial.close()
})

// Regression: the rows that such a sync wrote outlived the blob, and once it was evicted and wanted again they made chunks
// of the holes in its new file.
test('a sync beside the end of a blob leaves no row of it as an arriving one', async (t) => {
  const store = await testStore(t)
  const partial = (await store.openPartial(blob.digest, blob.size)) as FilePartialBlob
  await writeAll(partial, blob)
  const reached = Promise.withResolvers<void>()
  const whole = Promise.withResolvers<void>()
  let syncs = 0
  t.mock.method(BlobFile.prototype, 'datasync', () => {
    reached.resolve()
    return syncs++ === 0 ? Promise.resolve() : whole.promise
  })
  const completing = partial.complete()
  await reached.promise
  const syncing = partial.sync()
  await completing
  whole.resolve()
  await syncing
  await partial.close()
  await store.index.write([], true)
  assert.equal(await store.index.get(PARTIAL_MAPS, blob.digest), undefined)
})

test('chunks that were removed do not come back as holes when the power is lost after the next start of the blob', async (t) => {
  const [directory, afterwards] = [await temporaryFolder(t), await temporaryFolder(t)]
  const store = await testStore(t, { directory })
  const write = Object.getOwnPropertyDescriptor(StoreIndex.prototype, 'write')?.value as StoreIndex['write']
  // What a loss of power leaves of the index: all up to the last write that was waited for.
  t.mock.method(StoreIndex.prototype, 'write', async function (this: StoreIndex, ...args: Parameters<typeof write>) {
    await write.apply(this, args)
    if (!args[1]) return
    await rm(join(afterwards, 'index'), { recursive: true, force: true })
    await cp(join(directory, 'index'), join(afterwards, 'index'), { recursive: true })
  })
  const first = await store.openPartial(blob.digest, blob.size)
  await writeAll(first, blob, [0, 1, 2])
  await first.close()
  assert.deepEqual(await recorded(store, blob), [0, 1, 2])
  assert.equal(await store.delete(blob.digest), true)
  await store.openPartial(blob.digest, blob.size)
  t.mock.restoreAll()
  await cp(join(directory, 'partial'), join(afterwards, 'partial'), { recursive: true })

  const again = await testStore(t, { directory: afterwards })
  const partial = await again.openPartial(blob.digest, blob.size)
  assert.equal(partial.chunks.count, 0)
  await partial.close()
})
