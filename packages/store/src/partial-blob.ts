// A blob that is arriving: its chunks are checked, written, and made durable; readers wait for them.
import type { Readable } from 'node:stream'
import type { Logger } from 'pino'
import type { Digest } from '@shoal/oci'
import { ArrivingStreams } from './arriving-streams.ts'
import type { BlobFile } from './blob-file.ts'
import type { BlobEntry, BlobTable } from './blob-table.ts'
import { BusyChunks } from './busy-chunks.ts'
import { ChunkDurability } from './chunk-durability.ts'
import { chunkSizeFor } from './chunk-geometry.ts'
import type { ChunkMap } from './chunk-map.ts'
import type { ChunkSyncer } from './chunk-syncer.ts'
import { asStoreError, ChunkMismatchError, ChunkMissingError, DigestMismatchError, StoreClosedError } from './errors.ts'
import type { HashService } from './hash-service.ts'
import { KeptChunks } from './kept-chunks.ts'
import { PlaceAccount } from './place-account.ts'
import type { PartialBlob, ReadOptions } from './store.ts'
import { ROOM_TO_OPEN_BYTES, type StoreIndex } from './store-index.ts'
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

export class FilePartialBlob implements PartialBlob {
  readonly digest: Digest
  readonly sizeBytes: number
  readonly chunkSizeBytes: number
  readonly chunkCount: number
  readonly chunks: ChunkMap
  readonly #host: PartialBlobHost
  readonly #entry: BlobEntry
  readonly #file: BlobFile
  readonly #chunks: KeptChunks
  readonly #whole: WholeHash
  readonly #places: PlaceAccount
  readonly #durability: ChunkDurability
  readonly #streams: ArrivingStreams
  readonly #busy = new BusyChunks()
  readonly #listeners = new Set<(index: number, hash: Uint8Array) => void>()
  #complete: boolean
  #completing: Promise<void> | undefined
  #closing: Promise<void> | undefined
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
    this.#chunks = new KeptChunks(entry.sizeBytes, chunks, hashes)
    this.#complete = entry.complete
    this.#streams = new ArrivingStreams(entry.sizeBytes, file, this.#chunks, entry.complete)
    const { digest, sizeBytes, chunkSizeBytes } = this
    this.#whole = new WholeHash({ service: host.hashes, file, digest, chunks, chunkSizeBytes, sizeBytes })
    this.#places = new PlaceAccount(host.table, entry, chunks)
    const { index, syncer, log } = host
    const lost = (indices: number[], failure: Error) => this.#lose(indices, failure)
    this.#durability = new ChunkDurability({ digest, file, chunks: this.#chunks, synced, index, syncer, log, lost })
    entry.holds++
    if (!entry.complete) this.#whole.advance()
  }

  get frontChunk(): number {
    return this.#chunks.front
  }

  /** Settles when it is closed; undefined while it is open. */
  get closing(): Promise<void> | undefined {
    return this.#closing
  }

  get isComplete(): boolean {
    return this.#complete
  }

  hashOf(index: number): Uint8Array | undefined {
    return this.#chunks.hashOf(index)
  }

  async writeChunk(index: number, data: Uint8Array, expectedHash?: Uint8Array): Promise<Uint8Array> {
    const length = this.#chunks.lengthOf(index)
    for (;;) {
      const kept = this.hashOf(index)
      if (kept !== undefined) return kept
      this.#throwIfClosed()
      const busy = this.#busy.of(index)
      if (busy === undefined) break
      await busy
    }
    if (data.byteLength !== length) {
      throw new ChunkMismatchError(this.digest, index, `it has ${data.byteLength} bytes instead of ${length}`)
    }
    return this.#busy.occupy([index], () => this.#write(index, data, expectedHash))
  }

  async #write(index: number, data: Uint8Array, expectedHash: Uint8Array | undefined): Promise<Uint8Array> {
    const length = data.byteLength
    await this.#places.reserve(index, length)
    let recorded: Promise<void>
    let kept: Uint8Array
    try {
      const { table } = this.#host
      await table.withRoomOnDisk(ROOM_TO_OPEN_BYTES, () => this.#durability.beforeWrite(index))
      await table.withRoomOnDisk(length, () => this.#file.write(data, index * this.chunkSizeBytes))
      const { hash, accepted } = await this.#whole.check(index, length, expectedHash)
      if (hash === undefined || !accepted) {
        const found = hash === undefined ? 'no hash' : Buffer.from(hash).toString('hex')
        const wanted = Buffer.from(expectedHash ?? []).toString('hex')
        throw new ChunkMismatchError(this.digest, index, `its SHA-256 is ${found} instead of ${wanted}`)
      }
      recorded = this.#keep(index, hash)
      kept = hash
    } catch (error) {
      throw asStoreError(error, `writing chunk ${index} of ${this.digest}`)
    }
    await recorded
    return kept
  }

  /** From here on the chunk is there for everybody. Settles when a death of the process cannot lose it any more. */
  #keep(index: number, hash: Uint8Array): Promise<void> {
    this.#chunks.add(index, hash)
    const recorded = this.#durability.written(index, hash)
    this.#whole.advance()
    this.#streams.wake(index)
    for (const listener of this.#listeners) {
      try {
        listener(index, hash)
      } catch (error) {
        this.#host.log.error({ err: error, digest: this.digest }, 'a listener for chunks failed')
      }
    }
    return recorded
  }

  async readChunk(index: number, into: Uint8Array, offset = 0): Promise<void> {
    const length = this.#chunks.lengthOf(index)
    if (offset < 0 || offset + into.byteLength > length) {
      throw new RangeError(`bytes ${offset}-${offset + into.byteLength - 1} of a chunk of ${length} bytes`)
    }
    for (;;) {
      if (this.#closing !== undefined) this.#throwIfClosed()
      if (!this.chunks.has(index)) throw new ChunkMissingError(this.digest, [index])
      const { deletions } = this.#chunks
      await this.#file.read(into, index * this.chunkSizeBytes + offset)
      if (deletions === this.#chunks.deletions) return
    }
  }

  async discard(indices: Iterable<number>): Promise<void> {
    const wanted = [...new Set(indices)].filter((index) => this.#chunks.lengthOf(index) > 0)
    for (;;) {
      if (this.#completing !== undefined) await this.#completing.catch(() => undefined)
      if (this.#complete) return
      this.#throwIfClosed()
      const waiting = wanted.map((index) => this.#busy.of(index)).filter((busy) => busy !== undefined)
      if (waiting.length === 0 && this.#completing === undefined) break
      await Promise.all(waiting)
    }
    const found = wanted.filter((index) => this.chunks.has(index))
    if (found.length === 0) return
    await this.#busy.occupy(found, async () => {
      this.#drop(found)
      await this.#host.table.withRoomOnDisk(ROOM_TO_OPEN_BYTES, () => this.#durability.recordDiscards())
    })
  }

  /** Takes chunks out of memory. */
  #drop(indices: Iterable<number>): void {
    for (const index of indices) {
      if (!this.#chunks.delete(index)) continue
      this.#durability.discarded(index)
      this.#whole.forget(index)
    }
    this.#streams.unverified()
  }

  /** Chunks did not reach the disk: nothing of this blob can be relied upon any more. */
  #lose(indices: number[], failure: Error): void {
    this.#failure = failure
    this.#drop(indices)
    this.#streams.fail(failure)
  }

  /** Brings the chunks written so far to the disk, then into the durable map. */
  sync(): Promise<void> {
    return this.#durability.sync()
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
    await this.#busy.idle()
    if (!this.chunks.isFull) throw new ChunkMissingError(this.digest, this.#chunks.missing())
    const actual = await this.#whole.digest().catch((error: unknown) => {
      throw asStoreError(error, `hashing ${this.digest}`)
    })
    if (actual !== this.digest) throw new DigestMismatchError(this.digest, actual)
    // The bytes are right: those who wait for the last chunk need not wait for the disk.
    this.#streams.verified()
    await this.#durability.flush(async () => {
      // A sync that failed before this one has taken its chunks back: the kernel may have thrown their bytes away.
      if (!this.chunks.isFull) throw this.#failure ?? new ChunkMissingError(this.digest, this.#chunks.missing())
      await this.#host.commit(this.#entry, this.#chunks.hashes, mediaType)
      this.#complete = true
    })
    this.#listeners.clear()
  }

  createReadStream(options: ReadOptions = {}): Readable & { readonly position: number } {
    if (!this.#complete) this.#throwIfClosed()
    // Its file is closed, and others may have evicted it.
    if (this.#users === 0) throw new StoreClosedError(`${this.digest} is closed`)
    this.#users++
    return this.#streams.open(options, () => this.#release())
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
    this.#streams.refuse(reason)
    if (this.#completing !== undefined) await this.#completing.catch(() => undefined)
    this.#streams.fail(reason)
    await this.#busy.idle()
    this.#listeners.clear()
    await this.sync().catch((error: unknown) => {
      this.#host.log.warn({ err: error, digest: this.digest }, 'chunks may have to be fetched again')
    })
    this.#durability.stop()
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
    const { allocatedBytes } = await this.#file.state()
    this.#places.settle(this.#chunks.bytes, allocatedBytes)
  }

  #release(): void {
    if (--this.#users > 0) return
    this.#entry.holds--
    this.#file.release().catch((error: unknown) => {
      this.#host.log.warn({ err: error, digest: this.digest }, 'a file could not be closed')
    })
  }

  #throwIfClosed(): void {
    if (this.#failure !== undefined) throw this.#failure
    if (this.#closing !== undefined) throw new StoreClosedError(`${this.digest} is closed`)
  }
}
