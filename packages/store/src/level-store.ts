// The store: ties together the table in memory, the index, the files, and the blobs that are open.
import { mkdir, open, rename, rm } from 'node:fs/promises'
import type { Logger } from 'pino'
import { digestAlgorithm, digestOf, type Digest } from '@shoal/oci'
import { BlobFile, writeDurably } from './blob-file.ts'
import { BlobTrust, type CheckedBlob } from './blob-trust.ts'
import { BlobTable, newEntry, type BlobEntry } from './blob-table.ts'
import { verifyBlob } from './blob-verifier.ts'
import { CHUNK_HASH_BYTES, chunkCountFor } from './chunk-geometry.ts'
import { ChunkMap } from './chunk-map.ts'
import { ChunkHasher } from './chunk-hasher.ts'
import type { ChunkSyncer } from './chunk-syncer.ts'
import { asStoreError, BlobSizeError, DigestMismatchError, errorCode, isOutOfSpace } from './errors.ts'
import { StoreClosedError, StoreFullError } from './errors.ts'
import type { ForeignContent } from './foreign-content.ts'
import type { HashService } from './hash-service.ts'
import { KeyedLock } from './keyed-lock.ts'
import { FilePartialBlob, type PartialBlobHost, type PartialBlobState } from './partial-blob.ts'
import { createPartial, resumePartial } from './partial-resume.ts'
import { readThrough } from './read-through.ts'
import type { FoundContent } from './reconcile.ts'
import type { PartialBlob, Store, StoredBlob, StoreEntry, StoreRecords, StoreUsage } from './store.ts'
import {
  BLOBS,
  del,
  forgetPartial,
  HASHES,
  PARTIALS,
  PINS,
  put,
  recordsIn,
  STATE,
  type IndexChange,
} from './store-index.ts'
import type { StoreIndex } from './store-index.ts'
import type { StoreLayout } from './store-layout.ts'
import { StoreMetrics } from './store-metrics.ts'
import { OpenBlobs } from './stored-blob.ts'
import type { Registry } from 'prom-client'

/**
 * Largest blob that is taken, in bytes. The sizes come from manifests, so anybody may claim any; at this one the hashes
 * of the chunks take 8 MiB of memory.
 */
export const MAX_BLOB_BYTES = 2 ** 40

/** A blob up to this size is checked before it is opened; of a larger one each chunk before it is first handed out. */
const CHECKED_AT_ONCE_BYTES = 16 * 1024 * 1024

/** How often the times of last use are written down. After a crash the order of eviction is this old at most. */
const PERSIST_USE_MS = 60_000

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

export class LevelStore implements Store, PartialBlobHost {
  readonly index: StoreIndex
  readonly hashes: HashService
  readonly syncer: ChunkSyncer
  readonly table: BlobTable
  readonly log: Logger
  readonly #layout: StoreLayout
  readonly #foreign: ForeignContent | undefined
  readonly #metrics: StoreMetrics
  readonly #quotaBytes: number
  readonly #pins: Set<Digest>
  readonly #unverified: Set<Digest>
  readonly #locks = new KeyedLock<Digest>()
  readonly #open: OpenBlobs
  readonly #trust: BlobTrust
  readonly #partials = new Map<Digest, FilePartialBlob>()
  /** Blobs whose time of last use is newer than their row. */
  readonly #used = new Set<Digest>()
  readonly #persistTimer: NodeJS.Timeout
  readonly #closing = new AbortController()
  readonly #adoption: Promise<void>
  readonly #readingThrough: Promise<void>
  #closed: Promise<void> | undefined

