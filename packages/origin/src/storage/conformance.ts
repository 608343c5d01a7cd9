// What every storage driver must do, as tests that its own test file runs.
import { test, type TestContext } from 'node:test'
import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { buffer } from 'node:stream/consumers'
import type { StorageDriver, UploadFile } from './driver.ts'

const MiB = 2 ** 20

/** What is opened for one test. */
export interface DriverUnderTest extends AsyncDisposable {
  driver: StorageDriver
  /** Another driver on the same content, as another process or a later run has it. */
  readonly again: () => Promise<StorageDriver>
}

/** @param open - undefined when the test cannot run here, and was skipped */
export function driverConformance(name: string, open: (t: TestContext) => Promise<DriverUnderTest | undefined>): void {
  const check = (what: string, run: (under: DriverUnderTest) => Promise<void>): void => {
    test(`${name}: ${what}`, async (t) => {
      await using under = await open(t)
      if (under) await run(under)
    })
  }

  check('objects are read as they were written last', async ({ driver, again }) => {
    assert.equal(await driver.read('a/b/c'), undefined)
    assert.equal(await driver.stat('a/b/c'), undefined)
    const before = Date.now()
    await driver.write('a/b/c', Buffer.from('one'))
    await driver.write('a/b/c', Buffer.from('twice'), { durable: false })
    const other = await again()
    assert.equal((await other.read('a/b/c'))?.toString(), 'twice')
    const stat = await other.stat('a/b/c')
    assert.equal(stat?.sizeBytes, 5)
    // Object stores count in seconds.
    assert.ok(stat.modifiedMs >= before - 2_000 && stat.modifiedMs <= Date.now() + 2_000)
    assert.equal(await driver.stat('a/b'), undefined)
    assert.equal(await driver.read('a/b/c/d'), undefined)
  })

  check('an empty object is there', async ({ driver }) => {
    await driver.write('empty', Buffer.alloc(0))
    assert.deepEqual(await driver.read('empty'), Buffer.alloc(0))
    assert.equal((await buffer(await driver.openRead('empty', 0, -1))).length, 0)
  })

  check('removing tells whether there was something', async ({ driver }) => {
    await driver.write('a/b', Buffer.from('x'))
    assert.equal(await driver.remove('a/b'), true)
    assert.equal(await driver.remove('a/b'), false)
    assert.equal(await driver.remove('never/there'), false)
    assert.equal(await driver.read('a/b'), undefined)
    assert.deepEqual(await driver.list('never'), [])
  })

  check('touching makes an object new', async ({ driver }) => {
    assert.equal(await driver.touch('a'), false)
    await driver.write('a', Buffer.from('kept'))
    const before = (await driver.stat('a'))?.modifiedMs ?? 0
    // Where times are counted in seconds, the next one has to come.
    const patience = AbortSignal.timeout(10_000)
    for (let after = before; after <= before && !patience.aborted;) {
      assert.equal(await driver.touch('a'), true)
      after = (await driver.stat('a'))?.modifiedMs ?? 0
    }
    assert.ok(((await driver.stat('a'))?.modifiedMs ?? 0) > before)
    assert.equal((await driver.read('a'))?.toString(), 'kept')
  })

  check('a folder lists what is directly in it, in order; a walk finds everything', async ({ driver }) => {
    const paths = ['f/b', 'f/a/1', 'f/a/2/3', 'f/a.b', 'f/_x/1', 'fa/1', 'f/B']
    for (const path of paths) await driver.write(path, Buffer.from(path))
    assert.deepEqual(await driver.list('f'), [
      { name: 'B', isFolder: false },
      { name: '_x', isFolder: true },
      { name: 'a', isFolder: true },
      { name: 'a.b', isFolder: false },
      { name: 'b', isFolder: false },
    ])
    const walked = new Map<string, number>()
    for await (const { path, sizeBytes, modifiedMs } of driver.walk('f')) {
      assert.ok(modifiedMs > 0)
      walked.set(path, sizeBytes)
    }
    const expected = paths.filter((path) => path.startsWith('f/')).map((path) => [path, path.length] as const)
    assert.deepEqual(walked, new Map(expected.sort()))
    for await (const { path } of driver.walk('nothing')) assert.fail(path)
  })

  check('any range of an object can be read', async ({ driver }) => {
    const bytes = randomBytes(3 * MiB + 7)
    await driver.write('blob', bytes)
    for (const [start, end] of [
      [0, bytes.length - 1],
      [0, 0],
      [MiB - 1, 2 * MiB],
      [bytes.length - 1, bytes.length - 1],
    ] as const) {
      assert.ok((await buffer(await driver.openRead('blob', start, end))).equals(bytes.subarray(start, end + 1)))
    }
    await assert.rejects(async () => buffer(await driver.openRead('nothing', 0, 1)))
    const stream = await driver.openRead('blob', 0, bytes.length - 1)
    stream.destroy()
    if (!driver.openFile) return
    const file = await driver.openFile('blob')
    const into = Buffer.alloc(10)
    assert.equal(await file.read(bytes.length - 4, into), 4)
    assert.ok(into.subarray(0, 4).equals(bytes.subarray(-4)))
    await file.close()
  })

  check('an upload goes on where it was left, also elsewhere', async ({ driver, again }) => {
    const id = randomUUID()
    // Around the sizes in which drivers gather, and less than a byte more than nothing.
    const sizes = [1, 5 * MiB - 1, 0, 12 * MiB, 3, 8 * MiB, 4 * MiB]
    const bytes = randomBytes(sizes.reduce((sum, size) => sum + size, 0))
    let at = 0
    let version: string | undefined
    for (const [turn, size] of sizes.entries()) {
      const file = await (turn % 2 ? await again() : driver).openUpload(id)
      assert.equal(file.sizeBytes, at)
      if (version !== undefined) assert.equal(file.version, version)
      await appendInPieces(file, bytes.subarray(at, at + size))
      assert.equal(file.sizeBytes, (at += size))
      await file.close()
      version = file.version
    }
    assert.deepEqual(
      (await driver.listUploads()).map((upload) => upload.id),
      [id],
    )
    const file = await driver.openUpload(id)
    assert.ok((await buffer(await file.stream())).equals(bytes))
    await file.promote('blobs/b')
    await file.close()
    await driver.removeUpload(id)
    assert.deepEqual(await driver.listUploads(), [])
    const other = await again()
    assert.equal((await other.stat('blobs/b'))?.sizeBytes, bytes.length)
    assert.ok((await buffer(await other.openRead('blobs/b', 0, bytes.length - 1))).equals(bytes))
    assert.equal(await openedSize(driver, id), 0)
  })

  check('an upload of nothing, of little and of a full piece each become an object', async ({ driver }) => {
    for (const size of [0, 1, 8 * MiB, 16 * MiB]) {
      const id = randomUUID()
      const bytes = randomBytes(size)
      const file = await driver.openUpload(id)
      await appendInPieces(file, bytes)
      await file.promote('target')
      await file.close()
      await driver.removeUpload(id)
      assert.ok((await buffer(await driver.openRead('target', 0, size - 1))).equals(bytes), `${size} bytes`)
      assert.equal((await driver.stat('target'))?.sizeBytes, size)
    }
  })

  check('what was appended last can be taken back', async ({ driver, again }) => {
    const id = randomUUID()
    const bytes = randomBytes(21 * MiB)
    for (const kept of [20 * MiB, 16 * MiB, 10 * MiB + 5, 3 * MiB, 0]) {
      const file = await driver.openUpload(id)
      await appendInPieces(file, bytes.subarray(file.sizeBytes))
      await file.truncate(kept)
      assert.equal(file.sizeBytes, kept)
      assert.ok((await buffer(await file.stream())).equals(bytes.subarray(0, kept)))
      await appendInPieces(file, Buffer.from('end'))
      await file.truncate(kept)
      await file.close()
      assert.equal(await openedSize(await again(), id), kept)
    }
    await driver.removeUpload(id)
  })

  check('a removed upload is gone, and removing it again is fine', async ({ driver }) => {
    const id = randomUUID()
    const file = await driver.openUpload(id)
    await appendInPieces(file, randomBytes(9 * MiB))
    await file.close()
    await driver.removeUpload(id)
    await driver.removeUpload(id)
    assert.deepEqual(await driver.listUploads(), [])
  })

  check('two that append to one upload never make an object of mixed bytes unnoticed', async ({ driver, again }) => {
    if (!driver.isShared) return
    const id = randomUUID()
    const [left, right] = [randomBytes(9 * MiB), randomBytes(17 * MiB)]
    const first = await driver.openUpload(id)
    const second = await (await again()).openUpload(id)
    await appendInPieces(first, left)
    await appendInPieces(second, right)
    await first.close()
    await second.close()
    assert.notEqual(first.version, second.version)
    // Each promotes exactly what it has appended, or fails.
    await second.promote('right')
    assert.ok((await buffer(await driver.openRead('right', 0, right.length - 1))).equals(right))
    await driver.removeUpload(id)
    await assert.rejects(first.promote('left'), { code: 'BLOB_UPLOAD_INVALID' })
    assert.equal(await driver.stat('left'), undefined)
  })
}

async function appendInPieces(file: UploadFile, bytes: Buffer): Promise<void> {
  const pieces: Buffer[] = []
  for (let at = 0; at < bytes.length; at += 300_001) pieces.push(bytes.subarray(at, at + 300_001))
  for (let at = 0; at < pieces.length; at += 4) await file.append(pieces.slice(at, at + 4))
}

async function openedSize(driver: StorageDriver, id: string): Promise<number> {
  const file = await driver.openUpload(id)
  await file.close()
  return file.sizeBytes
}
