// The store: ties together the table in memory, the index, the files, and the blobs that are open. What may not overlap for
// one blob is locked here and in arriving-blobs.ts.
import type { Logger } from 'pino'
import type { Registry } from 'prom-client'
import { digestAlgorithm, digestOf, type Digest } from '@shoal/oci'
import { ArrivingBlobs } from './arriving-blobs.ts'
import { BlobTable, type BlobEntry } from './blob-table.ts'
import { BlobTrust } from './blob-trust.ts'
import { BlobUses } from './blob-uses.ts'
import type { ChunkSyncer } from './chunk-syncer.ts'
import { BlobSizeError, DigestMismatchError, StoreClosedError } from './errors.ts'
import type { ForeignContent } from './foreign-content.ts'
import type { HashService } from './hash-service.ts'
import { KeyedLock } from './keyed-lock.ts'
import { readThrough } from './read-through.ts'
import type { FoundContent } from './reconcile.ts'
import type { PartialBlob, Store, StoredBlob, StoreEntry, StoreRecords, StoreUsage } from './store.ts'
import { del, PINS, put, recordsIn, type StoreIndex } from './store-index.ts'
import type { StoreLayout } from './store-layout.ts'
import { StoreMetrics } from './store-metrics.ts'
import { OpenBlobs } from './stored-blob.ts'
import { StoredFiles } from './stored-files.ts'

export interface LevelStoreParts {
  layout: StoreLayout
  index: StoreIndex
  hashes: HashService
  syncer: ChunkSyncer
  found: FoundContent
  foreign: ForeignContent | undefined
  quotaBytes: number
  logger: Logger
  metrics: Registry | undefined
}

export class LevelStore implements Store {
  onRemoved: ((digest: Digest) => void) | undefined
  readonly index: StoreIndex
  readonly #hashes: HashService
  readonly #syncer: ChunkSyncer
  readonly #log: Logger
  readonly #foreign: ForeignContent | undefined
  readonly #metrics: StoreMetrics
  readonly #quotaBytes: number
  readonly #pins: Set<Digest>
  readonly #unverified: Set<Digest>
  readonly #locks = new KeyedLock<Digest>()
  readonly #table: BlobTable
  readonly #uses: BlobUses
  readonly #open: OpenBlobs
  readonly #trust: BlobTrust
  readonly #files: StoredFiles
  readonly #arriving: ArrivingBlobs
  readonly #closing = new AbortController()
  readonly #adoption: Promise<void>
  readonly #readingThrough: Promise<void>
  #isReadThrough = false
  #closed: Promise<void> | undefined

