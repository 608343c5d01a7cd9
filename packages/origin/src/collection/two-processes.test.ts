// A registry that takes a push while another process collects garbage on the same storage, and is slow at it.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { readdir, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { digestOf, type Digest } from '@shoal/oci'
import { pino } from 'pino'
import * as layout from '../layout.ts'
import type { Place } from '../places.ts'
import { Repositories } from '../repositories.ts'
import type { StorageDriver } from '../storage/driver.ts'
import { FilesystemDriver } from '../storage/filesystem.ts'
import { INDEX_TYPE, makeImage, MANIFEST_TYPE, temporaryFolder, type TestImage } from '../testing.ts'
import { collectPlace, type CollectionReport } from './collector.ts'
import { Retention } from './retention.ts'

const GRACE = 24 * 3_600_000

type Process = Pick<Place, 'driver' | 'repositories' | 'retention'>

/** Called before the driver does what it is asked. */
type Before = (what: 'remove' | 'write' | 'touch', path: string) => Promise<void>

/** What one process has of a storage that it shares with others. */
async function openProcess(folder: string, before: Before = () => Promise.resolve()): Promise<Process> {
  const inner = await FilesystemDriver.open(folder)
  const driver = new Proxy<StorageDriver>(inner, {
    get(target, key) {
      if (key === 'isShared') return true
      const value: unknown = Reflect.get(target, key, target)
      if (typeof value !== 'function') return value
      return (path: string, ...rest: unknown[]): unknown => {
        const act = (): unknown => Reflect.apply(value, target, [path, ...rest])
        return key === 'remove' || key === 'write' || key === 'touch' ? before(key, path).then(act) : act()
      }
    },
  })
  const retention = new Retention(driver, GRACE)
  return { driver, retention, repositories: new Repositories({ driver, retention }) }
}

async function pushBlobs({ driver, repositories }: Process, { blobs }: TestImage): Promise<void> {
  for (const blob of blobs) {
    await driver.write(layout.blobPath(digestOf(blob)), blob)
    await repositories.linkBlob('app', digestOf(blob))
  }
}

async function put({ repositories }: Process, reference: string, { text }: TestImage): Promise<void> {
  await repositories.putManifest('app', reference, Buffer.from(text), MANIFEST_TYPE)
}

/** Makes all that is stored look as if nobody had used it for longer than the grace. */
async function age(folder: string): Promise<void> {
  const then = new Date(Date.now() - 2 * GRACE)
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) await utimes(join(entry.parentPath, entry.name), then, then)
  }
}

/** Collects, with a push between a look at the first object whose path has `part` in it and its removal. */
async function collectAround(folder: string, part: string, push: () => Promise<void>): Promise<CollectionReport> {
  let pushed = false
  const collector = await openProcess(folder, async (what, path) => {
    if (pushed || what !== 'remove' || !path.includes(part)) return
    pushed = true
    await push()
  })
  const place = { ...collector, name: 'shared', kind: 'bucket' } as Place
  const options = { logger: pino({ level: 'silent' }), signal: new AbortController().signal }
  const report = await collectPlace(place, { removeUntagged: true, ...options })
  assert.ok(pushed)
  return report
}

async function assertWhole(folder: string, reference: string, image: TestImage): Promise<void> {
  const { repositories } = await openProcess(folder)
  assert.equal((await repositories.manifest('app', reference)).bytes.toString(), image.text)
  for (const blob of image.blobs) assert.equal(await repositories.blobSize('app', digestOf(blob)), blob.length)
}

test('a blob keeps its link when a manifest that names it comes between the look at it and its removal', async () => {
  await using folder = await temporaryFolder()
  const registry = await openProcess(folder.path)
  const image = makeImage()
  await pushBlobs(registry, image)
  await age(folder.path)
  const report = await collectAround(folder.path, '/_blobs/', () => put(registry, '1', image))
  assert.equal(report.links, 0)
  await assertWhole(folder.path, '1', image)
})

for (const [what, reference] of [
  ['tagged', () => '1'],
  ['pushed again', ({ digest }: TestImage) => digest],
] as const) {
  test(`a manifest stays that is ${what} between the look at it and its removal`, async () => {
    await using folder = await temporaryFolder()
    const registry = await openProcess(folder.path)
    const image = makeImage()
    await pushBlobs(registry, image)
    await put(registry, image.digest, image)
    await age(folder.path)
    const report = await collectAround(folder.path, '/_manifests/', () => put(registry, reference(image), image))
    assert.equal(report.manifests, 0)
    await assertWhole(folder.path, reference(image), image)
  })
}

test('an image stays under an index that comes between the look at the image and its removal', async () => {
  await using folder = await temporaryFolder()
  const registry = await openProcess(folder.path)
  const image = makeImage()
  await pushBlobs(registry, image)
  await put(registry, image.digest, image)
  await age(folder.path)
  const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests: [image.descriptor] }))
  const report = await collectAround(folder.path, '/_manifests/', async () => {
    await registry.repositories.putManifest('app', 'multi', index, INDEX_TYPE)
  })
  assert.equal(report.manifests, 0)
  await assertWhole(folder.path, image.digest, image)
})

test('a push is refused, and its tag does not appear, when a part of it is removed before it is answered', async () => {
  await using folder = await temporaryFolder()
  const image = makeImage()
  const layer = layout.blobPath(digestOf(image.blobs[1] as Buffer))
  const other = await openProcess(folder.path)
  const registry = await openProcess(folder.path, async (what, path) => {
    if (what === 'write' && path.includes('/_manifests/')) await other.driver.remove(layer)
  })
  await pushBlobs(registry, image)
  await assert.rejects(put(registry, '1', image), { code: 'BLOB_UPLOAD_INVALID' })
  await assert.rejects(registry.repositories.manifest('app', '1'), { code: 'MANIFEST_UNKNOWN' })
  await pushBlobs(other, image)
  await put(other, '1', image)
  await assertWhole(folder.path, '1', image)
})

test('a blob that is deleted while it is marked as used does not come back', async () => {
  await using folder = await temporaryFolder()
  const bytes = Buffer.from('leaked password')
  const digest: Digest = digestOf(bytes)
  const link = layout.blobLinkPath('app', digest)
  const marking = Promise.withResolvers<void>()
  const goOn = Promise.withResolvers<void>()
  // As on a bucket, where marking is a copy of the object onto itself.
  const { driver, repositories } = await openProcess(folder.path, async (what, path) => {
    if (what !== 'touch' || path !== link) return
    const copy = await driver.read(path)
    marking.resolve()
    await goOn.promise
    await driver.write(path, copy as Buffer)
  })
  await driver.write(layout.blobPath(digest), bytes)
  await repositories.linkBlob('app', digest)
  await age(folder.path)
  const use = repositories.useBlob('app', digest)
  await marking.promise
  const unlink = repositories.unlinkBlob('app', digest)
  goOn.resolve()
  await use
  assert.equal(await unlink, true)
  assert.equal(await repositories.blobSize('app', digest), undefined)
})
