// Checks a store from outside, without opening it: every whole blob is read and hashed against the name of its file.
// Needs neither the index nor the process that owns the store, so it may look at one that is broken or in use.
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { isDigest } from '@shoal/oci'
import { allocatedBytesOf } from './blob-file.ts'
import { errorCode } from './errors.ts'
import { StoreLayout } from './store-layout.ts'

/** What a look at the files of a store has found. */
export interface StoreReport {
  /** Whole blobs whose digest is right. */
  blobs: number
  /** Bytes of all whole blobs. */
  blobBytes: number
  /** Arriving blobs. */
  partials: number
  /** Bytes that they take on the disk: whole blocks, and what the file system needs to find those. */
  partialBytes: number
  /** Files among the whole blobs whose content is not what their name says. */
  damaged: string[]
  /** Files that belong to no blob: temporary ones, when nobody is writing. */
  strays: string[]
}

/**
 * Reads the whole store in a directory. What goes away meanwhile is left out.
 * @throws the system's error when something cannot be read; the signal's reason when it is aborted
 */
export async function verifyStore(directory: string, signal?: AbortSignal): Promise<StoreReport> {
  const { blobs, partial } = new StoreLayout(directory)
  const report: StoreReport = { blobs: 0, blobBytes: 0, partials: 0, partialBytes: 0, damaged: [], strays: [] }
  for (const path of await filesUnder(blobs)) {
    const [hex = '', folder = '', algorithm = ''] = path.split('/').reverse()
    if (!isDigest(`${algorithm}:${hex}`) || !hex.startsWith(folder)) {
      report.strays.push(path)
      continue
    }
    const hash = createHash(algorithm)
    let bytes = 0
    try {
      await pipeline(
        createReadStream(path, { highWaterMark: 1024 * 1024 }),
        async (source: AsyncIterable<Buffer>) => {
          for await (const piece of source) {
            hash.update(piece)
            bytes += piece.byteLength
          }
        },
        signal === undefined ? {} : { signal },
      )
    } catch (error) {
      if (errorCode(error) === 'ENOENT') continue
      throw error
    }
    report.blobBytes += bytes
    if (hash.digest('hex') === hex) report.blobs++
    else report.damaged.push(path)
  }
  for (const path of await filesUnder(partial)) {
    const [hex = '', algorithm = ''] = path.split('/').reverse()
    if (isDigest(`${algorithm}:${hex}`)) {
      report.partials++
      report.partialBytes += await allocatedBytes(path)
    } else report.strays.push(path)
  }
  return report
}

/** Full paths, in a fixed order; none when the folder is not there. */
async function filesUnder(folder: string): Promise<string[]> {
  try {
    const entries = await readdir(folder, { recursive: true, withFileTypes: true })
    return entries
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .sort()
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return []
    throw error
  }
}

/** Arriving blobs are sparse: their size says nothing of what they take. */
async function allocatedBytes(path: string): Promise<number> {
  try {
    return allocatedBytesOf(await stat(path))
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return 0
    throw error
  }
}
