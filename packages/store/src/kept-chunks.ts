// Which chunks of an arriving blob are here, what their hashes are, and how far it can be read without a gap.
import { CHUNK_HASH_BYTES, chunkSizeFor } from './chunk-geometry.ts'
import type { ChunkMap } from './chunk-map.ts'

/** How many chunks an error names at most. */
const NAMED_CHUNKS = 100

export class KeptChunks {
  readonly map: ChunkMap
  readonly #sizeBytes: number
  readonly #chunkSizeBytes: number
  readonly #hashes: Uint8Array
  #front: number
  #deletions = 0

  /** @param hashes 32 bytes for each chunk of the blob, also for those that are not here */
  constructor(sizeBytes: number, map: ChunkMap, hashes: Uint8Array) {
    this.map = map
    this.#sizeBytes = sizeBytes
    this.#chunkSizeBytes = chunkSizeFor(sizeBytes)
    this.#hashes = hashes
    this.#front = map.firstMissing()
  }

  /** First chunk that is missing. */
  get front(): number {
    return this.#front
  }

  /** Counts up with every chunk that is taken back: a read during which it changed is to be made again. */
  get deletions(): number {
    return this.#deletions
  }

  /** Hashes of all chunks; right when none is missing. */
  get hashes(): Uint8Array {
    return this.#hashes
  }

  /** Bytes of all chunks that are here. */
  get bytes(): number {
    let bytes = 0
    for (const index of this.map.indices()) bytes += this.lengthOf(index)
    return bytes
  }

  /** SHA-256 of a chunk that is here. */
  hashOf(index: number): Uint8Array | undefined {
    if (!this.map.has(index)) return undefined
    return this.#hashes.slice(index * CHUNK_HASH_BYTES, (index + 1) * CHUNK_HASH_BYTES)
  }

  add(index: number, hash: Uint8Array): void {
    this.#hashes.set(hash, index * CHUNK_HASH_BYTES)
    this.map.add(index)
    if (index === this.#front) this.#front = this.map.firstMissing(index)
  }

  /** False when it was not here. */
  delete(index: number): boolean {
    if (!this.map.delete(index)) return false
    this.#deletions++
    this.#front = Math.min(this.#front, index)
    return true
  }

  /** The first chunks that are missing, for people. */
  missing(): number[] {
    const missing: number[] = []
    for (let index = this.#front; index < this.map.length && missing.length < NAMED_CHUNKS; index++) {
      if (!this.map.has(index)) missing.push(index)
    }
    return missing
  }

  /** How many bytes can be read from `position` on, `most` at most. The last chunk is never among them. */
  readable(position: number, most: number): number {
    const end = position + most
    const last = this.map.length - 1
    let index = Math.floor(position / this.#chunkSizeBytes)
    while (index < last && index * this.#chunkSizeBytes < end && this.map.has(index)) index++
    return Math.max(0, Math.min(end, index * this.#chunkSizeBytes) - position)
  }

  /** The chunk that has this byte; past the end, the last one. */
  chunkAt(position: number): number {
    return Math.min(Math.floor(position / this.#chunkSizeBytes), Math.max(0, this.map.length - 1))
  }

  /** Length of a chunk in bytes. @throws RangeError for a chunk that the blob does not have */
  lengthOf(index: number): number {
    if (!Number.isInteger(index) || index < 0 || index >= this.map.length) {
      throw new RangeError(`chunk ${index} of a blob with ${this.map.length} chunks`)
    }
    return Math.min(this.#chunkSizeBytes, this.#sizeBytes - index * this.#chunkSizeBytes)
  }
}
