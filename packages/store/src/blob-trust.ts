// Which whole blobs need no further look. What this process has written and checked itself it takes at its word; what it
// finds on the disk may have been harmed while it was away, so the bytes are hashed before they are first handed out.
import type { Digest } from '@shoal/oci'
import type { BlobFile } from './blob-file.ts'
import { CHUNK_HASH_BYTES, chunkCountFor, chunkLength, chunkSizeFor, chunkStart } from './chunk-geometry.ts'
import { ChunkMap } from './chunk-map.ts'
import { asStoreError, BlobDamagedError } from './errors.ts'
import type { HashService } from './hash-service.ts'

/** A blob up to this size is checked before it is opened; of a larger one each chunk before it is first handed out. */
export const CHECKED_AT_ONCE_BYTES = 16 * 1024 * 1024

export interface CheckedBlob {
  readonly digest: Digest
  readonly sizeBytes: number
  readonly chunkHashes: Uint8Array
  readonly file: BlobFile
}

/** Looks at the chunks of one blob as they are needed, each once. */
export interface ChunkCheck {
  /** @throws BlobDamagedError when a chunk that has bytes of this range is not what it should be */
  range(position: number, length: number): Promise<void>
}

export class BlobTrust {
  readonly #hashes: HashService
  readonly #onDamage: (digest: Digest) => void
  /** Never more than there are blobs in the store: what is removed is taken out. */
  readonly #trusted = new Set<Digest>()

  /** @param onDamage - told of a blob that must not be handed out again */
  constructor(hashes: HashService, onDamage: (digest: Digest) => void) {
    this.#hashes = hashes
    this.#onDamage = onDamage
  }

  add(digest: Digest): void {
    this.#trusted.add(digest)
  }

  delete(digest: Digest): void {
    this.#trusted.delete(digest)
  }

  has(digest: Digest): boolean {
    return this.#trusted.has(digest)
  }

  /** Undefined when the blob needs none. */
  checkOf(blob: CheckedBlob): ChunkCheck | undefined {
    if (this.#trusted.has(blob.digest)) return undefined
    const verified = new ChunkMap(chunkCountFor(blob.sizeBytes))
    const looking = new Map<number, Promise<void>>()
    const look = async (index: number): Promise<void> => {
      if (verified.has(index)) return
      const { accepted } = await this.#look(blob, index)
      if (!accepted) {
        // A copy that was fetched anew meanwhile has done no wrong.
        if (!this.#trusted.has(blob.digest)) this.#onDamage(blob.digest)
        throw new BlobDamagedError(blob.digest, index)
      }
      verified.add(index)
      if (verified.isFull) this.#trusted.add(blob.digest)
    }
    return {
      range: async (position, length) => {
        if (length === 0 || verified.isFull) return
        const size = chunkSizeFor(blob.sizeBytes)
        for (let index = Math.floor(position / size); index * size < position + length; index++) {
          let under = looking.get(index)
          if (under === undefined) {
            under = look(index).finally(() => looking.delete(index))
            looking.set(index, under)
          }
          await under
        }
      },
    }
  }

  /** Looks at the whole of it now. @throws StoreFailedError when it cannot be read */
  async isIntact(blob: CheckedBlob): Promise<boolean> {
    try {
      await this.checkOf(blob)?.range(0, blob.sizeBytes)
      return true
    } catch (error) {
      if (error instanceof BlobDamagedError) return false
      throw asStoreError(error, `checking ${blob.digest}`)
    }
  }

  async #look({ sizeBytes, chunkHashes, file }: CheckedBlob, index: number): Promise<{ accepted: boolean }> {
    file.acquire()
    try {
      return await this.#hashes.run({
        kind: 'range',
        descriptor: file.descriptor,
        position: chunkStart(sizeBytes, index),
        length: chunkLength(sizeBytes, index),
        chunk: true,
        expected: chunkHashes.slice(index * CHUNK_HASH_BYTES, (index + 1) * CHUNK_HASH_BYTES),
      })
    } finally {
      await file.release()
    }
  }
}
