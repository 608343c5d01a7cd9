// What the quota counts is what the disk holds, also of chunks that are not good.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { BlobTable, newEntry } from './blob-table.ts'
import { ChunkMismatchError, StoreFullError } from './errors.ts'
import type { LevelStore } from './level-store.ts'
import { storeBlob, temporaryFolder, testBlob, testStore, writeAll, type TestBlob } from './store-fixture.ts'
import type { PartialBlob } from './store.ts'
import { del, HASHES } from './store-index.ts'
import { verifyStore } from './verify-store.ts'

const CHUNK = 256 * 1024
/** What a file system may need beside the places themselves. Far less than one place. */
const OVERHEAD_BYTES = 32 * 1024

async function assertCounted(store: LevelStore, directory: string): Promise<void> {
  const { blobBytes, partialBytes } = await verifyStore(directory)
  const { storedBytes, quotaBytes } = store.usage()
  const message = `${blobBytes} + ${partialBytes} bytes are on the disk, ${storedBytes} are counted`
  assert.ok(blobBytes + partialBytes <= storedBytes + OVERHEAD_BYTES, message)
  assert.ok(storedBytes <= quotaBytes, `${storedBytes} of ${quotaBytes} bytes`)
}

/** As from a peer that lies. */
async function writeWrong(partial: PartialBlob, blob: TestBlob, index: number): Promise<void> {
  const wrong = randomBytes(blob.chunk(index).byteLength)
  await assert.rejects(partial.writeChunk(index, wrong, blob.hash(index)), ChunkMismatchError)
}

// Chunks that were refused gave their bytes back to the quota, but their blocks stayed: the store outgrew its quota.
test('a peer that sends wrong chunks over and over does not make the store outgrow its quota', async (t) => {
  const directory = await temporaryFolder(t)
  let store = await testStore(t, { directory, quotaBytes: 6 * CHUNK })
  const [old, blob, other] = [testBlob(2 * CHUNK), testBlob(5 * CHUNK), testBlob(2 * CHUNK)]
  await storeBlob(store, old)
  const partial = await store.openPartial(blob.digest, blob.size)
  for (let round = 0; round < 3; round++) {
    for (let index = 0; index < blob.chunkCount; index++) {
      await writeWrong(partial, blob, index)
      await assertCounted(store, directory)
    }
  }
  assert.equal(store.usage().storedBytes, 5 * CHUNK, 'each place counts once')
  assert.equal(store.has(old.digest), false, 'it had to go for the places of wrong chunks')

  // Another blob gets what is left, and not more.
  const second = await store.openPartial(other.digest, other.size)
  await writeAll(second, other, [0])
  await assert.rejects(second.writeChunk(1, other.chunk(1), other.hash(1)), StoreFullError)
  await second.close()

  // The places are taken up again by right chunks, which need no more room, and kept through discards and restarts.
  await writeAll(partial, blob, [0, 1])
  await partial.discard([1])
  assert.equal(store.usage().storedBytes, 6 * CHUNK)
  await partial.close()
  await store.close()
  store = await testStore(t, { directory, quotaBytes: 6 * CHUNK })
  await assertCounted(store, directory)
  assert.ok(store.usage().storedBytes >= 5 * CHUNK, 'before anybody has opened the blob again')
  const resumed = await store.openPartial(blob.digest, blob.size)
  assert.deepEqual([...resumed.chunks.indices()], [0])
  await assertCounted(store, directory)
  await writeAll(resumed, blob)
  await resumed.complete()
  await resumed.close()
  assert.equal([...store.list()].find(({ digest }) => digest === blob.digest)?.storedBytes, blob.size)
  await assertCounted(store, directory)
})

test('places of wrong chunks are given back with the blob', async (t) => {
  const directory = await temporaryFolder(t)
  const store = await testStore(t, { directory, quotaBytes: 4 * CHUNK })
  const [lied, deleted, blob] = [testBlob(3 * CHUNK), testBlob(CHUNK), testBlob(4 * CHUNK)]
  for (const victim of [lied, deleted]) {
    const partial = await store.openPartial(victim.digest, victim.size)
    await writeWrong(partial, victim, 0)
    await partial.close()
    await assertCounted(store, directory)
  }
  assert.equal(await store.delete(deleted.digest), true)
  assert.equal(store.usage().storedBytes, CHUNK)
  // Nobody has the other one open: it is evicted, though it has no chunk.
  await storeBlob(store, blob)
  assert.equal(store.usage().storedBytes, blob.size)
  assert.equal(store.usage().partialBlobs, 0)
  await assertCounted(store, directory)
})

// The blob was forgotten, but its file stayed and counted no more.
test('a whole blob whose chunk hashes were lost is verified when it is to be fetched again', async (t) => {
  const directory = await temporaryFolder(t)
  const store = await testStore(t, { directory, quotaBytes: 4 * CHUNK })
  const blob = testBlob(2 * CHUNK)
  await storeBlob(store, blob)
  await store.index.write([del(HASHES, blob.digest)], true)
  const partial = await store.openPartial(blob.digest, blob.size)
  assert.equal(partial.chunks.isFull, true)
  await partial.close()
  await assertCounted(store, directory)
})

test('what is evicted makes room only when it is off the disk', async () => {
  const removed = Promise.withResolvers<void>()
  const removing = Promise.withResolvers<void>()
  const table = new BlobTable({
    quotaBytes: 100,
    isPinned: () => false,
    isBusy: () => false,
    evict: () => {
      removing.resolve()
      return removed.promise
    },
  })
  table.add({ ...newEntry(testBlob(1).digest, 90), storedBytes: 90 })
  const [large, small] = [table.add(newEntry(testBlob(2).digest, 50)), table.add(newEntry(testBlob(3).digest, 50))]
  large.holds = small.holds = 1
  const order: string[] = []
  const reserving = table.reserve(large, 50)
  await removing.promise
  const also = table.reserve(small, 50).then(() => order.push('reserved'))
  // All that a reservation without eviction would take.
  await new Promise((resolve) => setImmediate(resolve))
  order.push('removed')
  removed.resolve()
  await Promise.all([reserving, also])
  assert.deepEqual(order, ['removed', 'reserved'])
  assert.equal(table.storedBytes, 100)
})
