// Chunk lists: the SHA-256 of every chunk of a blob, which let agents check each piece before the blob is whole. They
// are computed while a blob is pushed, when its size is known beforehand; else right after, from the page cache.
import type { Digest } from '@shoal/oci'
import { CHUNK_HASH_BYTES, chunkCountFor } from '@shoal/store'
import { hashWhole, type Hashers } from './hashing/hashers.ts'
import { blobPath, chunkListPath } from './layout.ts'
import type { StorageDriver } from './storage/driver.ts'

/** The chunk lists of the blobs in a storage. */
export class ChunkLists {
  readonly #driver: StorageDriver
  readonly #hashers: Hashers
  readonly #running = new Map<Digest, Promise<Uint8Array>>()

  constructor(driver: StorageDriver, hashers: Hashers) {
    this.#driver = driver
    this.#hashers = hashers
  }

  async put(digest: Digest, hashes: Uint8Array): Promise<void> {
    await this.#driver.write(chunkListPath(digest), hashes)
  }

  /** The list of a blob that is there; computed now when it is missing. */
  async get(digest: Digest, sizeBytes: number): Promise<Uint8Array> {
    const known = await this.#driver.read(chunkListPath(digest))
    if (known?.length === chunkCountFor(sizeBytes) * CHUNK_HASH_BYTES) return known
    let running = this.#running.get(digest)
    if (!running) {
      running = this.#compute(digest, sizeBytes).finally(() => this.#running.delete(digest))
      this.#running.set(digest, running)
    }
    return running
  }

  async idle(): Promise<void> {
    await Promise.allSettled(this.#running.values())
  }

  async #compute(digest: Digest, sizeBytes: number): Promise<Uint8Array> {
    const path = blobPath(digest)
    const file = await this.#driver.openFile?.(path)
    try {
      const { chunkHashes } = await hashWhole(this.#hashers.create({ sizeBytes }), {
        descriptor: file?.descriptor,
        stream: () => this.#driver.openRead(path, 0, sizeBytes - 1),
      })
      if (!chunkHashes) throw new Error('no chunks were hashed')
      await this.put(digest, chunkHashes)
      return chunkHashes
    } finally {
      await file?.close()
    }
  }
}
