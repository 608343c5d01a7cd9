// What a start finds after crashes, damage, and years of use.
import assert from 'node:assert/strict'
import { cp, mkdir, readdir, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { pino } from 'pino'
import { digestOf, type Digest } from '@shoal/oci'
import { BlobFile } from './blob-file.ts'
import { openLevelStore } from './open-store.ts'
import { BLOBS, del, HASHES, PARTIAL_HASHES, PARTIAL_MAPS, PARTIALS, put, StoreIndex } from './store-index.ts'
import { StoreLayout } from './store-layout.ts'
import { assertBytes, readAll, storeBlob, temporaryFolder, testBlob, testStore, writeAll } from './store-fixture.ts'

const SILENT = pino({ level: 'silent' })

async function withIndex(directory: string, task: (index: StoreIndex) => Promise<void>): Promise<void> {
  const index = await StoreIndex.open(join(directory, 'index'), SILENT)
  await task(index)
  await index.close()
}

test('a crash between the row and the move is finished', async (t) => {
  const directory = await temporaryFolder(t)
  const layout = new StoreLayout(directory)
  const blob = testBlob(700_000)
  const store = await testStore(t, { directory })
  await storeBlob(store, blob)
  await store.close()
  await mkdir(dirname(layout.partialFile(blob.digest)), { recursive: true })
  await rename(layout.blobFile(blob.digest), layout.partialFile(blob.digest))
  const again = await testStore(t, { directory })
  const stored = await again.open(blob.digest)
  assertBytes(await readAll(stored!.createReadStream()), blob.content)
  stored!.release()
})

test('a file without a row that cannot be read for now is tried again by who wants it', async (t) => {
  const directory = await temporaryFolder(t)
  const blob = testBlob(700_000)
  const store = await testStore(t, { directory })
  await storeBlob(store, blob)
  await store.close()
  await withIndex(directory, (index) => index.write([del(BLOBS, blob.digest), del(HASHES, blob.digest)], true))
  const refused = Object.assign(new Error('too many open files'), { code: 'EMFILE' })
  t.mock.method(BlobFile, 'open', () => Promise.reject(refused))
  const again = await testStore(t, { directory })
  await again.reconciled
  t.mock.restoreAll()
  const stored = await again.open(blob.digest)
  assertBytes(await readAll(stored!.createReadStream()), blob.content)
  stored!.release()
  assert.equal(again.usage().storedBytes, 700_000)
})

test('rows without files and files without rows are cleared up', async (t) => {
  const directory = await temporaryFolder(t)
  const layout = new StoreLayout(directory)
  const [gone, lost, spoilt, idle] = [testBlob(5), testBlob(700_000), testBlob(700_000), testBlob(900_000)]
  const store = await testStore(t, { directory })
  for (const blob of [gone, lost, spoilt]) await storeBlob(store, blob)
  const partial = await store.openPartial(idle.digest, idle.size)
  await writeAll(partial, idle, [1])
  await store.close()
  await rm(layout.blobFile(gone.digest))
  await withIndex(directory, (index) =>
    index.write([del(BLOBS, lost.digest), del(HASHES, lost.digest), del(BLOBS, spoilt.digest)], true),
  )
  const wrong = Buffer.from(spoilt.content)
  wrong[9]! ^= 1
  await writeFile(layout.blobFile(spoilt.digest), wrong)
  await writeFile(layout.partialFile(gone.digest), 'left over')
  await writeFile(layout.temporaryFile(gone.digest), 'left over')
  await writeFile(join(directory, 'blobs', 'a note of the operator'), 'is left alone')

  const again = await testStore(t, { directory })
  assert.equal(again.has(gone.digest), false)
  assert.equal(await again.open(gone.digest), undefined)
  assert.equal(again.has(lost.digest), false, 'not before it was verified')
  const stored = await again.open(lost.digest)
  assertBytes(await readAll(stored!.createReadStream()), lost.content)
  stored!.release()
  await again.reconciled
  assert.equal(again.has(spoilt.digest), false)
  await assert.rejects(stat(layout.blobFile(spoilt.digest)), { code: 'ENOENT' })
  assert.deepEqual(await readdir(join(directory, 'partial')), ['sha256'])
  assert.deepEqual(await readdir(join(directory, 'partial', 'sha256')), [idle.digest.slice(7)])
  assert.equal(again.usage().storedBytes, lost.size + idle.chunk(1).byteLength)
})

// Regression: one flipped bit in the row of a blob made the sum of all sizes NaN, which is over any quota, so that all were
// evicted and no blob was taken any more.
test('a row that was damaged costs its blob another look, and no other blob anything', async (t) => {
  const directory = await temporaryFolder(t)
  const blobs = Array.from({ length: 4 }, () => testBlob(5000))
  const digests = blobs.map((blob) => blob.digest)
  const store = await testStore(t, { directory })
  for (const blob of blobs) await storeBlob(store, blob)
  await store.close()
  const rows = [
    { sizfBytes: 5000, lastUsedMs: 1 },
    { sizeBytes: 7000, lastUsedMs: 1 },
    { sizeBytes: 5000, lastUsedMr: 1 },
  ]
  await withIndex(directory, (index) =>
    index.write(
      rows.map((row, at) => put(BLOBS, digests[at]!, row as never)),
      true,
    ),
  )
  const again = await testStore(t, { directory, quotaBytes: 25_000 })
  assert.equal(again.usage().storedBytes, 5000, 'what is certain at once')
  await again.reconciled
  assert.equal(again.usage().storedBytes, 20_000)
  for (const blob of [...blobs, testBlob(5000)]) await again.put(blob.digest, blob.content)
  assert.deepEqual(
    digests.map((digest) => again.has(digest)),
    [true, true, true, true],
  )
})

test('an arriving blob whose row was damaged is forgotten, whatever size that names', async (t) => {
  const directory = await temporaryFolder(t)
  const blobs = [testBlob(700_000), testBlob(700_000)] as const
  const store = await testStore(t, { directory })
  for (const blob of blobs) await writeAll(await store.openPartial(blob.digest, blob.size), blob, [0, 1])
  await store.close()
  await withIndex(directory, async (index) => {
    const rows = [
      { sizfBytes: 700_000, lastUsedMs: 1 },
      { sizeBytes: 4e15, lastUsedMs: 1 },
    ] as never[]
    await index.write(
      rows.map((row, at) => put(PARTIALS, blobs[at]!.digest, row)),
      true,
    )
  })
  await (await testStore(t, { directory })).close()
  assert.deepEqual(await readdir(join(directory, 'partial', 'sha256')), [])
  await withIndex(directory, async (index) => {
    for (const table of [PARTIALS, PARTIAL_MAPS, PARTIAL_HASHES] as const) {
      for await (const [key] of index.rows<unknown>(table)) assert.fail(`${table.prefix}${key} is left`)
    }
  })
})

test('a whole blob that was cut off is not served', async (t) => {
  const directory = await temporaryFolder(t)
  const blob = testBlob(700_000)
  const store = await testStore(t, { directory })
  await storeBlob(store, blob)
  await store.close()
  await truncate(new StoreLayout(directory).blobFile(blob.digest), 699_999)
  const again = await testStore(t, { directory })
  assert.equal(await again.open(blob.digest), undefined)
  assert.equal(again.has(blob.digest), false)
  await storeBlob(again, blob)
  assert.equal(again.has(blob.digest), true)
})

test('an arriving blob that was cut off keeps only the chunks that are still right', async (t) => {
  const directory = await temporaryFolder(t)
  const blob = testBlob(6 * 256 * 1024)
  const store = await testStore(t, { directory })
  const partial = await store.openPartial(blob.digest, blob.size)
  await writeAll(partial, blob)
  await store.close()
  await truncate(new StoreLayout(directory).partialFile(blob.digest), 3 * 256 * 1024 + 5)
  const again = await testStore(t, { directory })
  const resumed = await again.openPartial(blob.digest, blob.size)
  assert.deepEqual([...resumed.chunks.indices()], [0, 1, 2])
  await writeAll(resumed, blob)
  await resumed.complete()
  await resumed.close()
})

test('a corrupt index is moved aside and rebuilt from the blobs', async (t) => {
  const directory = await temporaryFolder(t)
  const blobs = [testBlob(700_000), testBlob(5, 'sha512')] as const
  const damages: ((index: string, name: string) => Promise<void>)[] = [
    (index) => rm(join(index, 'CURRENT')).then(() => writeFile(join(index, 'CURRENT'), 'nonsense\n')),
    async (index, manifest) => rm(join(index, manifest)),
    async (index, manifest) => writeFile(join(index, manifest), (await readFile(join(index, manifest))).fill(0x55)),
  ]
  let store = await testStore(t, { directory })
  for (const blob of blobs) await storeBlob(store, blob)
  for (const damage of damages) {
    await store.close()
    const index = join(directory, 'index')
    await damage(
      index,
      (await readdir(index)).find((name) => name.startsWith('MANIFEST'))!,
    )
    store = await testStore(t, { directory })
    await store.reconciled
    for (const blob of blobs) {
      const stored = await store.open(blob.digest)
      assertBytes(await readAll(stored!.createReadStream()), blob.content)
      stored!.release()
    }
  }
  assert.ok((await readdir(directory)).includes('index.corrupt'))
})

// Regression: LevelDB calls it an input/output error when a table of its own was cut off, and so an agent could not start
// again until a person deleted its index (found by the chaos fault agent-truncated-index).
test('an index of which any file was cut off anywhere is rebuilt from the blobs', async (t) => {
  const directory = await temporaryFolder(t)
  const blobs = Array.from({ length: 20 }, () => testBlob(5000))
  const first = await testStore(t, { directory })
  for (const blob of blobs) await storeBlob(first, blob)
  await first.close()
  // The log becomes a table when it is opened again.
  await (await openLevelStore({ directory, hashing: 'inline' })).close()
  const index = join(directory, 'index')
  const tables = (await readdir(index)).filter((name) => /\.ldb$/.test(name))
  assert.ok(tables.length > 0, 'there is no table to cut off')
  for (const name of (await readdir(index)).filter((name) => name !== 'LOCK')) {
    for (const share of [0, 0.1, 0.5, 0.9]) {
      const copy = await temporaryFolder(t)
      await cp(directory, copy, { recursive: true })
      const file = join(copy, 'index', name)
      await truncate(file, Math.floor(share * (await stat(file)).size))
      const store = await openLevelStore({ directory: copy, hashing: 'inline' })
      await store.reconciled
      for (const blob of blobs) {
        const stored = await store.open(blob.digest)
        assertBytes(await readAll(stored!.createReadStream()), blob.content)
        stored!.release()
      }
      await store.close()
    }
  }
})

test('a start with a million chunks reads one small row for each blob', async (t) => {
  const directory = await temporaryFolder(t)
  const layout = new StoreLayout(directory)
  const digests: Digest[] = []
  const folders = new Set<string>()
  await mkdir(join(directory, 'index'), { recursive: true })
  await withIndex(directory, async (index) => {
    const hashes = new Uint8Array(128 * 32).fill(9)
    for (let number = 0; number < 8000; number++) {
      const digest = digestOf(`blob ${number}`)
      digests.push(digest)
      const folder = layout.blobFolder(digest)
      if (!folders.has(folder)) await mkdir(folder, { recursive: true })
      folders.add(folder)
      await writeFile(layout.blobFile(digest), '')
      await truncate(layout.blobFile(digest), 128 * 256 * 1024)
      const row = { sizeBytes: 128 * 256 * 1024, lastUsedMs: number }
      await index.write([put(BLOBS, digest, row), put(HASHES, digest, hashes)], false)
    }
  })
  const read: string[] = []
  for (const name of ['rows', 'get'] as const) {
    const real = Object.getOwnPropertyDescriptor(StoreIndex.prototype, name)?.value as (...args: unknown[]) => unknown
    t.mock.method(StoreIndex.prototype, name, function (this: StoreIndex, ...args: [{ prefix: string }]) {
      read.push(args[0].prefix)
      return real.apply(this, args)
    })
  }
  const start = performance.now()
  const store = await openLevelStore({ directory })
  t.diagnostic(`started with ${8000 * 128} chunks in ${Math.round(performance.now() - start)} ms`)
  assert.deepEqual(read.sort(), ['blobs!', 'partials!', 'pins!'])
  assert.equal(store.usage().blobs, 8000)
  assert.equal(store.usage().storedBytes, 8000 * 128 * 256 * 1024)
  assert.deepEqual(
    [...store.list()].map((entry) => entry.digest),
    digests,
  )
  await store.close()
})

test('a lost hash thread does not stop the store', async (t) => {
  const { ThreadHashService } = await import('./hash-service.ts')
  const lines: string[] = []
  const log = pino({ level: 'warn' }, { write: (line: string) => lines.push(line) })
  const service = new ThreadHashService(log, { script: new URL('./no-such-thread.ts', import.meta.url) })
  t.after(() => service.close())
  const { BlobFile } = await import('./blob-file.ts')
  const path = join(await temporaryFolder(t), 'file')
  await writeFile(path, 'shoal')
  const file = await BlobFile.open(path, 'r')
  const job = { kind: 'range' as const, descriptor: file.descriptor, position: 0, length: 5, chunk: true }
  const [first, second] = await Promise.all([service.run(job), service.run(job)])
  assert.equal(Buffer.from(first.hash!).toString('hex'), digestOf('shoal').slice(7))
  assert.deepEqual(second, first)
  assert.equal(lines.length, 1)
  await file.release()
})
