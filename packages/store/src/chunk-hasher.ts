// The chunk list of a blob that passes by, or of a file: what the origin computes at push.
import { createHash, type Hash } from 'node:crypto'
import { open } from 'node:fs/promises'
import { CHUNK_HASH_BYTES, chunkCountFor, chunkSizeFor } from './chunk-geometry.ts'

const READ_BYTES = 1024 * 1024

/** The SHA-256 of every chunk of a blob. */
export interface ChunkHashes {
  sizeBytes: number
  chunkSizeBytes: number
  /** 32 bytes for each chunk, in order. */
  hashes: Uint8Array
}

/**
 * Hashes the chunks of a blob whose size is known beforehand, because the size decides where the chunks lie. When it is
 * not known (a push in pieces without a length), the finished file is read once with `hashChunksOfFile`.
 */
export class ChunkHasher {
  readonly sizeBytes: number
  readonly chunkSizeBytes: number
  readonly #hashes: Uint8Array
  #hash: Hash | undefined
  #bytes = 0

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes
    this.chunkSizeBytes = chunkSizeFor(sizeBytes)
    this.#hashes = new Uint8Array(chunkCountFor(sizeBytes) * CHUNK_HASH_BYTES)
  }

  /** The next bytes of the blob. @throws RangeError when there are more than it was said to have */
  update(bytes: Uint8Array): void {
    if (this.#bytes + bytes.byteLength > this.sizeBytes) {
      throw new RangeError(`more than the ${this.sizeBytes} bytes that were announced`)
    }
    for (let done = 0; done < bytes.byteLength;) {
      const within = this.#bytes % this.chunkSizeBytes
      const piece = bytes.subarray(done, done + this.chunkSizeBytes - within)
      this.#hash = (this.#hash ?? createHash('sha256')).update(piece)
      this.#bytes += piece.byteLength
      done += piece.byteLength
      if (this.#bytes % this.chunkSizeBytes === 0 || this.#bytes === this.sizeBytes) this.#endChunk()
    }
  }

  #endChunk(): void {
    const index = Math.ceil(this.#bytes / this.chunkSizeBytes) - 1
    if (this.#hash !== undefined) this.#hashes.set(this.#hash.digest(), index * CHUNK_HASH_BYTES)
    this.#hash = undefined
  }

  /** @throws RangeError when bytes are missing */
  digest(): ChunkHashes {
    if (this.#bytes !== this.sizeBytes) {
      throw new RangeError(`${this.#bytes} of the ${this.sizeBytes} bytes that were announced`)
    }
    return { sizeBytes: this.sizeBytes, chunkSizeBytes: this.chunkSizeBytes, hashes: this.#hashes }
  }
}

/**
 * The chunk list of a finished file.
 * @param sizeBytes its size; read from the file when it is not given
 * @throws RangeError when the file does not have this size; the signal's reason when it is aborted
 */
export async function hashChunksOfFile(path: string, sizeBytes?: number, signal?: AbortSignal): Promise<ChunkHashes> {
  const file = await open(path, 'r')
  try {
    const hasher = new ChunkHasher(sizeBytes ?? (await file.stat()).size)
    const buffer = Buffer.allocUnsafeSlow(READ_BYTES)
    for (let position = 0; ;) {
      signal?.throwIfAborted()
      const { bytesRead } = await file.read(buffer, 0, buffer.byteLength, position)
      if (bytesRead === 0) return hasher.digest()
      hasher.update(buffer.subarray(0, bytesRead))
      position += bytesRead
    }
  } finally {
    await file.close()
  }
}
