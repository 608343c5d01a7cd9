// What the index says of the chunks of an arriving blob, and in which order that and their bytes reach the disk: a chunk
// is in the durable map only after its bytes are, and out of the index before its place is written anew.
import type { Logger } from 'pino'
import type { Digest } from '@shoal/oci'
import type { BlobFile } from './blob-file.ts'
import type { ChunkMap } from './chunk-map.ts'
import type { ChunkSyncer, Syncable } from './chunk-syncer.ts'
import { asStoreError } from './errors.ts'
import type { KeptChunks } from './kept-chunks.ts'
import { chunkKey, del, PARTIAL_HASHES, PARTIAL_MAPS, put, type IndexChange, type StoreIndex } from './store-index.ts'

export interface ChunkDurabilityOptions {
  digest: Digest
  file: BlobFile
  chunks: KeptChunks
  /** Chunks that the index says are on the disk. */
  synced: ChunkMap
  index: StoreIndex
  syncer: ChunkSyncer
  log: Logger
  /** These chunks cannot be relied upon any more: to be taken back by `discarded`. */
  lost: (indices: number[], failure: Error) => void
}

export class ChunkDurability implements Syncable {
  readonly #options: ChunkDurabilityOptions
  readonly #synced: ChunkMap
  #unsynced = new Set<number>()
  /** Chunks of the sync that is under way; a chunk that is discarded meanwhile is taken out. */
  #syncing = new Set<number>()
  #syncRun: Promise<void> = Promise.resolve()
  /** Chunks that were discarded, but of which the index may still say that they are there. */
  readonly #undiscarded = new Set<number>()

  constructor(options: ChunkDurabilityOptions) {
    const { chunks, synced, syncer } = options
    this.#options = options
    this.#synced = synced
    let bytes = 0
    for (const index of chunks.map.indices()) {
      if (synced.has(index)) continue
      this.#unsynced.add(index)
      bytes += chunks.lengthOf(index)
    }
    if (bytes > 0) syncer.mark(this, bytes)
  }

  /** The index must not name a chunk while its bytes change: after a crash it would be taken for whole. */
  async beforeWrite(index: number): Promise<void> {
    if (this.#undiscarded.has(index)) await this.recordDiscards()
  }

  /** A chunk was written and kept. Settles when a death of the process cannot lose it any more. */
  written(index: number, hash: Uint8Array): Promise<void> {
    const { digest, chunks, index: rows, syncer, log } = this.#options
    this.#unsynced.add(index)
    syncer.mark(this, chunks.lengthOf(index))
    // With the hash in the index, a chunk that was written but not synced is found again.
    return rows.write([put(PARTIAL_HASHES, chunkKey(digest, index), hash)], false).catch((error: unknown) => {
      log.warn({ err: error, digest }, 'the hash of a chunk could not be recorded')
    })
  }

  /** A chunk is not there any more; `recordDiscards` makes it so in the index. */
  discarded(index: number): void {
    this.#synced.delete(index)
    this.#unsynced.delete(index)
    this.#syncing.delete(index)
    this.#undiscarded.add(index)
  }

  async recordDiscards(): Promise<void> {
    const { digest, index: rows } = this.#options
    const gone = [...this.#undiscarded]
    const changes: IndexChange[] = gone.map((index) => del(PARTIAL_HASHES, chunkKey(digest, index)))
    changes.push(put(PARTIAL_MAPS, digest, this.#synced.toBytes()))
    await rows.write(changes, true)
    for (const index of gone) this.#undiscarded.delete(index)
  }

  /** Brings the chunks written so far to the disk, then into the durable map. */
  sync(): Promise<void> {
    return this.#inTurn(() => this.#sync())
  }

  /**
   * Brings all bytes to the disk, but not into the map, and then makes the blob whole with `commit`, which removes the rows
   * of the arriving one: a sync beside it would write them anew, and they would speak for the next file of this name.
   */
  flush(commit: () => Promise<void>): Promise<void> {
    return this.#inTurn(async () => {
      await this.#datasync()
      await commit()
      this.stop()
    })
  }

  /** Nothing is left to be brought to the disk. */
  stop(): void {
    this.#unsynced.clear()
  }

  #inTurn(task: () => Promise<void>): Promise<void> {
    const run = this.#syncRun.then(task)
    this.#syncRun = run.catch(() => undefined)
    return run
  }

  async #sync(): Promise<void> {
    if (this.#unsynced.size === 0) return
    const { digest, chunks, index: rows } = this.#options
    const taken = (this.#syncing = this.#unsynced)
    this.#unsynced = new Set()
    try {
      await this.#datasync()
      const changes: IndexChange[] = []
      for (const index of taken) {
        this.#synced.add(index)
        changes.push(put(PARTIAL_HASHES, chunkKey(digest, index), chunks.hashOf(index)!))
      }
      changes.push(put(PARTIAL_MAPS, digest, this.#synced.toBytes()))
      await rows.write(changes, true)
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
    const { digest, file, log, lost } = this.#options
    try {
      await file.datasync()
    } catch (error) {
      const failure = asStoreError(error, `bringing ${digest} to the disk`)
      lost([...this.#unsynced, ...this.#syncing], failure)
      // Their hashes go, too: a later run would find the right bytes in memory and take them for safe.
      await this.recordDiscards().catch((reason: unknown) => {
        log.warn({ err: reason, digest }, 'lost chunks could not be recorded')
      })
      throw failure
    }
  }
}