  constructor(parts: LevelStoreParts) {
    this.index = parts.index
    this.hashes = parts.hashes
    this.syncer = parts.syncer
    this.log = parts.logger
    this.#layout = parts.layout
    this.#foreign = parts.foreign
    this.#quotaBytes = parts.quotaBytes
    this.#pins = parts.found.pins
    this.#unverified = parts.found.unverified
    this.#open = new OpenBlobs(parts.logger)
    this.#trust = new BlobTrust(parts.hashes, (digest) => {
      this.#removeDamaged(digest).catch(this.#logFailure)
    })
    this.table = new BlobTable({
      quotaBytes: parts.quotaBytes,
      isPinned: (digest) => this.#pins.has(digest),
      isBusy: (digest) => this.#locks.isTaken(digest),
      evict: (entry) => this.#evict(entry),
    })
    for (const entry of parts.found.entries) this.table.add(entry)
    this.#metrics = new StoreMetrics(parts.metrics, () => this.usage())
    this.#persistTimer = setInterval(() => {
      this.#persistUse().catch(this.#logFailure)
    }, PERSIST_USE_MS).unref()
    const { closedInOrder, entries } = parts.found
    const suspects = closedInOrder ? [] : entries.filter(({ complete }) => complete).map(({ digest }) => digest)
    this.#adoption = this.#adoptAll().catch(this.#logFailure)
    this.#readingThrough = this.#adoption.then(() => this.#readThrough(suspects)).catch(this.#logFailure)
  }

  readonly #logFailure = (error: unknown): void => {
    if (!this.#closing.signal.aborted) this.log.warn({ err: error }, 'the store could not finish a task')
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
    return this.table.get(digest)?.complete === true || this.#foreign?.has(digest) === true
  }

  async open(digest: Digest): Promise<StoredBlob | undefined> {
    for (;;) {
      this.#throwIfClosed()
      const blob = this.#open.get(digest)
      if (blob !== undefined) {
        this.#use(digest)
        return blob
      }
      if (!(await this.#locks.run(digest, () => this.#load(digest)))) return undefined
    }
  }

  /** Opens the file of a blob, so that `#open` has it. False when it is not here. */
  async #load(digest: Digest): Promise<boolean> {
    this.#throwIfClosed()
    if (this.#unverified.has(digest)) await this.#adopt(digest)
    const entry = this.table.get(digest)
    if (entry?.complete === true && (await this.#loadOwn(entry))) return true
    const foreign = await this.#foreign?.open(digest)
    if (foreign === undefined) return false
    this.#open.add(foreign).release()
    return true
  }

  async #loadOwn(found: BlobEntry): Promise<boolean> {
    const whole = await this.#openWhole(found)
    if (whole === undefined) return false
    const { entry, ...checked } = whole
    if (entry.sizeBytes <= CHECKED_AT_ONCE_BYTES && !(await this.#intactOrReleased(checked))) return false
    const check = this.#trust.checkOf(checked)
    const held = (held: boolean) => {
      entry.holds += held ? 1 : -1
    }
    this.#open.add({ ...checked, mediaType: entry.mediaType, check, held }).release()
    return true
  }

  /** The file of a whole blob and the hashes of its chunks. Where those are lost, the blob is verified again. */
  async #openWhole(entry: BlobEntry): Promise<(CheckedBlob & { entry: BlobEntry }) | undefined> {
    const { digest, sizeBytes } = entry
    const file = await this.#openFile(entry)
    if (file === undefined) return undefined
    const hashes = await this.index.get(HASHES, digest)
    if (hashes?.byteLength === chunkCountFor(sizeBytes) * CHUNK_HASH_BYTES) {
      return { entry, digest, sizeBytes, chunkHashes: Uint8Array.from(hashes), file }
    }
    this.log.warn({ digest }, 'the chunk hashes of a blob are lost; it is verified again')
    await file.release()
    this.table.remove(digest)
    await this.#adopt(digest)
    const verified = this.table.get(digest)
    return verified?.complete === true ? this.#openWhole(verified) : undefined
  }

  /** Takes a blob out at once; who has it open meets the damage by himself. */
  async #removeDamaged(digest: Digest): Promise<void> {
    const entry = this.table.get(digest)
    if (entry?.complete !== true) return
    this.log.warn({ digest }, 'a blob was damaged on the disk; it is removed')
    this.table.remove(digest)
    this.#open.discard(digest)
    await this.#locks.run(digest, () => this.#removeFiles(entry))
  }

  /** Looks for harm that a crash has done, before somebody asks for what was harmed. */
  #readThrough(suspects: readonly Digest[]): Promise<void> {
    const openEntry = async (digest: Digest) => {
      const entry = this.table.get(digest)
      if (entry?.complete !== true) return undefined
      const file = await this.#locks.run(digest, () => this.#openFile(entry))
      return file && { digest, sizeBytes: entry.sizeBytes, file }
    }
    const { index, log } = this
    return readThrough(suspects, { index, log, trust: this.#trust, open: openEntry, signal: this.#closing.signal })
  }

  /** The file of a whole blob. When it is gone or cut off, the blob is forgotten. */
  async #openFile(entry: BlobEntry): Promise<BlobFile | undefined> {
    const { digest } = entry
    const path = this.#layout.blobFile(digest)
    try {
      const file = await BlobFile.open(path, 'r')
      const sizeBytes = await file.sizeBytes()
      if (sizeBytes === entry.sizeBytes) return file
      this.log.warn({ digest, sizeBytes, expected: entry.sizeBytes }, 'the file of a blob was cut off; it is removed')
      await file.release()
    } catch (error) {
      if (errorCode(error) !== 'ENOENT') throw asStoreError(error, `opening ${digest}`)
      this.log.warn({ digest }, 'the file of a blob is gone; the blob is forgotten')
    }
    this.table.remove(digest)
    await this.#removeFiles(entry)
    return undefined
  }

  async openPartial(digest: Digest, sizeBytes: number): Promise<PartialBlob> {
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0 || sizeBytes > MAX_BLOB_BYTES) {
      throw new BlobSizeError(digest, `${sizeBytes} bytes are not between 0 and ${MAX_BLOB_BYTES}`)
    }
    for (;;) {
      this.#throwIfClosed()
      const open = this.#partials.get(digest)
      if (open === undefined) {
        const opened = await this.#locks.run(digest, () => this.#openPartial(digest, sizeBytes))
        if (opened !== undefined) return opened
      } else if (open.closing !== undefined) {
        await open.closing
      } else {
        this.#checkSize(digest, open.sizeBytes, sizeBytes)
        return open
      }
    }
  }

  /** Undefined when somebody else has opened it meanwhile. */
  async #openPartial(digest: Digest, sizeBytes: number): Promise<FilePartialBlob | undefined> {
    this.#throwIfClosed()
    if (this.#partials.has(digest)) return undefined
    if (this.#unverified.has(digest)) await this.#adopt(digest)
    const entry = this.table.get(digest)
    const state =
      (entry?.complete === true ? await this.#wholeState(entry, sizeBytes) : undefined) ??
      (await this.#arrivingState(digest, sizeBytes))
    const blob = new FilePartialBlob(this, state)
    this.#partials.set(digest, blob)
    this.#use(digest)
    return blob
  }

  /** A blob that turns out to be whole already is handed out as one that has just been completed. */
  async #wholeState(found: BlobEntry, sizeBytes: number): Promise<PartialBlobState | undefined> {
    this.#checkSize(found.digest, found.sizeBytes, sizeBytes)
    const whole = await this.#openWhole(found)
    if (whole === undefined || !(await this.#intactOrReleased(whole))) return undefined
    const chunks = ChunkMap.full(chunkCountFor(sizeBytes))
    return { entry: whole.entry, file: whole.file, chunks, synced: chunks, hashes: whole.chunkHashes }
  }

  /** Gives the file back when the blob is not what it should be, or cannot be read. */
  async #intactOrReleased(blob: CheckedBlob): Promise<boolean> {
    let intact = false
    try {
      return (intact = await this.#trust.isIntact(blob))
    } finally {
      if (!intact) await blob.file.release()
    }
  }

  async #arrivingState(digest: Digest, sizeBytes: number): Promise<PartialBlobState> {
    const path = this.#layout.partialFile(digest)
    const known = this.table.get(digest)
    if (known !== undefined) {
      const state = known.sizeBytes === sizeBytes ? await resumePartial(this, known, path) : undefined
      if (state !== undefined) return state
      this.table.remove(digest)
      await this.#removeFiles(known)
    }
    if (this.table.exceedsQuota(sizeBytes)) {
      throw new StoreFullError('quota', `${digest} has ${sizeBytes} bytes, more than the quota of ${this.#quotaBytes}`)
    }
    const entry = this.table.add(newEntry(digest, sizeBytes))
    try {
      return await createPartial(this, entry, path)
    } catch (error) {
      this.table.remove(digest)
      await this.#removeFiles(entry).catch(this.#logFailure)
      throw error
    }
  }

  partial(digest: Digest): PartialBlob | undefined {
    const blob = this.#partials.get(digest)
    return blob === undefined || blob.closing !== undefined || blob.isComplete ? undefined : blob
  }

  async put(digest: Digest, bytes: Uint8Array, mediaType?: string): Promise<void> {
    const actual = digestOf(bytes, digestAlgorithm(digest))
    if (actual !== digest) throw new DigestMismatchError(digest, actual)
    for (;;) {
      this.#throwIfClosed()
      const arriving = this.#partials.get(digest)
      if (arriving?.closing !== undefined) await arriving.closing
      else if (arriving !== undefined && arriving.sizeBytes === bytes.byteLength) {
        return this.#putInto(arriving, bytes, mediaType)
      } else {
        const done = await this.#locks.run(digest, async () => {
          if (this.#partials.get(digest)?.sizeBytes === bytes.byteLength) return false
          await this.#put(digest, bytes, mediaType)
          return true
        })
        if (done) return
      }
    }
  }

  async #putInto(blob: FilePartialBlob, bytes: Uint8Array, mediaType: string | undefined): Promise<void> {
    for (let index = 0; index < blob.chunkCount; index++) {
      const start = index * blob.chunkSizeBytes
      await blob.writeChunk(index, bytes.subarray(start, start + blob.chunkSizeBytes))
    }
    await blob.complete(mediaType)
  }

  async #put(digest: Digest, bytes: Uint8Array, mediaType: string | undefined): Promise<void> {
    const known = this.table.get(digest)
    if (known?.complete === true) {
      if (mediaType === undefined || mediaType === known.mediaType) return
      this.#open.forget(digest)
      known.mediaType = mediaType
      return this.index.write([this.#row(known)], true)
    }
    if (known !== undefined && known.holds === 0) await this.#removeFiles(known)
    const entry = this.table.add(newEntry(digest, bytes.byteLength))
    entry.holds++
    const path = this.#layout.temporaryFile(digest)
    try {
      await this.table.reserve(entry, bytes.byteLength)
      await this.#writeFile(path, bytes)
      entry.mediaType = mediaType
      const hasher = new ChunkHasher(bytes.byteLength)
      hasher.update(bytes)
      await this.#install(entry, path, hasher.digest().hashes)
    } catch (error) {
      this.table.remove(digest)
      await rm(path, { force: true }).catch(this.#logFailure)
      throw asStoreError(error, `storing ${digest}`)
    } finally {
      entry.holds--
    }
  }

  async #writeFile(path: string, bytes: Uint8Array): Promise<void> {
    for (;;) {
      try {
        return await writeDurably(path, bytes)
      } catch (error) {
        if (!isOutOfSpace(error) || !(await this.table.makeRoomOnDisk(bytes.byteLength))) throw error
      }
    }
  }

  commit(entry: BlobEntry, hashes: Uint8Array, mediaType: string | undefined): Promise<void> {
    return this.#locks.run(entry.digest, async () => {
      entry.mediaType = mediaType
      await this.#install(entry, this.#layout.partialFile(entry.digest), hashes)
      const chunkCount = hashes.byteLength / CHUNK_HASH_BYTES
      this.index.write(forgetPartial(entry.digest, chunkCount), false).catch(this.#logFailure)
    })
  }

  /** Row first, then the move: see reconcile.ts. The bytes of the file are on the disk and checked. */
  async #install(entry: BlobEntry, path: string, hashes: Uint8Array): Promise<void> {
    const { digest } = entry
    await this.index.write([this.#row(entry), put(HASHES, digest, hashes)], true)
    try {
      const folder = this.#layout.blobFolder(digest)
      await mkdir(folder, { recursive: true })
      await rename(path, this.#layout.blobFile(digest))
      const handle = await open(folder, 'r')
      await handle.sync().finally(() => handle.close())
    } catch (error) {
      await this.index.write([del(BLOBS, digest), del(HASHES, digest)], true)
      throw asStoreError(error, `moving ${digest} to its place`)
    }
    this.table.markComplete(entry, entry.mediaType)
    this.#trust.add(digest)
    this.#unverified.delete(digest)
    this.#use(digest)
  }

  closed(blob: FilePartialBlob): void {
    if (this.#partials.get(blob.digest) === blob) this.#partials.delete(blob.digest)
  }

  delete(digest: Digest): Promise<boolean> {
    return this.#locks.run(digest, async () => {
      this.#throwIfClosed()
      if (this.#unverified.has(digest)) await this.#adopt(digest)
      const entry = this.table.get(digest)
      if (entry === undefined || entry.holds > 0 || this.#partials.has(digest)) return false
      this.table.remove(digest)
      await this.#removeFiles(entry)
      if (this.#pins.delete(digest)) await this.index.write([del(PINS, digest)], true)
      return true
    })
  }

  async #evict(entry: BlobEntry): Promise<void> {
    await this.#locks.run(entry.digest, () => this.#removeFiles(entry))
    this.#metrics.evicted()
    this.log.debug({ digest: entry.digest, bytes: entry.storedBytes }, 'evicted')
  }

  /** Files first: a row without a file is found out at the next start. */
  async #removeFiles({ digest, sizeBytes, complete }: BlobEntry): Promise<void> {
    this.#open.forget(digest)
    if (complete) this.#trust.delete(digest)
    try {
      await rm(complete ? this.#layout.blobFile(digest) : this.#layout.partialFile(digest), { force: true })
    } catch (error) {
      throw asStoreError(error, `removing ${digest}`)
    }
    const changes = complete
      ? [del(BLOBS, digest), del(HASHES, digest)]
      : forgetPartial(digest, chunkCountFor(sizeBytes))
    await this.index.write(changes, false).catch(this.#logFailure)
  }

  async #adoptAll(): Promise<void> {
    for (const digest of [...this.#unverified]) {
      if (this.#closing.signal.aborted) return
      await this.#locks.run(digest, async () => {
        if (this.#unverified.has(digest)) await this.#adopt(digest)
      })
    }
    await this.table.enforceQuota()
  }

  /** Takes a file that no row vouches for into the store if its digest is right, and removes it if not. */
  async #adopt(digest: Digest): Promise<void> {
    const path = this.#layout.blobFile(digest)
    let file: BlobFile | undefined
    try {
      file = await BlobFile.open(path, 'r')
      const { sizeBytes, modifiedMs } = await file.state()
      const hashes = await verifyBlob(this.hashes, file, digest, sizeBytes, this.#closing.signal)
      if (hashes === undefined) {
        this.log.warn({ digest }, 'a file does not have the digest that it is named by; it is removed')
        await rm(path, { force: true })
        await this.index.write([del(BLOBS, digest), del(HASHES, digest)], false)
      } else {
        const entry = { ...newEntry(digest, sizeBytes), storedBytes: sizeBytes, complete: true, lastUsedMs: modifiedMs }
        await this.index.write([this.#row(entry), put(HASHES, digest, hashes)], false)
        this.table.add(entry)
        this.#trust.add(digest)
      }
    } catch (error) {
      if (this.#closing.signal.aborted) throw new StoreClosedError('the store is closed')
      this.log.warn({ err: error, digest }, 'a blob could not be verified')
    } finally {
      await file?.release()
    }
    this.#unverified.delete(digest)
  }

  async pin(digest: Digest): Promise<void> {
    this.#throwIfClosed()
    this.#pins.add(digest)
    await this.index.write([put(PINS, digest, true)], true)
  }

  async unpin(digest: Digest): Promise<void> {
    this.#throwIfClosed()
    this.#pins.delete(digest)
    await this.index.write([del(PINS, digest)], true)
  }

  *list(): Generator<StoreEntry> {
    for (const { digest, sizeBytes, storedBytes, complete, lastUsedMs } of this.table.values()) {
      yield { digest, sizeBytes, storedBytes, complete, pinned: this.#pins.has(digest), lastUsedMs }
    }
    for (const entry of this.#foreign?.entries() ?? []) if (this.table.get(entry.digest) === undefined) yield entry
  }

  usage(): StoreUsage {
    const { storedBytes, completeCount, partialCount } = this.table
    return { storedBytes, quotaBytes: this.#quotaBytes, blobs: completeCount, partialBlobs: partialCount }
  }

  records<T>(name: string): StoreRecords<T> {
    return recordsIn<T>(this.index, name)
  }

  #use(digest: Digest): void {
    const entry = this.table.get(digest)
    if (entry === undefined) return
    this.table.touch(entry, Date.now())
    this.#used.add(digest)
  }

  async #persistUse(): Promise<void> {
    const changes: IndexChange[] = []
    for (const digest of this.#used) {
      const entry = this.table.get(digest)
      if (entry?.complete === true) changes.push(this.#row(entry))
      else if (entry !== undefined) {
        changes.push(put(PARTIALS, digest, { sizeBytes: entry.sizeBytes, lastUsedMs: entry.lastUsedMs }))
      }
    }
    this.#used.clear()
    if (changes.length > 0) await this.index.write(changes, false)
  }

  #row({ digest, sizeBytes, mediaType, lastUsedMs }: BlobEntry): IndexChange {
    return put(BLOBS, digest, { sizeBytes, lastUsedMs, ...(mediaType === undefined ? {} : { mediaType }) })
  }

  #checkSize(digest: Digest, known: number, asked: number): void {
    if (known !== asked) throw new BlobSizeError(digest, `it has ${known} bytes here, not ${asked}`)
  }

  #throwIfClosed(): void {
    if (this.#closing.signal.aborted) throw new StoreClosedError('the store is closed')
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    this.#closing.abort()
    clearInterval(this.#persistTimer)
    const reason = new StoreClosedError('the store is closed')
    await this.#readingThrough
    await this.#locks.idle()
    await Promise.all([...this.#partials.values()].map((blob) => blob.close(reason)))
    await this.#locks.idle()
    await this.syncer.close()
    await this.#foreign?.close()
    this.#open.close()
    await this.#persistUse().catch(this.#logFailure)
    await this.index.write([put(STATE, 'closed', true)], true).catch(this.#logFailure)
    await this.hashes.close()
    await this.index.close()
    this.#metrics.close()
  }
}
