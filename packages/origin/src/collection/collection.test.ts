import { test } from 'node:test'
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readdir, readFile, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { digestOf, type Digest } from '@shoal/oci'
import type { RequestContext } from '@shoal/registry'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { OriginBackend } from '../backend.ts'
import { Hashers } from '../hashing/hashers.ts'
import { digestOfFileName } from '../layout.ts'
import { Places, type Place } from '../places.ts'
import { INDEX_TYPE, makeCacheIndex, makeImage, MANIFEST_TYPE, temporaryFolder, type TestImage } from '../testing.ts'
import { collectPlace, type CollectionReport } from './collector.ts'
import { CollectionSchedule } from './schedule.ts'

const HOUR = 3_600_000
const GRACE = 24 * HOUR
const logger = pino({ level: 'silent' })
const context = {} as RequestContext
const signal = new AbortController().signal

interface Room extends AsyncDisposable {
  path: string
  places: Places
  place: Place
  backend: OriginBackend
}

async function openRoom(): Promise<Room> {
  const folder = await temporaryFolder()
  const hashers = new Hashers(logger)
  const places = await Places.open({
    dataDirectory: folder.path,
    allowSparseIndexes: false,
    uploadExpiryMs: HOUR,
    graceMs: GRACE,
    hashers,
    logger,
    onBytes: () => undefined,
  })
  const dispose = async (): Promise<void> => {
    await places.close()
    await hashers.close()
    await folder[Symbol.asyncDispose]()
  }
  const backend = new OriginBackend(places)
  return { path: folder.path, places, place: places.of('any'), backend, [Symbol.asyncDispose]: dispose }
}

async function pushBlob({ backend }: Room, name: string, bytes: Buffer): Promise<void> {
  const part = { body: Readable.from([Buffer.from(bytes)]), start: undefined, lengthBytes: bytes.length }
  await backend.uploadBlob(context, name, digestOf(bytes), part)
}

async function push(room: Room, name: string, reference: string, image: TestImage): Promise<void> {
  for (const blob of image.blobs) await pushBlob(room, name, blob)
  await room.backend.putManifest(context, name, reference, Buffer.from(image.text), MANIFEST_TYPE, [])
}

/** Makes all that is stored look as if nobody had used it for two times the grace. */
async function age({ path }: Room): Promise<void> {
  const then = new Date(Date.now() - 2 * GRACE)
  for (const entry of await readdir(path, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) await utimes(join(entry.parentPath, entry.name), then, then)
  }
}

function collect({ place }: Room, options: { removeUntagged?: boolean; dryRun?: boolean } = {}) {
  return collectPlace(place, { removeUntagged: false, logger, signal, ...options })
}

async function contents({ path }: Room, folder = 'blobs'): Promise<Digest[]> {
  const entries = await readdir(join(path, folder), { recursive: true, withFileTypes: true })
  return entries.flatMap((entry) => (entry.isFile() ? (digestOfFileName(entry.name) ?? []) : [])).sort()
}

const digestsOf = (...images: TestImage[]): Digest[] =>
  [...new Set(images.flatMap(({ digest, blobs }) => [digest, ...blobs.map((blob) => digestOf(blob))]))].sort()

const nothing = (report: CollectionReport): boolean => report.manifests + report.links + report.blobs === 0

test('what nothing refers to goes after the grace, and what an image needs stays', async () => {
  await using room = await openRoom()
  const [kept, gone] = [makeImage(), makeImage()]
  await push(room, 'a', '1', kept)
  await push(room, 'a', '2', gone)
  const orphan = randomBytes(500)
  await pushBlob(room, 'b', orphan)
  await room.backend.deleteManifest(context, 'a', gone.digest)
  assert.ok(nothing(await collect(room)), 'all of it was used just now')

  await age(room)
  const foreseen = await collect(room, { dryRun: true })
  assert.deepEqual(await contents(room), digestsOf(kept, gone).concat(digestOf(orphan)).sort())
  const report = await collect(room)
  assert.deepEqual(report, foreseen)
  assert.equal(report.links, gone.blobs.length + 1)
  assert.equal(report.bytes, 500 + [gone.text, ...gone.blobs].reduce((sum, { length }) => sum + length, 0))
  assert.deepEqual(await contents(room), digestsOf(kept))
  assert.deepEqual(await contents(room, 'chunks'), kept.blobs.map((blob) => digestOf(blob)).sort())
  assert.ok(nothing(await collect(room)))
})