  constructor(parts: LevelStoreParts) {
    const { layout, index, hashes, syncer, quotaBytes, logger: log } = parts
    const { pins, unverified, entries } = parts.found
    this.index = index
    this.#hashes = hashes
    this.#syncer = syncer
    this.#log = log
    this.#foreign = parts.foreign
    this.#quotaBytes = quotaBytes
    this.#pins = pins
    this.#unverified = unverified
    this.#table = new BlobTable({
      quotaBytes,
      isPinned: (digest) => pins.has(digest),
      isBusy: (digest) => this.#locks.isTaken(digest),
      evict: (entry) => this.#evict(entry),
    })
    for (const entry of entries) this.#table.add(entry)
    const table = this.#table
    const logFailure = this.#logFailure
    const { signal } = this.#closing
    const uses = (this.#uses = new BlobUses(table, index, logFailure))
    const open = (this.#open = new OpenBlobs(log))
    const trust = (this.#trust = new BlobTrust(hashes, (digest) => {
      this.#removeDamaged(digest).catch(logFailure)
    }))
    const shared = { layout, index, table, hashes, uses, unverified, log, logFailure, signal }
    const removed = (digest: Digest) => {
      // containerd may have it, too, or it is on its way here again.
      if (!this.has(digest) && !signal.aborted) this.onRemoved?.(digest)
    }
    if (parts.foreign !== undefined) parts.foreign.onRemoved = removed
    const files = (this.#files = new StoredFiles({ ...shared, trust, open, removed }))
    this.#arriving = new ArrivingBlobs({ ...shared, files, syncer, locks: this.#locks, quotaBytes })
    this.#metrics = new StoreMetrics(parts.metrics, () => this.usage())
    const suspects = index.wasClosedInOrder
      ? []
      : entries.filter(({ complete }) => complete).map(({ digest }) => digest)
    this.#adoption = this.#adoptAll().catch(logFailure)
    this.#readingThrough = this.#adoption.then(() => this.#readThrough(suspects)).catch(logFailure)
  }

  readonly #logFailure = (error: unknown): void => {
    if (!this.#closing.signal.aborted) this.#log.warn({ err: error }, 'the store could not finish a task')
  }

  /** Settles when the files that no row vouched for were verified (or removed), and the quota holds. */
  get reconciled(): Promise<void> {
    return this.#adoption
  }

  /** Settles when all was read that a stop which was not in order may have harmed. */
  get readThrough(): Promise<void> {
    return this.#readingThrough
  }

  has(digest: Digest): boolean {
    return this.#table.get(digest)?.complete === true || this.#foreign?.has(digest) === true
  }

  async open(digest: Digest): Promise<StoredBlob | undefined> {
    for (;;) {
      this.#closing.signal.throwIfAborted()
      const blob = this.#open.get(digest)
      if (blob !== undefined) {
        this.#uses.note(digest)
        return blob
      }
      if (!(await this.#locks.run(digest, () => this.#load(digest)))) return undefined
    }
  }

  /** Opens the file of a blob, so that `#open` has it. False when it is not here. */
  async #load(digest: Digest): Promise<boolean> {
    this.#closing.signal.throwIfAborted()
    // Whoever had the lock before may have opened it: a second file of the same blob would be nobody's.
    const there = this.#open.get(digest)
    if (there !== undefined) {
      there.release()
      return true
    }
    if (this.#unverified.has(digest)) await this.#files.adopt(digest)
    const entry = this.#table.get(digest)
    if (entry?.complete === true && (await this.#files.load(entry))) return true
    const foreign = await this.#foreign?.open(digest)
    if (foreign === undefined) return false
    this.#open.add(foreign).release()
    return true
  }

  /** Takes a blob out at once; who has it open meets the damage by himself. */
  async #removeDamaged(digest: Digest): Promise<void> {
    const entry = this.#table.get(digest)
    if (entry?.complete !== true) return
    this.#log.warn({ digest }, 'a blob was damaged on the disk; it is removed')
    this.#table.remove(digest)
    this.#open.discard(digest)
    await this.#locks.run(digest, () => this.#files.takeOut(entry))
  }

  /** Looks for harm that a crash has done, before somebody asks for what was harmed. */
  async #readThrough(suspects: readonly Digest[]): Promise<void> {
    const openEntry = async (digest: Digest) => {
      const entry = this.#table.get(digest)
      if (entry?.complete !== true) return undefined
      const file = await this.#locks.run(digest, () => this.#files.openFile(entry))
      return file && { digest, sizeBytes: entry.sizeBytes, file }
    }
    const { signal } = this.#closing
    this.#isReadThrough = await readThrough(suspects, {
      index: this.index,
      log: this.#log,
      trust: this.#trust,
      open: openEntry,
      signal,
    })
  }

  openPartial(digest: Digest, sizeBytes: number): Promise<PartialBlob> {
    return this.#arriving.open(digest, sizeBytes)
  }

  partial(digest: Digest): PartialBlob | undefined {
    const blob = this.#arriving.get(digest)
    return blob === undefined || blob.closing !== undefined || blob.isComplete ? undefined : blob
  }

  async put(digest: Digest, bytes: Uint8Array, mediaType?: string): Promise<void> {
    const actual = digestOf(bytes, digestAlgorithm(digest))
    if (actual !== digest) throw new DigestMismatchError(digest, actual)
    for (;;) {
      this.#closing.signal.throwIfAborted()
      const arriving = this.#arriving.get(digest)
      if (arriving === undefined) {
        const done = await this.#locks.run(digest, async () => {
          if (this.#arriving.get(digest) !== undefined) return false
          await this.#files.write(digest, bytes, mediaType)
          return true
        })
        if (done) return
      } else if (arriving.closing !== undefined) await arriving.closing
      else if (arriving.sizeBytes !== bytes.byteLength) {
        // These bytes have the digest: the size that somebody named is wrong.
        const problem = `it has ${bytes.byteLength} bytes, not ${arriving.sizeBytes}`
        await arriving.close(new BlobSizeError(digest, problem))
      } else {
        try {
          return await this.#putInto(arriving, bytes, mediaType)
        } catch (error) {
          // Who fetched it has given it up meanwhile.
          if (!(error instanceof StoreClosedError)) throw error
        }
      }
    }
  }

  async #putInto(blob: PartialBlob, bytes: Uint8Array, mediaType: string | undefined): Promise<void> {
    for (let index = 0; index < blob.chunkCount; index++) {
      const start = index * blob.chunkSizeBytes
      await blob.writeChunk(index, bytes.subarray(start, start + blob.chunkSizeBytes))
    }
    await blob.complete(mediaType)
  }

  delete(digest: Digest): Promise<boolean> {
    return this.#locks.run(digest, async () => {
      this.#closing.signal.throwIfAborted()
      if (this.#unverified.has(digest)) await this.#files.adopt(digest)
      const entry = this.#table.get(digest)
      if (entry === undefined || entry.holds > 0 || this.#arriving.get(digest) !== undefined) return false
      await this.#files.takeOut(entry)
      if (this.#pins.delete(digest)) await this.index.write([del(PINS, digest)], true)
      return true
    })
  }

  async #evict(entry: BlobEntry): Promise<void> {
    await this.#locks.run(entry.digest, () => this.#files.remove(entry))
    this.#metrics.evicted()
    this.#log.debug({ digest: entry.digest, bytes: entry.storedBytes }, 'evicted')
  }

  async #adoptAll(): Promise<void> {
    for (const digest of [...this.#unverified]) {
      if (this.#closing.signal.aborted) return
      await this.#locks.run(digest, async () => {
        if (this.#unverified.has(digest)) await this.#files.adopt(digest)
      })
    }
    await this.#table.enforceQuota()
  }

  async pin(digest: Digest): Promise<void> {
    this.#closing.signal.throwIfAborted()
    this.#pins.add(digest)
    await this.index.write([put(PINS, digest, true)], true)
  }

  async unpin(digest: Digest): Promise<void> {
    this.#closing.signal.throwIfAborted()
    this.#pins.delete(digest)
    await this.index.write([del(PINS, digest)], true)
  }

  *list(): Generator<StoreEntry> {
    for (const { digest, sizeBytes, storedBytes, complete, lastUsedMs } of this.#table.values()) {
      yield { digest, sizeBytes, storedBytes, complete, pinned: this.#pins.has(digest), lastUsedMs }
    }
    for (const entry of this.#foreign?.entries() ?? []) if (this.#table.get(entry.digest) === undefined) yield entry
  }

  usage(): StoreUsage {
    const { storedBytes, completeCount, partialCount } = this.#table
    return { storedBytes, quotaBytes: this.#quotaBytes, blobs: completeCount, partialBlobs: partialCount }
  }

  records<T>(name: string): StoreRecords<T> {
    return recordsIn<T>(this.index, name)
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    const reason = new StoreClosedError('the store is closed')
    this.#closing.abort(reason)
    await this.#readingThrough
    await this.#locks.idle()
    await this.#arriving.close(reason)
    await this.#locks.idle()
    await this.#syncer.close()
    await this.#foreign?.close()
    this.#open.close()
    await this.#uses.close()
    await this.#hashes.close()
    // What could not be read through in this life is read in the next one.
    await this.index.close(this.#isReadThrough)
    this.#metrics.close()
  }
}
