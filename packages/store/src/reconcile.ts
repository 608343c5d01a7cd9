// What a start does: compares the index with the files, and finishes or undoes what a crash has left half done.
//
// The order of the writes makes this simple. A blob gets its row after its digest was checked and its bytes are on the
// disk, and only then its file is moved: so a row whose file still lies among the arriving ones wants the move, a row
// without any file is stale, and a file among the whole blobs without a row (an index that was lost) must be read again.
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Logger } from 'pino'
import { isDigest, type Digest } from '@shoal/oci'
import { allocatedBytesOf } from './blob-file.ts'
import type { BlobEntry } from './blob-table.ts'
import { chunkCountFor, chunkLength } from './chunk-geometry.ts'
import { ChunkMap } from './chunk-map.ts'
import { errorCode } from './errors.ts'
import { occupiedBytes } from './place-account.ts'
import {
  BLOBS,
  del,
  forgetPartialIn,
  HASHES,
  isPlausible,
  PARTIAL_MAPS,
  PARTIALS,
  PINS,
  type BlobRow,
  type StoreIndex,
} from './store-index.ts'
import type { StoreLayout } from './store-layout.ts'

export interface FoundContent {
  /** Least recently used first. */
  entries: BlobEntry[]
  pins: Set<Digest>
  /** Files among the whole blobs that no row vouches for. */
  unverified: Set<Digest>
}

/** How many files are looked at together: a start waits for all of them. */
const CHECKED_AT_ONCE = 500

export async function reconcile(layout: StoreLayout, index: StoreIndex, log: Logger): Promise<FoundContent> {
  const files = await listBlobFiles(layout)
  const arriving = await listPartialFiles(layout)
  const entries: BlobEntry[] = []
  const pins = new Set<Digest>()

  for await (const [digest, row, isRight] of blobRows(layout, index)) {
    if (!files.has(digest) && !(isRight && (await finishMove(layout, digest, row, arriving)))) {
      log.warn({ digest }, 'a blob of the index has no file; it is forgotten')
      await index.write([del(BLOBS, digest), del(HASHES, digest)], false)
      continue
    }
    if (!isRight) {
      log.warn({ digest, row }, 'the row of a blob does not fit its file; the blob is verified again')
      continue
    }
    files.delete(digest)
    const { sizeBytes, mediaType, lastUsedMs } = row
    entries.push({ digest, sizeBytes, storedBytes: sizeBytes, complete: true, mediaType, lastUsedMs, holds: 0 })
  }

  const whole = new Set(entries.map((entry) => entry.digest))
  for await (const [digest, row] of index.digestRows(PARTIALS)) {
    const isThere = arriving.has(digest) && !whole.has(digest) && !files.has(digest)
    if (!isThere || !isPlausible(row, 'lastUsedMs')) {
      await index.write(await forgetPartialIn(index, digest), false)
      continue
    }
    const { sizeBytes, lastUsedMs } = row
    const knownBytes = await recordedBytes(index, digest, sizeBytes)
    const allocatedBytes = allocatedBytesOf(await stat(layout.partialFile(digest)))
    const storedBytes = occupiedBytes(sizeBytes, knownBytes, allocatedBytes)
    if (storedBytes === 0) {
      await index.write(await forgetPartialIn(index, digest), false)
      continue
    }
    arriving.delete(digest)
    entries.push({ digest, sizeBytes, storedBytes, complete: false, mediaType: undefined, lastUsedMs, holds: 0 })
  }
  for (const digest of arriving) await rm(layout.partialFile(digest), { force: true })

  for await (const [digest] of index.digestRows(PINS)) pins.add(digest)
  entries.sort((a, b) => a.lastUsedMs - b.lastUsedMs)
  if (files.size > 0) log.warn({ files: files.size }, 'blobs without a row in the index: they are verified again')
  return { entries, pins, unverified: files }
}

/** The rows of whole blobs, and whether each has plausible numbers and, where there is a file, the size of that. */
async function* blobRows(layout: StoreLayout, index: StoreIndex): AsyncGenerator<[Digest, BlobRow, boolean]> {
  const check = async ([digest, row]: [Digest, BlobRow]): Promise<[Digest, BlobRow, boolean]> => {
    const isRight = isPlausible(row, 'lastUsedMs') && (await isSizeOf(layout.blobFile(digest), row.sizeBytes))
    return [digest, row, isRight]
  }
  let some: [Digest, BlobRow][] = []
  for await (const found of index.digestRows(BLOBS)) {
    some.push(found)
    if (some.length < CHECKED_AT_ONCE) continue
    yield* await Promise.all(some.map(check))
    some = []
  }
  yield* await Promise.all(some.map(check))
}

/** One that is not there, or cannot be looked at, is no reason to doubt the row. */
async function isSizeOf(path: string, sizeBytes: number): Promise<boolean> {
  try {
    return (await stat(path)).size === sizeBytes
  } catch {
    return true
  }
}

async function listBlobFiles({ blobs }: StoreLayout): Promise<Set<Digest>> {
  const found = new Set<Digest>()
  for (const algorithm of ['sha256', 'sha512']) {
    for (const folder of await list(join(blobs, algorithm))) {
      for (const name of await list(join(blobs, algorithm, folder))) {
        const digest = `${algorithm}:${name}`
        if (isDigest(digest) && name.startsWith(folder)) found.add(digest)
      }
    }
  }
  return found
}

/** Also removes what was being written in one go. */
async function listPartialFiles({ partial }: StoreLayout): Promise<Set<Digest>> {
  const found = new Set<Digest>()
  for (const name of await list(partial)) {
    if (name.startsWith('put-')) await rm(join(partial, name), { force: true })
    else if (name === 'sha256' || name === 'sha512') {
      for (const hex of await list(join(partial, name))) {
        const digest = `${name}:${hex}`
        if (isDigest(digest)) found.add(digest)
      }
    }
  }
  return found
}

async function finishMove(layout: StoreLayout, digest: Digest, row: BlobRow, arriving: Set<Digest>): Promise<boolean> {
  if (!arriving.has(digest)) return false
  const from = layout.partialFile(digest)
  if ((await stat(from)).size !== row.sizeBytes) return false
  const to = layout.blobFile(digest)
  await mkdir(dirname(to), { recursive: true })
  await rename(from, to)
  arriving.delete(digest)
  return true
}

/** Bytes of the chunks that are certainly on the disk. */
async function recordedBytes(index: StoreIndex, digest: Digest, sizeBytes: number): Promise<number> {
  const bytes = await index.get(PARTIAL_MAPS, digest)
  if (bytes === undefined) return 0
  try {
    let sum = 0
    for (const chunk of ChunkMap.fromBytes(chunkCountFor(sizeBytes), bytes).indices())
      sum += chunkLength(sizeBytes, chunk)
    return sum
  } catch {
    return 0
  }
}

async function list(folder: string): Promise<string[]> {
  try {
    return await readdir(folder)
  } catch (error) {
    if (errorCode(error) === 'ENOENT' || errorCode(error) === 'ENOTDIR') return []
    throw error
  }
}