test('content stays while one of its repositories needs it', async () => {
  await using room = await openRoom()
  const image = makeImage()
  await push(room, 'a', '1', image)
  await push(room, 'b', '1', image)
  await room.backend.deleteManifest(context, 'a', image.digest)
  await age(room)
  const report = await collect(room)
  assert.equal(report.links, image.blobs.length)
  assert.equal(report.blobs, 0)
  assert.deepEqual(await contents(room), digestsOf(image))
})

test('manifests without a tag stay unless they are to go; what an index or a signature hangs on stays', async () => {
  await using room = await openRoom()
  const [untagged, child, signed] = [makeImage(), makeImage(), makeImage()]
  const signature = makeImage([30], { subject: signed.descriptor })
  const lost = makeImage([40], { subject: untagged.descriptor })
  for (const image of [untagged, child, signature, lost]) await push(room, 'a', image.digest, image)
  await push(room, 'a', 'signed', signed)
  const index = JSON.stringify({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests: [child.descriptor] })
  await room.backend.putManifest(context, 'a', 'multi', Buffer.from(index), INDEX_TYPE, [])
  await age(room)
  assert.ok(nothing(await collect(room)))
  const report = await collect(room, { removeUntagged: true })
  assert.equal(report.manifests, 2)
  assert.deepEqual(await contents(room), [...digestsOf(child, signed, signature), digestOf(index)].sort())
  const { descriptors } = await room.backend.referrers(context, 'a', signed.digest, undefined)
  assert.equal(descriptors.length, 1)
})

test('of nested indexes that nobody needs all stays under one that is pushed while they are removed', async () => {
  await using room = await openRoom()
  const { repositories } = room.place
  const image = makeImage()
  await push(room, 'a', image.digest, image)
  let top = image.descriptor
  const wrap = async (reference?: string): Promise<Digest> => {
    const text = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests: [top] }))
    top = { mediaType: INDEX_TYPE, digest: digestOf(text), size: text.length }
    await room.backend.putManifest(context, 'a', reference ?? top.digest, text, INDEX_TYPE, [])
    return top.digest
  }
  const nested = [image.digest, await wrap(), await wrap(), await wrap()]
  await age(room)
  const removeUnneeded = repositories.removeUnneeded.bind(repositories)
  let outer: Promise<Digest> | undefined
  repositories.removeUnneeded = async (...asked) => {
    await (outer ??= wrap('outer'))
    return removeUnneeded(...asked)
  }
  await collect(room, { removeUntagged: true })
  assert.ok(outer)
  for (const digest of nested) assert.equal((await room.backend.manifest(context, 'a', digest)).digest, digest)
  assert.deepEqual(await contents(room), [...digestsOf(image), ...nested.slice(1), await outer].sort())
})

test('blobs that an index names stay with it', async () => {
  await using room = await openRoom()
  const { blobs, text } = makeCacheIndex()
  for (const blob of blobs) await pushBlob(room, 'a', blob)
  await room.backend.putManifest(context, 'a', 'cache', Buffer.from(text), INDEX_TYPE, [])
  await age(room)
  assert.ok(nothing(await collect(room, { removeUntagged: true })))
  assert.deepEqual(await contents(room), [...blobs, text].map((one) => digestOf(one)).sort())
})

test('a manifest that means something only by the type under which it was taken keeps nothing from being collected', async () => {
  await using room = await openRoom()
  await room.backend.putManifest(context, 'a', '1', Buffer.from('{"schemaVersion":2,"manifests":null}'), INDEX_TYPE, [])
  await pushBlob(room, 'a', randomBytes(10))
  await age(room)
  const { unreadable, blobs } = await collect(room)
  assert.deepEqual([unreadable, blobs], [[], 1])
})

