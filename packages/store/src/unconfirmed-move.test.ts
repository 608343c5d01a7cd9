// A blob whose move to its place cannot be confirmed, because no descriptor is left to open its folder with.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import test from 'node:test'
import { StoreFailedError } from './errors.ts'
import { temporaryFolder, testBlob, testStore, writeAll } from './store-fixture.ts'
import { verifyStore } from './verify-store.ts'

/** Runs something while this process can open no file. */
async function withoutDescriptors(run: () => Promise<void>): Promise<void> {
  const limitTo = (limits: string) => execFileSync('prlimit', ['--pid', String(process.pid), `--nofile=${limits}`])
  const before = execFileSync('prlimit', ['--pid', String(process.pid), '--nofile', '--output=SOFT', '--noheadings'])
  limitTo('256:')
  const taken: number[] = []
  try {
    for (;;) taken.push(openSync('/dev/null', 'r'))
  } catch {
    await run()
  } finally {
    for (const descriptor of taken) closeSync(descriptor)
    limitTo(`${before.toString().trim()}:`)
  }
}

// It stayed in its place, where nobody counted it: the store outgrew its quota (chaos, seed 47).
test('it goes back to what is arriving, counts for the quota, and is completed later', async (t) => {
  const directory = await temporaryFolder(t)
  const store = await testStore(t, { directory })
  const blob = testBlob(3 * 256 * 1024)
  const partial = await store.openPartial(blob.digest, blob.size)
  await writeAll(partial, blob)
  await withoutDescriptors(() => assert.rejects(partial.complete(), StoreFailedError))
  await partial.close()

  const left = await verifyStore(directory)
  assert.equal(left.blobBytes, 0)
  assert.ok(left.partialBytes >= blob.size)
  assert.ok(store.usage().storedBytes >= blob.size)
  assert.equal(store.has(blob.digest), false)

  const again = await store.openPartial(blob.digest, blob.size)
  assert.equal(again.chunks.isFull, true)
  await again.complete()
  await again.close()
  const { blobBytes, partialBytes } = await verifyStore(directory)
  assert.deepEqual([blobBytes, partialBytes], [blob.size, 0])
})
