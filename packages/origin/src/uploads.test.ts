import { test } from 'node:test'
import assert from 'node:assert/strict'
import { EventEmitter, once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { digestOf, OciError } from '@shoal/oci'
import { pino } from 'pino'
import { ChunkLists } from './chunk-lists.ts'
import { Retention } from './collection/retention.ts'
import { Hashers } from './hashing/hashers.ts'
import { FilesystemDriver } from './storage/filesystem.ts'
import type { UploadFile } from './storage/driver.ts'
import { temporaryFolder } from './testing.ts'
import { Uploads } from './uploads.ts'

const HOUR = 3_600_000

async function openUploads(folder: string, driver?: FilesystemDriver, onBytes: (count: number) => void = () => {}) {
  const storage = driver ?? (await FilesystemDriver.open(folder))
  const logger = pino({ level: 'silent' })
  const hashers = new Hashers(logger)
  const chunkLists = new ChunkLists(storage, hashers)
  const retention = new Retention(storage)
  const uploads = new Uploads({ driver: storage, retention, chunkLists, hashers, logger, expiryMs: HOUR, onBytes })
  const close = async (): Promise<void> => {
    await uploads.close()
    await chunkLists.idle()
    await hashers.close()
  }
  return { uploads, [Symbol.asyncDispose]: close }
}

const part = (text: string) => ({ body: Readable.from([Buffer.from(text)]), start: undefined, lengthBytes: undefined })

test('an upload that nobody goes on with expires', async () => {
  await using folder = await temporaryFolder()
  await using opened = await openUploads(folder.path)
  const { uploads } = opened
  const idle = await uploads.start('a')
  const begun = await uploads.start('a')
  await uploads.append('a', begun.id, part('hello'))
  const now = Date.now()
  assert.deepEqual(await uploads.removeExpired(now + HOUR / 2), [])
  const removed = await uploads.removeExpired(now + HOUR + 60_000)
  assert.deepEqual(new Set(removed), new Set([idle.id, begun.id]))
  await assert.rejects(uploads.state('a', begun.id), (error) => {
    return error instanceof OciError && error.code === 'BLOB_UPLOAD_UNKNOWN'
  })
})

test('what an earlier run left expires too', async () => {
  await using folder = await temporaryFolder()
  {
    await using opened = await openUploads(folder.path)
    const { id } = await opened.uploads.start('a')
    await opened.uploads.append('a', id, part('hello'))
  }
  await using opened = await openUploads(folder.path)
  assert.deepEqual(await opened.uploads.removeExpired(Date.now()), [])
  assert.equal((await opened.uploads.removeExpired(Date.now() + HOUR + 60_000)).length, 1)
})

test('a disk that is full for a while loses nothing that was acknowledged', async () => {
  await using folder = await temporaryFolder()
  const driver = await FilesystemDriver.open(folder.path)
  let full = false
  const openUpload = driver.openUpload.bind(driver)
  driver.openUpload = async (id) => {
    const file = await openUpload(id)
    const append = file.append.bind(file)
    file.append = async (pieces) => {
      if (full) throw new OciError('UNAVAILABLE', 'no space', { status: 507 })
      return append(pieces)
    }
    return file satisfies UploadFile
  }
  await using opened = await openUploads(folder.path, driver)
  const { uploads } = opened
  const { id } = await uploads.start('a')
  await uploads.append('a', id, part('hello '))
  full = true
  await assert.rejects(uploads.append('a', id, part('lost')), /no space/)
  full = false
  assert.equal((await uploads.state('a', id)).receivedBytes, 6)
  await uploads.append('a', id, part('world'))
  const digest = digestOf('hello world')
  assert.deepEqual(await uploads.finish('a', id, digest, undefined), { sizeBytes: 11 })
  assert.equal((await driver.stat(`blobs/sha256/${digest.slice(7, 9)}/${digest.replace(':', '-')}`))?.sizeBytes, 11)
})

test('a newer request breaks off one that hangs', async () => {
  await using folder = await temporaryFolder()
  const received = new EventEmitter()
  await using opened = await openUploads(folder.path, undefined, (count) => received.emit('bytes', count))
  const { uploads } = opened
  const { id } = await uploads.start('a')
  const hanging = new Readable({ read() {} })
  hanging.push('hello ')
  const first = uploads.append('a', id, { body: hanging, start: undefined, lengthBytes: undefined })
  const broken = assert.rejects(first, /another request/)
  await once(received, 'bytes')
  await uploads.append('a', id, part('world'))
  await broken
  await uploads.finish('a', id, digestOf('hello world'), undefined)
})

test('a request that waited for the end of an upload finds it ended, and leaves nothing behind', async () => {
  await using folder = await temporaryFolder()
  await using opened = await openUploads(folder.path)
  const { uploads } = opened
  const { id } = await uploads.start('a')
  await uploads.append('a', id, part('hello'))
  const ending = uploads.finish('a', id, digestOf('hello'), undefined)
  const late = [uploads.append('a', id, part('more')), uploads.finish('a', id, digestOf('hello'), undefined)]
  for (const outcome of await Promise.allSettled(late)) {
    assert.ok(outcome.status === 'rejected' && outcome.reason instanceof OciError)
    assert.equal(outcome.reason.code, 'BLOB_UPLOAD_UNKNOWN')
  }
  assert.deepEqual(await ending, { sizeBytes: 5 })
  for (const left of ['uploads', 'sessions']) assert.deepEqual(await readdir(join(folder.path, left)), [], left)
})
