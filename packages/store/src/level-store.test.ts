import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { BlobSizeError, DigestMismatchError, StoreClosedError, StoreLockedError } from './errors.ts'
import { openStore } from './open-store.ts'
import { assertBytes, readAll, storeBlob, temporaryFolder, testBlob, testStore, writeAll } from './store-fixture.ts'
import { verifyStore } from './verify-store.ts'

test('a store that another one has open is refused by name', async (t) => {
  const directory = await temporaryFolder(t)
  const store = await testStore(t, { directory })
  await assert.rejects(openStore({ directory }), (error: Error) => {
    assert.ok(error instanceof StoreLockedError)
    assert.match(error.message, new RegExp(directory))
    return true
  })
  await store.close()
  await (await openStore({ directory })).close()
  const room = JSON.stringify(new URL('./open-store.ts', import.meta.url).href)
  // Until it is killed: one that has something to do may have ended before it is looked at.
  const program = `import { openStore } from ${room}
    await openStore({ directory: ${JSON.stringify(directory)} })
    console.log('open')
    setInterval(() => undefined, 1e9)`
  const stdio = ['ignore', 'pipe', 'inherit'] as const
  const child = spawn(process.execPath, ['--input-type=module', '--eval', program], { stdio: [...stdio] })
  await once(child.stdout, 'data')
  await assert.rejects(openStore({ directory }), StoreLockedError)
  const exited = once(child, 'exit')
  child.kill('SIGKILL')
  await exited
  await (await openStore({ directory })).close()
})

test('small content is stored in one go and keeps its type', async (t) => {
  const directory = await temporaryFolder(t)
  const store = await testStore(t, { directory })
  const manifest = testBlob(Buffer.from('{"schemaVersion":2}'))
  await assert.rejects(store.put(manifest.digest, Buffer.from('{}')), DigestMismatchError)
  assert.equal(store.has(manifest.digest), false)
  await Promise.all([1, 2, 3].map(() => store.put(manifest.digest, manifest.content)))
  await store.put(manifest.digest, manifest.content, 'application/vnd.oci.image.manifest.v1+json')
  await store.close()
  const again = await testStore(t, { directory })
  const stored = await again.open(manifest.digest)
  assert.equal(stored!.mediaType, 'application/vnd.oci.image.manifest.v1+json')
  assert.equal(stored!.sizeBytes, manifest.size)
  const into = Buffer.alloc(6)
  await stored!.readAt(2, into)
  assert.equal(into.toString(), 'schema')
  await assert.rejects(stored!.readAt(manifest.size - 1, into), RangeError)
  stored!.release()
  await assert.rejects(stored!.readAt(0, into), StoreClosedError)
  assert.equal(await again.delete(manifest.digest), true)
  assert.equal(await again.delete(manifest.digest), false)
  assert.equal(await again.open(manifest.digest), undefined)
  assert.equal(again.usage().storedBytes, 0)
})

test('content that is put while it is arriving releases those who wait for it', async (t) => {
  const store = await testStore(t)
  const blob = testBlob(300_000)
  const partial = await store.openPartial(blob.digest, blob.size)
  const waiting = readAll(partial.createReadStream())
  await store.put(blob.digest, blob.content, 'text/plain')
  assertBytes(await waiting, blob.content)
  assert.equal(store.usage().storedBytes, blob.size)
  await partial.close()
  assert.equal(await store.delete(blob.digest), true)
})

test('content that is put while it is arriving under a wrong size takes its place, also in the account', async (t) => {
  const directory = await temporaryFolder(t)
  const store = await testStore(t, { directory })
  const [manifest, liar] = [testBlob(5000), testBlob(700_000)]
  const partial = await store.openPartial(manifest.digest, liar.size)
  await partial.writeChunk(0, liar.chunk(0))
  const waiting = assert.rejects(readAll(partial.createReadStream()), BlobSizeError)
  await store.put(manifest.digest, manifest.content)
  const { blobBytes, partials } = await verifyStore(directory)
  assert.deepEqual([blobBytes, partials], [5000, 0])
  assert.equal(store.usage().storedBytes, 5000)
  await waiting
  await assert.rejects(partial.writeChunk(1, liar.chunk(1)), StoreClosedError)
})

test('content that is put is stored though who was fetching it gives it up meanwhile', async (t) => {
  const store = await testStore(t)
  const blob = testBlob(600_000)
  const partial = await store.openPartial(blob.digest, blob.size)
  let closing: Promise<void> | undefined
  partial.onChunk(() => {
    closing ??= partial.close(new Error('the origin failed'))
  })
  await store.put(blob.digest, blob.content)
  await closing
  assert.equal(store.has(blob.digest), true)
})

