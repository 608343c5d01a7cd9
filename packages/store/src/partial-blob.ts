// A blob that is arriving: its chunks are checked, written, and made durable; readers wait for them.
import type { Readable } from 'node:stream'
import type { Logger } from 'pino'
import type { Digest } from '@shoal/oci'
import type { BlobFile } from './blob-file.ts'
import { BlobStream, type StreamSource } from './blob-stream.ts'
import type { BlobEntry, BlobTable } from './blob-table.ts'
import { CHUNK_HASH_BYTES, chunkSizeFor } from './chunk-geometry.ts'
import type { ChunkMap } from './chunk-map.ts'
import type { ChunkSyncer } from './chunk-syncer.ts'
import {
  asStoreError,
  ChunkMismatchError,
  ChunkMissingError,
  DigestMismatchError,
  isOutOfSpace,
  StoreClosedError,
} from './errors.ts'
import type { HashService } from './hash-service.ts'
import { PlaceAccount } from './place-account.ts'
import type { PartialBlob, ReadOptions } from './store.ts'
import { chunkKey, del, PARTIAL_HASHES, PARTIAL_MAPS, put, type IndexChange, type StoreIndex } from './store-index.ts'
import { WholeHash } from './whole-hash.ts'

/** What an arriving blob needs of its store. */
export interface PartialBlobHost {
  readonly index: StoreIndex
  readonly hashes: HashService
  readonly table: BlobTable
  readonly syncer: ChunkSyncer
  readonly log: Logger
  /** Moves the file of a blob whose digest has matched to its place, and into the index. */
  commit(entry: BlobEntry, hashes: Uint8Array, mediaType: string | undefined): Promise<void>
  /** The blob was closed: a new one may be opened. */
  closed(blob: FilePartialBlob): void
}

/** What an earlier run (or a new file) starts it with. */
export interface PartialBlobState {
  entry: BlobEntry
  file: BlobFile
  /** Chunks that are there and have the hash that `hashes` says. */
  chunks: ChunkMap
  /** Those of them that the index says are on the disk. */
  synced: ChunkMap
  /** 32 bytes for each chunk. */
  hashes: Uint8Array
}

type Waiter = (failure?: Error) => void

export class FilePartialBlob implements PartialBlob {
  readonly digest: Digest
  readonly sizeBytes: number
  readonly chunkSizeBytes: number
  readonly chunkCount: number
  readonly chunks: ChunkMap
  readonly #host: PartialBlobHost
  readonly #entry: BlobEntry
  readonly #file: BlobFile
  readonly #hashes: Uint8Array
  readonly #whole: WholeHash
  readonly #places: PlaceAccount
  readonly #synced: ChunkMap
  #unsynced = new Set<number>()
  /** Chunks of the sync that is under way; a chunk that is discarded meanwhile is taken out. */
  #syncing = new Set<number>()
  #syncRun: Promise<void> = Promise.resolve()
  /** Chunks that are being written or discarded. The promise never rejects. */
  readonly #busy = new Map<number, Promise<void>>()
  /** Chunks that were discarded, but of which the index may still say that they are there. */
  readonly #undiscarded = new Set<number>()
  readonly #waiters = new Map<number, Set<Waiter>>()
  readonly #listeners = new Set<(index: number, hash: Uint8Array) => void>()
  #front: number
  /** Counts discards: a read during which it changed is made again. */
  #discards = 0
  #verified = false
  #complete: boolean
  #completing: Promise<void> | undefined
  #closing: Promise<void> | undefined
  #closeReason: Error | undefined
  #failure: Error | undefined
  /** Itself until it is closed, and every stream. */
  #users = 1

