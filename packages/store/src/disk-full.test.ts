// A disk without room, on a small file system of its own.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { BlobFile } from './blob-file.ts'
import { StoreFullError } from './errors.ts'
import {
  assertBytes,
  cleanUp,
  readAll,
  storeBlob,
  temporaryFolder,
  testBlob,
  testStore,
  writeAll,
} from './store-fixture.ts'
import { verifyStore } from './verify-store.ts'

const MIB = 1024 * 1024

/** Mounts a file system of this size; undefined where that is not permitted. */
async function smallDisk(t: TestContext, sizeMib: number, inodes = 0): Promise<string | undefined> {
  const folder = join(await temporaryFolder(t), 'disk')
  await mkdir(folder)
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${sizeMib}m,nr_inodes=${inodes}`, 'tmpfs', folder], {
      stdio: 'ignore',
    })
  } catch {
    t.skip('mounting a file system is not permitted here')
    return undefined
  }
  cleanUp(t, () => execFileSync('umount', ['-l', folder]))
  return folder
}

test('a full disk refuses chunks, corrupts nothing, and takes them when there is room again', async (t) => {
  const disk = await smallDisk(t, 8)
  if (disk === undefined) return
  const store = await testStore(t, { directory: join(disk, 'store') })
  const blob = testBlob(4 * MIB)
  const partial = await store.openPartial(blob.digest, blob.size)
  await writeAll(partial, blob, [0, 1])
  const ballast = join(disk, 'ballast')
  await assert.rejects(writeFile(ballast, Buffer.alloc(8 * MIB)), { code: 'ENOSPC' })

  for (let index = 2; index < 6; index++) {
    await assert.rejects(partial.writeChunk(index, blob.chunk(index), blob.hash(index)), StoreFullError)
  }
  await assert.rejects(store.put(testBlob(MIB).digest, Buffer.alloc(3)), { name: 'DigestMismatchError' })
  const small = testBlob(MIB)
  await assert.rejects(store.put(small.digest, small.content), StoreFullError)
  assert.deepEqual([...partial.chunks.indices()], [0, 1])
  assert.equal(store.usage().storedBytes, 6 * 256 * 1024, 'what was tried may have been written in part')
  const first = Buffer.alloc(256 * 1024)
  await partial.readChunk(0, first)
  assertBytes(first, blob.chunk(0))

  await rm(ballast)
  await partial.close()
  const { partialBytes } = await verifyStore(join(disk, 'store'))
  assert.equal(store.usage().storedBytes, partialBytes)
  assert.ok(partialBytes < 4 * 256 * 1024, `${partialBytes} bytes`)
  const reopened = await store.openPartial(blob.digest, blob.size)
  await writeAll(reopened, blob)
  await reopened.complete()
  await reopened.close()
  await store.put(small.digest, small.content)
  assert.equal(store.has(small.digest), true)
  await store.close()
  const again = await testStore(t, { directory: join(disk, 'store') })
  const stored = await again.open(blob.digest)
  assertBytes(await readAll(stored!.createReadStream()), blob.content)
  stored!.release()
})

test('a full disk evicts what nobody uses, before it refuses', async (t) => {
  const disk = await smallDisk(t, 12)
  if (disk === undefined) return
  const store = await testStore(t, { directory: join(disk, 'store') })
  const [old, held, fresh] = [testBlob(3 * MIB), testBlob(3 * MIB), testBlob(6 * MIB)]
  await storeBlob(store, old)
  await storeBlob(store, held)
  const user = await store.open(held.digest)
  await storeBlob(store, fresh)
  assert.equal(store.has(old.digest), false)
  assert.equal(store.has(held.digest), true)
  user!.release()
})

// Regression: only writes of bytes made room, so that a blob could not even be begun once another program had filled the disk.
test('a disk that others have filled takes new blobs in the place of old ones', async (t) => {
  const disk = await smallDisk(t, 24)
  if (disk === undefined) return
  const store = await testStore(t, { directory: join(disk, 'store') })
  const old = Array.from({ length: 20 }, () => testBlob(600_000))
  for (const blob of old) await storeBlob(store, blob)
  await assert.rejects(writeFile(join(disk, 'ballast'), Buffer.alloc(24 * MIB)), { code: 'ENOSPC' })
  // The first write of the index that fails: from now on it needs room to be opened anew.
  await assert.rejects(store.records<string>('tags').put('too large', 'x'.repeat(MIB)), StoreFullError)

  const [fresh, small] = [testBlob(600_000), testBlob(3000)]
  await storeBlob(store, fresh)
  await store.put(small.digest, small.content)
  for (const { digest } of [fresh, small]) assert.equal(store.has(digest), true)
  assert.equal(store.has(old[0]!.digest), false)
  assert.equal(store.has(old.at(-1)!.digest), true, 'not more than is needed goes')
})

test('a disk that has no more files takes new blobs in the place of old ones', async (t) => {
  const disk = await smallDisk(t, 24, 200)
  if (disk === undefined) return
  const store = await testStore(t, { directory: join(disk, 'store') })
  const old = Array.from({ length: 10 }, () => testBlob(300_000))
  for (const blob of old) await storeBlob(store, blob)
  const fill = async (): Promise<void> => {
    for (let number = 0; ; number++) await writeFile(join(disk, `ballast-${number}`), '')
  }
  await assert.rejects(fill(), { code: 'ENOSPC' })

  const [fresh, small, empty] = [testBlob(300_000), testBlob(3000), testBlob(0)]
  await storeBlob(store, fresh)
  for (const blob of [small, empty]) await store.put(blob.digest, blob.content)
  for (const { digest } of [fresh, small, empty]) assert.equal(store.has(digest), true)
  assert.ok(store.usage().blobs > 5, `only ${store.usage().blobs} blobs are left`)
})

test('a blob that is larger than a file may be costs no other blob its place', async (t) => {
  const store = await testStore(t)
  const [old, large] = [testBlob(300_000), testBlob(10)]
  await storeBlob(store, old)
  const refused = Object.assign(new Error('file too large'), { code: 'EFBIG' })
  t.mock.method(BlobFile.prototype, 'setSize', () => Promise.reject(refused))
  await assert.rejects(store.openPartial(large.digest, 2 ** 33), StoreFullError)
  assert.equal(store.has(old.digest), true)
})

test('the index works on after it could not be written', async (t) => {
  const disk = await smallDisk(t, 8)
  if (disk === undefined) return
  const store = await testStore(t, { directory: join(disk, 'store') })
  const records = store.records<string>('tags')
  await records.put('before', 'x')
  const ballast = join(disk, 'ballast')
  await assert.rejects(writeFile(ballast, Buffer.alloc(8 * MIB)), { code: 'ENOSPC' })
  await assert.rejects(records.put('too large', 'x'.repeat(2 * MIB)), StoreFullError)
  await assert.rejects(records.put('too large', 'x'.repeat(2 * MIB)), StoreFullError)
  assert.equal(await records.get('before'), 'x')
  await rm(ballast)
  await records.put('after', 'y')
  assert.equal(await records.get('after'), 'y')
  assert.equal(await records.get('before'), 'x')
  assert.equal(await records.get('too large'), undefined)
})
