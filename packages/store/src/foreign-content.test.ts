import assert from 'node:assert/strict'
import { mkdir, readdir, rm, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { BlobDamagedError } from './errors.ts'
import { FOREIGN, put } from './store-index.ts'
import { assertBytes, readAll, temporaryFolder, testBlob, testStore, type TestBlob } from './store-fixture.ts'

const MIB = 1024 * 1024

async function contentStore(
  t: TestContext,
  blobs: TestBlob[],
): Promise<{ folder: string; file: (b: TestBlob) => string }> {
  const folder = await temporaryFolder(t)
  const file = (blob: TestBlob): string => join(folder, 'blobs', 'sha256', blob.digest.slice(7))
  await mkdir(join(folder, 'blobs', 'sha256'), { recursive: true })
  for (const blob of blobs) await writeFile(file(blob), blob.content)
  return { folder, file }
}

test('blobs of containerd are served after they were verified, and count as nobody’s bytes', async (t) => {
  const [good, bad, later] = [testBlob(700_000), testBlob(700_000), testBlob(10)]
  const { folder, file } = await contentStore(t, [good, bad])
  await writeFile(file(bad), Buffer.alloc(700_000))
  const directory = await temporaryFolder(t)
  let store = await testStore(t, { directory, containerdContentDirectory: folder, quotaBytes: 1000 })
  assert.equal(store.has(good.digest), true)
  const [stored, second] = await Promise.all([store.open(good.digest), store.open(good.digest)])
  assertBytes(await readAll(stored!.createReadStream()), good.content)
  assert.deepEqual(Buffer.from(stored!.chunkHashes).subarray(32, 64), good.hash(1))
  stored!.release()
  second!.release()
  assert.equal(await store.open(bad.digest), undefined)
  assert.equal(store.has(bad.digest), false)
  assert.equal(store.usage().storedBytes, 0)
  assert.deepEqual(
    [...store.list()].map((entry) => [entry.digest, entry.storedBytes]),
    [[good.digest, 0]],
  )
  assert.equal(await store.delete(good.digest), false)

  assert.equal(await store.open(later.digest), undefined)
  await writeFile(file(later), later.content)
  const found = await store.open(later.digest)
  assertBytes(await readAll(found!.createReadStream()), later.content)
  found!.release()
  await store.close()

  await rm(file(later))
  store = await testStore(t, { directory, containerdContentDirectory: folder })
  assert.equal(store.has(later.digest), false)
  assert.equal(await store.open(later.digest), undefined)
  assert.equal([...store.list()].length, 1)
  assert.deepEqual((await readdir(join(folder, 'blobs', 'sha256'))).length, 2)
})

test('what changed since it was verified is verified again', async (t) => {
  const blob = testBlob(1000)
  const { folder, file } = await contentStore(t, [blob])
  const directory = await temporaryFolder(t)
  const store = await testStore(t, { directory, containerdContentDirectory: folder })
  ;(await store.open(blob.digest))!.release()
  await store.close()
  await writeFile(file(blob), Buffer.alloc(1000))
  const again = await testStore(t, { directory, containerdContentDirectory: folder })
  assert.equal(await again.open(blob.digest), undefined)
  await writeFile(file(blob), blob.content)
  const stored = await again.open(blob.digest)
  assertBytes(await readAll(stored!.createReadStream()), blob.content)
  stored!.release()
})

test('what the disk has harmed since it was verified is not handed out, though size and time are the same', async (t) => {
  const [small, large] = [testBlob(700_000), testBlob(20 * MIB)]
  const { folder, file } = await contentStore(t, [small, large])
  const directory = await temporaryFolder(t)
  const when = new Date()
  for (const blob of [small, large]) await utimes(file(blob), when, when)
  const first = await testStore(t, { directory, containerdContentDirectory: folder })
  for (const blob of [small, large]) (await first.open(blob.digest))!.release()
  await first.close()
  for (const blob of [small, large]) {
    const bytes = Buffer.from(blob.content)
    bytes[bytes.length / 2]! ^= 1
    await writeFile(file(blob), bytes)
    await utimes(file(blob), when, when)
  }

  const store = await testStore(t, { directory, containerdContentDirectory: folder })
  assert.equal(await store.open(small.digest), undefined)
  const opened = await store.open(large.digest)
  assert.ok(opened)
  const part = Buffer.alloc(MIB)
  await opened.readAt(0, part)
  assertBytes(part, large.content.subarray(0, MIB))
  await assert.rejects(opened.readAt(10 * MIB, part), BlobDamagedError)
  opened.release()
  assert.equal(store.has(large.digest), false)
  assert.equal(await store.open(large.digest), undefined)
  assert.deepEqual([...store.list()], [])

  // containerd has fetched it anew.
  await writeFile(file(large), large.content)
  const again = await store.open(large.digest)
  assertBytes(await readAll(again!.createReadStream()), large.content)
  again!.release()
})

test('a content store that is not there is no error', async (t) => {
  const store = await testStore(t, { containerdContentDirectory: '/nowhere/at/all' })
  assert.equal(await store.open(testBlob(1).digest), undefined)
})

test('a blob of containerd whose row was damaged is verified again', async (t) => {
  const blob = testBlob(700_000)
  const { folder } = await contentStore(t, [blob])
  const directory = await temporaryFolder(t)
  const first = await testStore(t, { directory, containerdContentDirectory: folder })
  ;(await first.open(blob.digest))!.release()
  await first.index.write([put(FOREIGN, blob.digest, { sizfBytes: 700_000, modifiedMs: 1 } as never)], true)
  await first.close()
  const store = await testStore(t, { directory, containerdContentDirectory: folder })
  assert.deepEqual([...store.list()], [])
  ;(await store.open(blob.digest))!.release()
  assert.deepEqual(
    [...store.list()].map(({ sizeBytes }) => sizeBytes),
    [700_000],
  )
})