  constructor(host: PartialBlobHost, state: PartialBlobState) {
    const { entry, file, chunks, synced, hashes } = state
    this.#host = host
    this.#entry = entry
    this.#file = file
    this.digest = entry.digest
    this.sizeBytes = entry.sizeBytes
    this.chunkSizeBytes = chunkSizeFor(entry.sizeBytes)
    this.chunkCount = chunks.length
    this.chunks = chunks
    this.#synced = synced
    this.#hashes = hashes
    this.#front = chunks.firstMissing()
    this.#complete = this.#verified = entry.complete
    const { digest, sizeBytes, chunkSizeBytes } = this
    this.#whole = new WholeHash({ service: host.hashes, file, digest, chunks, chunkSizeBytes, sizeBytes })
    this.#places = new PlaceAccount(host.table, entry, chunks)
    entry.holds++
    if (entry.complete) return
    for (const index of chunks.indices()) if (!synced.has(index)) this.#unsynced.add(index)
    if (this.#unsynced.size > 0) host.syncer.mark(this, this.#unsynced.size * chunkSizeBytes)
    this.#whole.advance()
  }

  get frontChunk(): number {
    return this.#front
  }

  /** Settles when it is closed; undefined while it is open. */
  get closing(): Promise<void> | undefined {
    return this.#closing
  }

  get isComplete(): boolean {
    return this.#complete
  }

  hashOf(index: number): Uint8Array | undefined {
    if (!this.chunks.has(index)) return undefined
    return this.#hashes.slice(index * CHUNK_HASH_BYTES, (index + 1) * CHUNK_HASH_BYTES)
  }

  async writeChunk(index: number, data: Uint8Array, expectedHash?: Uint8Array): Promise<Uint8Array> {
    const length = this.#lengthOf(index)
    for (;;) {
      const kept = this.hashOf(index)
      if (kept !== undefined) return kept
      this.#throwIfClosed()
      const busy = this.#busy.get(index)
      if (busy === undefined) break
      await busy
    }
    if (data.byteLength !== length) {
      throw new ChunkMismatchError(this.digest, index, `it has ${data.byteLength} bytes instead of ${length}`)
    }
    return this.#occupy([index], () => this.#write(index, data, expectedHash))
  }

  async #write(index: number, data: Uint8Array, expectedHash: Uint8Array | undefined): Promise<Uint8Array> {
    const length = data.byteLength
    await this.#places.reserve(index, length)
    let recorded: Promise<void>
    let kept: Uint8Array
    try {
      // The index must not name the chunk while its bytes change: after a crash it would be taken for whole.
      if (this.#undiscarded.has(index)) await this.#recordDiscards()
      await this.#writeBytes(data, index * this.chunkSizeBytes)
      const { hash, accepted } = await this.#whole.check(index, length, expectedHash)
      if (hash === undefined || !accepted) {
        const found = hash === undefined ? 'no hash' : Buffer.from(hash).toString('hex')
        const wanted = Buffer.from(expectedHash ?? []).toString('hex')
        throw new ChunkMismatchError(this.digest, index, `its SHA-256 is ${found} instead of ${wanted}`)
      }
      recorded = this.#keep(index, length, hash)
      kept = hash
    } catch (error) {
      throw asStoreError(error, `writing chunk ${index} of ${this.digest}`)
    }
    await recorded
    return kept
  }

  /** When the disk is full, others are evicted, as long as that brings room. */
  async #writeBytes(data: Uint8Array, position: number): Promise<void> {
    for (;;) {
      try {
        return await this.#file.write(data, position)
      } catch (error) {
        if (!isOutOfSpace(error) || !(await this.#host.table.makeRoomOnDisk(data.byteLength))) throw error
      }
    }
  }

  /** From here on the chunk is there for everybody. Settles when a death of the process cannot lose it any more. */
  #keep(index: number, length: number, hash: Uint8Array): Promise<void> {
    const host = this.#host
    const change = put(PARTIAL_HASHES, chunkKey(this.digest, index), hash)
    this.#hashes.set(hash, index * CHUNK_HASH_BYTES)
    this.chunks.add(index)
    if (index === this.#front) this.#front = this.chunks.firstMissing(index)
    this.#unsynced.add(index)
    host.syncer.mark(this, length)
    // With the hash in the index, a chunk that was written but not synced is found again.
    const recorded = host.index.write([change], false).catch((error: unknown) => {
      host.log.warn({ err: error, digest: this.digest }, 'the hash of a chunk could not be recorded')
    })
    this.#whole.advance()
    this.#wake(index)
    for (const listener of this.#listeners) {
      try {
        listener(index, hash)
      } catch (error) {
        host.log.error({ err: error, digest: this.digest }, 'a listener for chunks failed')
      }
    }
    return recorded
  }

  async readChunk(index: number, into: Uint8Array, offset = 0): Promise<void> {
    const length = this.#lengthOf(index)
    if (offset < 0 || offset + into.byteLength > length) {
      throw new RangeError(`bytes ${offset}-${offset + into.byteLength - 1} of a chunk of ${length} bytes`)
    }
    for (;;) {
      if (this.#closing !== undefined) this.#throwIfClosed()
      if (!this.chunks.has(index)) throw new ChunkMissingError(this.digest, [index])
      const discards = this.#discards
      await this.#file.read(into, index * this.chunkSizeBytes + offset)
      if (discards === this.#discards) return
    }
  }

  async discard(indices: Iterable<number>): Promise<void> {
    const wanted = [...new Set(indices)].filter((index) => this.#lengthOf(index) > 0)
    for (;;) {
      if (this.#completing !== undefined) await this.#completing.catch(() => undefined)
      if (this.#complete) return
      this.#throwIfClosed()
      const waiting = wanted.map((index) => this.#busy.get(index)).filter((busy) => busy !== undefined)
      if (waiting.length === 0 && this.#completing === undefined) break
      await Promise.all(waiting)
    }
    const found = wanted.filter((index) => this.chunks.has(index))
    if (found.length === 0) return
    await this.#occupy(found, async () => {
      this.#drop(found)
      await this.#recordDiscards()
    })
  }

  /** Takes chunks out of memory. */
  #drop(indices: Iterable<number>): void {
    this.#discards++
    for (const index of indices) {
      if (!this.chunks.delete(index)) continue
      this.#synced.delete(index)
      this.#unsynced.delete(index)
      this.#syncing.delete(index)
      this.#undiscarded.add(index)
      this.#whole.forget(index)
      this.#front = Math.min(this.#front, index)
    }
    this.#verified = false
  }

  async #recordDiscards(): Promise<void> {
    const gone = [...this.#undiscarded]
    const changes: IndexChange[] = gone.map((index) => del(PARTIAL_HASHES, chunkKey(this.digest, index)))
    changes.push(put(PARTIAL_MAPS, this.digest, this.#synced.toBytes()))
    await this.#host.index.write(changes, true)
    for (const index of gone) this.#undiscarded.delete(index)
  }

  /** Brings the chunks written so far to the disk, then into the durable map. */
  sync(): Promise<void> {
    const run = this.#syncRun.then(() => this.#sync())
    this.#syncRun = run.catch(() => undefined)
    return run
  }

  async #sync(): Promise<void> {
    if (this.#complete || this.#unsynced.size === 0) return
    const taken = (this.#syncing = this.#unsynced)
    this.#unsynced = new Set()
    try {
      await this.#datasync()
      const changes: IndexChange[] = []
      for (const index of taken) {
        this.#synced.add(index)
        changes.push(put(PARTIAL_HASHES, chunkKey(this.digest, index), this.#hash(index)))
      }
      changes.push(put(PARTIAL_MAPS, this.digest, this.#synced.toBytes()))
      await this.#host.index.write(changes, true)
    } catch (error) {
      for (const index of taken) {
        this.#synced.delete(index)
        this.#unsynced.add(index)
      }
      throw error
    } finally {
      this.#syncing = new Set()
    }
  }

  /** After a failed sync the kernel may have thrown the bytes away: nothing of this blob can be relied upon. */
  async #datasync(): Promise<void> {
    try {
      await this.#file.datasync()
    } catch (error) {
      const failure = asStoreError(error, `bringing ${this.digest} to the disk`)
      this.#failure = failure
      this.#verified = false
      this.#drop([...this.#unsynced, ...this.#syncing])
      this.#wakeAll(failure)
      // Their hashes go, too: a later run would find the right bytes in memory and take them for safe.
      await this.#recordDiscards().catch((reason: unknown) => {
        this.#host.log.warn({ err: reason, digest: this.digest }, 'lost chunks could not be recorded')
      })
      throw failure
    }
  }

  complete(mediaType?: string): Promise<void> {
    if (this.#complete) return Promise.resolve()
    this.#completing ??= this.#finish(mediaType).finally(() => {
      this.#completing = undefined
    })
    return this.#completing
  }

  async #finish(mediaType: string | undefined): Promise<void> {
    this.#throwIfClosed()
    while (this.#busy.size > 0) await Promise.all(this.#busy.values())
    if (!this.chunks.isFull) throw new ChunkMissingError(this.digest, this.#missing())
    const actual = await this.#whole.digest().catch((error: unknown) => {
      throw asStoreError(error, `hashing ${this.digest}`)
    })
    if (actual !== this.digest) throw new DigestMismatchError(this.digest, actual)
    // The bytes are right: those who wait for the last chunk need not wait for the disk.
    this.#verified = true
    this.#wakeAll()
    await this.#syncRun
    await this.#datasync()
    await this.#host.commit(this.#entry, this.#hashes, mediaType)
    this.#complete = true
    this.#unsynced.clear()
    this.#listeners.clear()
  }

  createReadStream(options: ReadOptions = {}): Readable & { readonly position: number } {
    if (!this.#complete) this.#throwIfClosed()
    this.#users++
    const source: StreamSource = {
      sizeBytes: this.sizeBytes,
      readable: (position, most) => this.#readable(position, most),
      wait: (position, ready) => this.#wait(position, ready),
      read: (into, position) => this.#readFor(into, position),
      settled: () => this.#verified,
      release: () => this.#release(),
    }
    return new BlobStream(source, options)
  }

  #readable(position: number, most: number): number {
    if (this.#verified) return most
    if (this.#closing !== undefined || this.#failure !== undefined) return 0
    const end = position + most
    let index = Math.floor(position / this.chunkSizeBytes)
    while (index < this.chunkCount - 1 && index * this.chunkSizeBytes < end && this.chunks.has(index)) index++
    return Math.max(0, Math.min(end, index * this.chunkSizeBytes) - position)
  }

  async #readFor(into: Uint8Array, position: number): Promise<boolean> {
    const discards = this.#discards
    await this.#file.read(into, position)
    return discards === this.#discards
  }

  #wait(position: number, ready: Waiter): () => void {
    const failure = this.#failure ?? this.#closeReason
    if (failure !== undefined) {
      let cancelled = false
      queueMicrotask(() => {
        if (!cancelled) ready(failure)
      })
      return () => (cancelled = true)
    }
    const index = Math.min(Math.floor(position / this.chunkSizeBytes), Math.max(0, this.chunkCount - 1))
    let waiters = this.#waiters.get(index)
    if (waiters === undefined) this.#waiters.set(index, (waiters = new Set()))
    waiters.add(ready)
    return () => waiters.delete(ready)
  }

  #wake(index: number, failure?: Error): void {
    const waiters = this.#waiters.get(index)
    this.#waiters.delete(index)
    for (const ready of waiters ?? []) ready(failure)
  }

  #wakeAll(failure?: Error): void {
    for (const index of [...this.#waiters.keys()]) this.#wake(index, failure)
  }

  onChunk(listener: (index: number, hash: Uint8Array) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  close(reason?: Error): Promise<void> {
    this.#closing ??= this.#close(reason ?? new StoreClosedError(`${this.digest} was closed before it was complete`))
    return this.#closing
  }

  async #close(reason: Error): Promise<void> {
    this.#closeReason = reason
    if (this.#completing !== undefined) await this.#completing.catch(() => undefined)
    this.#wakeAll(reason)
    while (this.#busy.size > 0) await Promise.all(this.#busy.values())
    this.#listeners.clear()
    await this.sync().catch((error: unknown) => {
      this.#host.log.warn({ err: error, digest: this.digest }, 'chunks may have to be fetched again')
    })
    this.#unsynced.clear()
    await this.#whole.stop()
    await this.#settleAccount().catch((error: unknown) => {
      this.#host.log.warn({ err: error, digest: this.digest }, 'it is not known what a file takes on the disk')
    })
    this.#host.closed(this)
    this.#release()
  }

  /** A write that failed has filled its place in part, or not at all. */
  async #settleAccount(): Promise<void> {
    if (this.#complete) return
    let knownBytes = 0
    for (const index of this.chunks.indices()) knownBytes += this.#lengthOf(index)
    const { allocatedBytes } = await this.#file.state()
    this.#places.settle(knownBytes, allocatedBytes)
  }

  #release(): void {
    if (--this.#users > 0) return
    this.#entry.holds--
    this.#file.release().catch((error: unknown) => {
      this.#host.log.warn({ err: error, digest: this.digest }, 'a file could not be closed')
    })
  }

  /** Runs `task` while others who want to write or discard these chunks wait. */
  async #occupy<T>(indices: number[], task: () => Promise<T>): Promise<T> {
    const run = task()
    const busy = run.then(
      () => this.#vacate(indices),
      () => this.#vacate(indices),
    )
    for (const index of indices) this.#busy.set(index, busy)
    return run
  }

  #vacate(indices: number[]): void {
    for (const index of indices) this.#busy.delete(index)
  }

  #hash(index: number): Uint8Array {
    return this.#hashes.slice(index * CHUNK_HASH_BYTES, (index + 1) * CHUNK_HASH_BYTES)
  }

  #missing(): number[] {
    const missing: number[] = []
    for (let index = this.#front; index < this.chunkCount && missing.length < 100; index++) {
      if (!this.chunks.has(index)) missing.push(index)
    }
    return missing
  }

  /** @throws RangeError for a chunk that the blob does not have */
  #lengthOf(index: number): number {
    if (!Number.isInteger(index) || index < 0 || index >= this.chunkCount) {
      throw new RangeError(`chunk ${index} of a blob with ${this.chunkCount} chunks`)
    }
    return Math.min(this.chunkSizeBytes, this.sizeBytes - index * this.chunkSizeBytes)
  }

  #throwIfClosed(): void {
    if (this.#failure !== undefined) throw this.#failure
    if (this.#closing !== undefined) throw new StoreClosedError(`${this.digest} is closed`)
  }
}
