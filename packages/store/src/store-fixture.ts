// Folders, blobs and stores for the tests of this room.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import type { TestContext } from 'node:test'
import { digestOf, type Digest } from '@shoal/oci'
import { chunkCountFor, chunkLength, chunkStart } from './chunk-geometry.ts'
import type { LevelStore } from './level-store.ts'
import { openLevelStore, type OpenStoreOptions } from './open-store.ts'
import type { PartialBlob } from './store.ts'

const cleanups = new WeakMap<TestContext, (() => unknown)[]>()

/** Like `t.after`, but last in, first out: what was opened in a folder is closed before the folder goes. */
export function cleanUp(t: TestContext, task: () => unknown): void {
  let tasks = cleanups.get(t)
  if (tasks === undefined) {
    const list: (() => unknown)[] = []
    tasks = list
    cleanups.set(t, tasks)
    t.after(async () => {
      for (const last of list.reverse()) await last()
    })
  }
  tasks.push(task)
}

export async function temporaryFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'shoal-store-'))
  cleanUp(t, () => rm(folder, { recursive: true, force: true }))
  return folder
}

/** A store that is closed at the end of the test, before its folder goes. */
export async function testStore(t: TestContext, options: Partial<OpenStoreOptions> = {}): Promise<LevelStore> {
  const directory = options.directory ?? (await temporaryFolder(t))
  const store = await openLevelStore({ hashing: 'inline', ...options, directory })
  cleanUp(t, () => store.close())
  return store
}

export interface TestBlob {
  digest: Digest
  content: Buffer
  size: number
  chunkCount: number
  chunk: (index: number) => Buffer
  hash: (index: number) => Buffer
}

export function testBlob(content: Buffer | number, algorithm: 'sha256' | 'sha512' = 'sha256'): TestBlob {
  const bytes = typeof content === 'number' ? randomBytes(content) : content
  const size = bytes.byteLength
  const chunk = (index: number): Buffer => {
    const start = chunkStart(size, index)
    return bytes.subarray(start, start + chunkLength(size, index))
  }
  const hash = (index: number): Buffer => createHash('sha256').update(chunk(index)).digest()
  return { digest: digestOf(bytes, algorithm), content: bytes, size, chunkCount: chunkCountFor(size), chunk, hash }
}

/** All chunks, in the order given or ascending, and not yet complete. */
export async function writeAll(partial: PartialBlob, blob: TestBlob, order?: number[]): Promise<void> {
  for (const index of order ?? Array.from({ length: blob.chunkCount }, (_, i) => i)) {
    await partial.writeChunk(index, blob.chunk(index), blob.hash(index))
  }
}

export async function storeBlob(store: LevelStore, blob: TestBlob): Promise<void> {
  const partial = await store.openPartial(blob.digest, blob.size)
  await writeAll(partial, blob)
  await partial.complete()
  await partial.close()
}

export async function readAll(stream: Readable): Promise<Buffer> {
  const pieces: Buffer[] = []
  for await (const piece of stream as AsyncIterable<Buffer>) pieces.push(piece)
  return Buffer.concat(pieces)
}

/** A blob that another process can make, too: its content follows from its size. */
export function patternBlob(size: number): TestBlob {
  const content = Buffer.alloc(size)
  for (let position = 0; position + 4 <= size; position += 4)
    content.writeUInt32LE((position * 2654435761) >>> 0, position)
  return testBlob(content)
}

/** Compares content without printing it: the difference of two MiB would take minutes to show. */
export function assertBytes(actual: Uint8Array, expected: Uint8Array): void {
  assert.equal(actual.byteLength, expected.byteLength, 'length of the content')
  const position = actual.findIndex((byte, index) => byte !== expected[index])
  assert.equal(position, -1, `first byte that differs, of ${actual.byteLength}`)
}
