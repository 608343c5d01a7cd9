// The blobs that are arriving, one object for each, and how one comes to be: taken up from an earlier run, begun anew, or
// made of a blob that turns out to be whole.
import type { Logger } from 'pino'
import type { Digest } from '@shoal/oci'
import { newEntry, type BlobEntry, type BlobTable } from './blob-table.ts'
import type { BlobUses } from './blob-uses.ts'
import { CHUNK_HASH_BYTES, chunkCountFor, isBlobSize, MAX_BLOB_BYTES } from './chunk-geometry.ts'
import { ChunkMap } from './chunk-map.ts'
import type { ChunkSyncer } from './chunk-syncer.ts'
import { BlobSizeError, StoreFullError } from './errors.ts'
import type { HashService } from './hash-service.ts'
import type { KeyedLock } from './keyed-lock.ts'
import { FilePartialBlob, type PartialBlobHost, type PartialBlobState } from './partial-blob.ts'
import { createPartial, resumePartial } from './partial-resume.ts'
import { forgetPartial, type StoreIndex } from './store-index.ts'
import type { StoreLayout } from './store-layout.ts'
import type { StoredFiles } from './stored-files.ts'

export interface ArrivingBlobsParts {
  layout: StoreLayout
  index: StoreIndex
  hashes: HashService
  table: BlobTable
  syncer: ChunkSyncer
  files: StoredFiles
  uses: BlobUses
  locks: KeyedLock<Digest>
  unverified: ReadonlySet<Digest>
  quotaBytes: number
  log: Logger
  /** Told of what goes wrong beside what was asked for. */
  logFailure: (error: unknown) => void
  /** Aborted, with the error for callers, when the store closes. */
  signal: AbortSignal
}

export class ArrivingBlobs implements PartialBlobHost {
  readonly index: StoreIndex
  readonly hashes: HashService
  readonly table: BlobTable
  readonly syncer: ChunkSyncer
  readonly log: Logger
  readonly #parts: ArrivingBlobsParts
  readonly #open = new Map<Digest, FilePartialBlob>()

  constructor(parts: ArrivingBlobsParts) {
    this.index = parts.index
    this.hashes = parts.hashes
    this.table = parts.table
    this.syncer = parts.syncer
    this.log = parts.log
    this.#parts = parts
  }

  /** One that is open, or is just being closed. */
  get(digest: Digest): FilePartialBlob | undefined {
    return this.#open.get(digest)
  }

  /** See `Store.openPartial`. */
  async open(digest: Digest, sizeBytes: number): Promise<FilePartialBlob> {
    if (!isBlobSize(sizeBytes)) {
      throw new BlobSizeError(digest, `${sizeBytes} bytes are not between 0 and ${MAX_BLOB_BYTES}`)
    }
    const { locks, signal } = this.#parts
    for (;;) {
      signal.throwIfAborted()
      const open = this.#open.get(digest)
      if (open === undefined) {
        const opened = await locks.run(digest, () => this.#openLocked(digest, sizeBytes))
        if (opened !== undefined) return opened
      } else if (open.closing !== undefined) {
        await open.closing
      } else {
        checkSize(digest, open.sizeBytes, sizeBytes)
        return open
      }
    }
  }

  /** Undefined when somebody else has opened it meanwhile. */
  async #openLocked(digest: Digest, sizeBytes: number): Promise<FilePartialBlob | undefined> {
    const { files, uses, unverified, signal } = this.#parts
    signal.throwIfAborted()
    if (this.#open.has(digest)) return undefined
    if (unverified.has(digest)) await files.adopt(digest)
    const entry = this.table.get(digest)
    const state =
      (entry?.complete === true ? await this.#wholeState(entry, sizeBytes) : undefined) ??
      (await this.#arrivingState(digest, sizeBytes))
    const blob = new FilePartialBlob(this, state)
    this.#open.set(digest, blob)
    uses.note(digest)
    return blob
  }

  /** A blob that turns out to be whole already is handed out as one that has just been completed. */
  async #wholeState(found: BlobEntry, sizeBytes: number): Promise<PartialBlobState | undefined> {
    checkSize(found.digest, found.sizeBytes, sizeBytes)
    const whole = await this.#parts.files.openIntact(found)
    if (whole === undefined) return undefined
    const chunks = ChunkMap.full(chunkCountFor(sizeBytes))
    return { entry: whole.entry, file: whole.file, chunks, synced: chunks, hashes: whole.chunkHashes }
  }

  async #arrivingState(digest: Digest, sizeBytes: number): Promise<PartialBlobState> {
    const { layout, files, quotaBytes, logFailure } = this.#parts
    const path = layout.partialFile(digest)
    const known = this.table.get(digest)
    if (known !== undefined) {
      const state = known.sizeBytes === sizeBytes ? await resumePartial(this, known, path) : undefined
      if (state !== undefined) return state
      await files.takeOut(known)
    }
    if (this.table.exceedsQuota(sizeBytes)) {
      throw new StoreFullError('quota', `${digest} has ${sizeBytes} bytes, more than the quota of ${quotaBytes}`)
    }
    const entry = this.table.add(newEntry(digest, sizeBytes))
    try {
      return await createPartial(this, entry, path)
    } catch (error) {
      this.table.remove(digest)
      await files.remove(entry).catch(logFailure)
      throw error
    }
  }

  commit(entry: BlobEntry, hashes: Uint8Array, mediaType: string | undefined): Promise<void> {
    const { layout, files, locks, logFailure } = this.#parts
    const { digest } = entry
    return locks.run(digest, async () => {
      entry.mediaType = mediaType
      await files.install(entry, layout.partialFile(digest), hashes)
      const chunkCount = hashes.byteLength / CHUNK_HASH_BYTES
      this.index.write(forgetPartial(digest, chunkCount), false).catch(logFailure)
    })
  }

  closed(blob: FilePartialBlob): void {
    const { digest } = blob
    const { locks, logFailure } = this.#parts
    if (this.#open.get(digest) === blob) this.#open.delete(digest)
    locks.run(digest, () => this.#removeEmpty(digest)).catch(logFailure)
  }

  /** Of a blob that never got a byte nothing is worth keeping, and what takes no room is never evicted. */
  async #removeEmpty(digest: Digest): Promise<void> {
    const entry = this.table.get(digest)
    if (entry === undefined || entry.complete || entry.storedBytes > 0 || this.#open.has(digest)) return
    await this.#parts.files.takeOut(entry)
  }

  /** Closes all that are open. */
  async close(reason: Error): Promise<void> {
    await Promise.all([...this.#open.values()].map((blob) => blob.close(reason)))
  }
}

function checkSize(digest: Digest, known: number, asked: number): void {
  if (known !== asked) throw new BlobSizeError(digest, `it has ${known} bytes here, not ${asked}`)
}
