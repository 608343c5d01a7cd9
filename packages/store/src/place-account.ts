// What an arriving blob counts for the quota: the places in its sparse file that hold blocks, whether the chunks in them
// are good or not. A chunk is written into its place before it is checked; when it is refused or discarded, the blocks
// stay, because a hole cannot be punched from Node. So a place counts from its first write until the file is removed.
import type { BlobEntry, BlobTable } from './blob-table.ts'
import type { ChunkMap } from './chunk-map.ts'

export class PlaceAccount {
  readonly #table: BlobTable
  readonly #entry: BlobEntry
  /** Places that were reserved since the blob was opened, and those of the chunks that were there. */
  readonly #places: ChunkMap

  /** @param chunks those that the entry counts already */
  constructor(table: BlobTable, entry: BlobEntry, chunks: ChunkMap) {
    this.#table = table
    this.#entry = entry
    this.#places = chunks.clone()
  }

  /**
   * To be called before a chunk is written. Takes nothing when its place was written before.
   * @throws StoreFullError when the quota has no room, even after eviction
   */
  async reserve(index: number, lengthBytes: number): Promise<void> {
    if (this.#places.has(index)) return
    await this.#table.reserve(this.#entry, lengthBytes)
    this.#places.add(index)
  }

  /** Corrects the account by what the file takes. Only while nothing is being written. */
  settle(knownBytes: number, allocatedBytes: number): void {
    this.#table.resize(this.#entry, occupiedBytes(this.#entry.sizeBytes, knownBytes, allocatedBytes))
  }
}

/**
 * Bytes that an arriving blob counts by what its file takes. Which places hold what is not good is not known then: one of
 * them that is written again is reserved once more. So it may count too much, but not more than its size, and never too
 * little.
 * @param knownBytes of the chunks that are there: a file system that compresses says less
 * @param allocatedBytes of the file, in whole blocks and with what the file system needs to find them
 */
export function occupiedBytes(sizeBytes: number, knownBytes: number, allocatedBytes: number): number {
  return Math.min(sizeBytes, Math.max(knownBytes, allocatedBytes))
}