test('a repository with a manifest that cannot be read is left alone', async () => {
  await using room = await openRoom()
  const [broken, other] = [makeImage(), makeImage()]
  await push(room, 'a', '1', broken)
  await push(room, 'b', '1', other)
  await pushBlob(room, 'a', randomBytes(10))
  await room.place.driver.remove(`blobs/sha256/${broken.digest.slice(7, 9)}/${broken.digest.replace(':', '-')}`)
  await age(room)
  const report = await collect(room, { removeUntagged: true })
  assert.deepEqual(report.unreadable, ['a'])
  assert.ok(nothing(report))
})

test('what a client was told is there stays until it has pushed its manifest', async () => {
  await using room = await openRoom()
  const image = makeImage()
  for (const blob of image.blobs) await pushBlob(room, 'a', blob)
  const [first, second, third] = image.blobs.map((blob) => digestOf(blob)) as [Digest, Digest, Digest]
  await age(room)
  await room.backend.blob(context, 'a', first, true)
  assert.ok(await room.backend.mountBlob(context, 'b', second, 'a'))
  assert.equal((await collect(room)).blobs, 1)
  assert.deepEqual(await contents(room), [first, second].sort())
  await assert.rejects(room.backend.blob(context, 'a', third, true), { code: 'BLOB_UNKNOWN' })
})

test('pushes of what is about to be collected, while it is collected, are whole or refused', async () => {
  await using room = await openRoom()
  const images = Array.from({ length: 12 }, () => makeImage([200, 300]))
  for (const image of images) for (const blob of image.blobs) await pushBlob(room, 'a', blob)
  await age(room)
  let pushed = 0
  const collecting = (async () => {
    while (pushed < images.length) await collect(room, { removeUntagged: true })
  })()
  const pushing = images.map(async (image, index) => {
    try {
      for (const blob of image.blobs) {
        const found = await room.backend.blob(context, 'a', digestOf(blob), true).catch(() => undefined)
        if (!found) await pushBlob(room, 'a', blob)
      }
      await room.backend.putManifest(context, 'a', `t${index}`, Buffer.from(image.text), MANIFEST_TYPE, [])
    } finally {
      pushed++
    }
  })
  await Promise.all([...pushing, collecting])
  assert.deepEqual(await contents(room), digestsOf(...images))
  await age(room)
  assert.ok(nothing(await collect(room, { removeUntagged: true })))
})

function makeSchedule({ path, places }: Room, everyMs: number, metrics: Registry): CollectionSchedule {
  const file = join(path, 'last-collection')
  return new CollectionSchedule({ places, removeUntagged: false, everyMs, file, logger, metrics })
}

test('the schedule collects every place, and counts what it removed', async () => {
  await using room = await openRoom()
  await pushBlob(room, 'a', randomBytes(700))
  await age(room)
  const metrics = new Registry()
  const schedule = makeSchedule(room, 0, metrics)
  await schedule.run()
  await schedule.close()
  assert.deepEqual(await contents(room), [])
  const text = await metrics.metrics()
  assert.match(text, /^shoal_registry_collected_total\{kind="blobs"\} 1$/m)
  assert.match(text, /^shoal_registry_collected_bytes_total 700$/m)
  assert.match(text, /^shoal_registry_collections_total\{outcome="done"\} 1$/m)
})

test('restarts do not put a collection off', { timeout: 30_000 }, async (t) => {
  await using room = await openRoom()
  const startMs = Date.now()
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'], now: startMs })
  const done = async (metrics: Registry): Promise<boolean> =>
    (await metrics.metrics()).includes('shoal_registry_collections_total{outcome="done"} 1\n')
  for (const minutes of [40, 19]) {
    const metrics = new Registry()
    const schedule = makeSchedule(room, HOUR, metrics)
    await schedule.start()
    t.mock.timers.tick(minutes * 60_000)
    await schedule.close()
    assert.equal(await done(metrics), false)
  }
  const metrics = new Registry()
  const schedule = makeSchedule(room, HOUR, metrics)
  await schedule.start()
  t.mock.timers.tick(60_000)
  while (!(await done(metrics))) await new Promise((resolve) => setImmediate(resolve))
  await schedule.close()
  assert.equal(await readFile(join(room.path, 'last-collection'), 'utf8'), new Date(startMs + HOUR).toISOString())
})
