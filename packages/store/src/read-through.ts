// Reads a store through after a stop that was not in order: a loss of power may have left other bytes in a file than were
// written, and nobody should learn of it from a broken pull.
import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Digest } from '@shoal/oci'
import type { BlobTrust, CheckedBlob } from './blob-trust.ts'
import { CHUNK_HASH_BYTES, chunkCountFor, chunkLength, chunkStart } from './chunk-geometry.ts'
import { BlobDamagedError } from './errors.ts'
import { HASHES, type StoreIndex } from './store-index.ts'

/** At most so many bytes in a millisecond: what serves clients comes first. */
const BYTES_PER_MS = 64 * 1024

export interface ReadThroughOptions {
  index: StoreIndex
  /** What is damaged it takes out by itself. */
  trust: BlobTrust
  /** The file of a blob, which is then released here; undefined when the blob is gone meanwhile. */
  open: (digest: Digest) => Promise<Omit<CheckedBlob, 'chunkHashes'> | undefined>
  signal: AbortSignal
  log: Logger
}

/** Resolves when all were read, or the signal is aborted. @returns whether all were read */
export async function readThrough(suspects: readonly Digest[], options: ReadThroughOptions): Promise<boolean> {
  const { index, trust, open, signal, log } = options
  for (const digest of suspects) {
    if (signal.aborted) return false
    if (trust.has(digest)) continue
    const blob = await open(digest)
    if (blob === undefined) continue
    const { sizeBytes, file } = blob
    try {
      const chunkHashes = await index.get(HASHES, digest)
      const count = chunkCountFor(sizeBytes)
      // Without hashes there is nothing to check it by: it is read as a whole when it is asked for.
      if (chunkHashes?.byteLength !== count * CHUNK_HASH_BYTES) continue
      const check = trust.checkOf({ ...blob, chunkHashes: Uint8Array.from(chunkHashes) })
      for (let chunk = 0; chunk < count && check !== undefined; chunk++) {
        const length = chunkLength(sizeBytes, chunk)
        await check.range(chunkStart(sizeBytes, chunk), length)
        await delay(length / BYTES_PER_MS, undefined, { signal })
      }
    } catch (error) {
      if (signal.aborted) return false
      if (!(error instanceof BlobDamagedError)) log.warn({ err: error, digest }, 'a blob could not be read')
    } finally {
      await file.release()
    }
  }
  return true
}
