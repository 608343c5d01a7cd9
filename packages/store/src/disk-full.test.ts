// A disk without room, on a small file system of its own.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
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
async function smallDisk(t: TestContext, sizeMib: number): Promise<string | undefined> {
  const folder = join(await temporaryFolder(t), 'disk')
  await mkdir(folder)
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${sizeMib}m`, 'tmpfs', folder], { stdio: 'ignore' })
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
