import assert from 'node:assert/strict'
import { cp, readdir, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { Registry } from 'prom-client'
import { StoreFullError } from './errors.ts'
import { PARTIALS } from './store-index.ts'
import { StoreLayout } from './store-layout.ts'
import { assertBytes, readAll, storeBlob, temporaryFolder, testBlob, testStore, writeAll } from './store-fixture.ts'

const SIZE = 600_000

test('the least recently used blob goes first, also after a restart', async (t) => {
  const directory = await temporaryFolder(t)
  const metrics = new Registry()
  const blobs = [testBlob(SIZE), testBlob(SIZE), testBlob(SIZE)] as const
  let store = await testStore(t, { directory, quotaBytes: 3 * SIZE })
  for (const blob of blobs) await storeBlob(store, blob)
  ;(await store.open(blobs[0].digest))!.release()
  await store.close()
  store = await testStore(t, { directory, quotaBytes: 3 * SIZE, metrics })
  await storeBlob(store, testBlob(10))
  assert.deepEqual(
    blobs.map((blob) => store.has(blob.digest)),
    [true, false, true],
  )
  await storeBlob(store, testBlob(SIZE))
  assert.deepEqual(
    blobs.map((blob) => store.has(blob.digest)),
    [true, false, false],
  )
  assert.equal(store.usage().storedBytes, 2 * SIZE + 10)
  const shown = await metrics.metrics()
  assert.match(shown, /shoal_store_evictions_total 2/)
  assert.match(shown, new RegExp(`shoal_store_bytes ${2 * SIZE + 10}`))
  assert.match(shown, /shoal_store_blobs\{state="complete"\} 3/)
})

test('who asks to be told hears of each whole blob that goes, and of nothing else', async (t) => {
  const store = await testStore(t, { quotaBytes: 3 * SIZE })
  const gone: string[] = []
  store.onRemoved = (digest) => gone.push(digest)
  const [evicted, deleted, kept, arriving] = [testBlob(SIZE), testBlob(SIZE), testBlob(SIZE), testBlob(SIZE)]
  for (const blob of [evicted, deleted]) await storeBlob(store, blob)
  const partial = await store.openPartial(arriving.digest, arriving.size)
  await writeAll(partial, arriving, [0])
  await partial.close()
  assert.equal(await store.delete(arriving.digest), true)
  assert.deepEqual(gone, [])
  await store.delete(deleted.digest)
  for (const blob of [kept, testBlob(SIZE), testBlob(SIZE)]) await storeBlob(store, blob)
  assert.deepEqual(gone, [deleted.digest, evicted.digest])
})

test('what is read, held, pinned or arriving stays', async (t) => {
  const store = await testStore(t, { quotaBytes: 4 * SIZE })
  const [held, streamed, pinned, arriving] = [testBlob(SIZE), testBlob(SIZE), testBlob(SIZE), testBlob(SIZE)]
  for (const blob of [held, streamed, pinned]) await storeBlob(store, blob)
  const handle = await store.open(held.digest)
  const reader = await store.open(streamed.digest)
  const stream = reader!.createReadStream()
  reader!.release()
  await store.pin(pinned.digest)
  const partial = await store.openPartial(arriving.digest, arriving.size)
  await writeAll(partial, arriving, [0, 1])

  const other = testBlob(SIZE)
  await assert.rejects(store.put(other.digest, other.content), StoreFullError)
  await writeAll(partial, arriving)
  await assert.rejects(store.put(testBlob(1).digest, Buffer.from([0])), { name: 'DigestMismatchError' })
  for (const blob of [held, streamed, pinned]) assert.equal(store.has(blob.digest), true)
  assert.equal(await store.delete(held.digest), false)
  assert.equal(await store.delete(arriving.digest), false)

  assertBytes(await readAll(stream), streamed.content)
  await store.put(other.digest, other.content)
  assert.equal(store.has(streamed.digest), false)
  handle!.release()
  handle!.release()
  await partial.complete()
  await partial.close()
  await store.unpin(pinned.digest)
  const big = testBlob(4 * SIZE)
  await store.put(big.digest, big.content)
  assert.deepEqual(
    [...store.list()].map((entry) => entry.digest),
    [big.digest],
  )
})

test('an arriving blob that nobody has open is evicted in its turn', async (t) => {
  const store = await testStore(t, { quotaBytes: 2 * SIZE })
  const [idle, blob, next] = [testBlob(SIZE), testBlob(SIZE), testBlob(SIZE)]
  const partial = await store.openPartial(idle.digest, idle.size)
  await writeAll(partial, idle)
  await partial.close()
  await storeBlob(store, blob)
  await storeBlob(store, next)
  assert.equal(store.usage().partialBlobs, 0)
  assert.equal(store.has(blob.digest), true)
  const again = await store.openPartial(idle.digest, idle.size)
  assert.equal(again.chunks.count, 0)
  await again.close()
})

test('a blob that cannot fit is refused at once, and many writers share the quota without exceeding it', async (t) => {
  const store = await testStore(t, { quotaBytes: 3 * SIZE })
  await assert.rejects(store.openPartial(testBlob(1).digest, 3 * SIZE + 1), StoreFullError)
  const blobs = Array.from({ length: 12 }, () => testBlob(SIZE))
  await Promise.all(blobs.map((blob) => store.put(blob.digest, blob.content).catch(() => undefined)))
  assert.ok(store.usage().storedBytes <= 3 * SIZE)
  assert.ok(store.usage().blobs > 0)
})

test('an arriving blob that never got a byte leaves nothing behind, also after a crash', async (t) => {
  const [directory, crashed] = [await temporaryFolder(t), await temporaryFolder(t)]
  const store = await testStore(t, { directory })
  const blob = testBlob(SIZE)
  const partial = await store.openPartial(blob.digest, blob.size)
  await cp(directory, crashed, { recursive: true })
  // A copy has no holes.
  await truncate(new StoreLayout(crashed).partialFile(blob.digest), 0)
  await partial.close()
  await store.close()
  await (await testStore(t, { directory: crashed })).close()
  for (const folder of [directory, crashed]) {
    assert.deepEqual(await readdir(join(folder, 'partial', 'sha256')), [])
    const again = await testStore(t, { directory: folder })
    assert.equal(again.usage().partialBlobs, 0)
    assert.equal(await again.index.get(PARTIALS, blob.digest), undefined)
  }
})