test('a blob that is whole already is handed out as one that has just been completed', async (t) => {
  const store = await testStore(t)
  const blob = testBlob(300_000)
  await storeBlob(store, blob)
  await assert.rejects(store.openPartial(blob.digest, blob.size + 1), BlobSizeError)
  const partial = await store.openPartial(blob.digest, blob.size)
  assert.equal(partial.chunks.isFull, true)
  assert.equal(store.partial(blob.digest), undefined)
  await partial.complete()
  assertBytes(Buffer.from(await partial.writeChunk(0, blob.chunk(0))), blob.hash(0))
  const stream = partial.createReadStream()
  await partial.close()
  assert.equal(await store.delete(blob.digest), false, 'the stream holds it')
  assertBytes(await readAll(stream), blob.content)
  assert.equal(await store.delete(blob.digest), true)
})

test('sizes that cannot be are refused', async (t) => {
  const store = await testStore(t)
  const blob = testBlob(300_000)
  for (const size of [-1, 1.5, NaN, 2 ** 41]) await assert.rejects(store.openPartial(blob.digest, size), BlobSizeError)
  const partial = await store.openPartial(blob.digest, blob.size)
  await assert.rejects(store.openPartial(blob.digest, blob.size + 1), BlobSizeError)
  await partial.close()
  const larger = await store.openPartial(blob.digest, blob.size + 1)
  assert.equal(larger.chunkCount, 2)
  await larger.close()
})

test('records are kept, apart from each other', async (t) => {
  const directory = await temporaryFolder(t)
  const store = await testStore(t, { directory })
  const tags = store.records<{ digest: string }>('tags')
  const others = store.records<number>('tags!x')
  await tags.put('library/ubuntu:latest', { digest: 'a' })
  await tags.put('ü', { digest: 'b' })
  await tags.put('漢/🚢', { digest: 'd' })
  await tags.put('gone', { digest: 'c' })
  await tags.delete('gone')
  await others.put('library/ubuntu:latest', 1)
  await store.close()
  const again = (await testStore(t, { directory })).records<{ digest: string }>('tags')
  assert.deepEqual(await again.get('ü'), { digest: 'b' })
  assert.equal(await again.get('gone'), undefined)
  const entries: unknown[] = []
  for await (const entry of again.entries()) entries.push(entry)
  assert.deepEqual(entries, [
    ['library/ubuntu:latest', { digest: 'a' }],
    ['ü', { digest: 'b' }],
    ['漢/🚢', { digest: 'd' }],
  ])
})

test('pins last, and come before the blob if need be', async (t) => {
  const directory = await temporaryFolder(t)
  const store = await testStore(t, { directory })
  const blob = testBlob(10)
  await store.pin(blob.digest)
  await store.put(blob.digest, blob.content)
  await store.close()
  const again = await testStore(t, { directory })
  assert.deepEqual(
    [...again.list()].map(({ digest, pinned, complete }) => ({ digest, pinned, complete })),
    [{ digest: blob.digest, pinned: true, complete: true }],
  )
  await again.unpin(blob.digest)
  assert.equal([...again.list()][0]?.pinned, false)
})

test('a closed store says so, and fails those who wait', async (t) => {
  const store = await testStore(t)
  const blob = testBlob(300_000)
  const partial = await store.openPartial(blob.digest, blob.size)
  const waiting = assert.rejects(readAll(partial.createReadStream()), StoreClosedError)
  await Promise.all([store.close(), store.close()])
  await waiting
  await assert.rejects(store.open(blob.digest), StoreClosedError)
  await assert.rejects(store.openPartial(blob.digest, blob.size), StoreClosedError)
  await assert.rejects(store.put(blob.digest, blob.content), StoreClosedError)
  await assert.rejects(store.records('x').put('a', 1), StoreClosedError)
})

test('opening, completing and deleting at once never goes wrong', async (t) => {
  const store = await testStore(t, { hashing: 'thread' })
  const blob = testBlob(600_000)
  for (let round = 0; round < 10; round++) {
    const partial = await store.openPartial(blob.digest, blob.size)
    const stream = readAll(partial.createReadStream())
    const writing = writeAll(partial, blob).then(() => partial.complete())
    const results = await Promise.all([
      stream,
      writing,
      store.delete(blob.digest),
      store.openPartial(blob.digest, blob.size),
      partial.complete().catch((error: Error) => error.name),
    ])
    assertBytes(results[0], blob.content)
    assert.equal(results[2], false)
    assert.equal(results[3], partial)
    await Promise.all([partial.close(), store.open(blob.digest).then((stored) => stored!.release())])
    assert.equal(await store.delete(blob.digest), true)
    assert.equal(store.usage().storedBytes, 0)
  }
})
