// Reads a whole file once, for both its digest and the hashes of its chunks. For files that this store has not written
// itself, or of which it has lost the row.
import { digestAlgorithm, type Digest } from '@shoal/oci'
import type { BlobFile } from './blob-file.ts'
import { CHUNK_HASH_BYTES, chunkCountFor, chunkLength, chunkStart } from './chunk-geometry.ts'
import type { HashService } from './hash-service.ts'

let nextId = -1

/**
 * The hashes of the chunks of a file if its digest is right, undefined if it is not.
 * @throws the signal's reason when it is aborted, StoreFailedError when the file cannot be read
 */
export async function verifyBlob(
  service: HashService,
  file: BlobFile,
  digest: Digest,
  sizeBytes: number,
  signal: AbortSignal,
): Promise<Uint8Array | undefined> {
  // Negative, so that it never meets the hash of an arriving blob.
  const whole = { id: nextId--, algorithm: digestAlgorithm(digest) }
  const count = chunkCountFor(sizeBytes)
  const hashes = new Uint8Array(count * CHUNK_HASH_BYTES)
  file.acquire()
  try {
    for (let index = 0; index < count; index++) {
      signal.throwIfAborted()
      const { hash } = await service.run({
        kind: 'range',
        descriptor: file.descriptor,
        position: chunkStart(sizeBytes, index),
        length: chunkLength(sizeBytes, index),
        chunk: true,
        whole,
      })
      if (hash !== undefined) hashes.set(hash, index * CHUNK_HASH_BYTES)
    }
    const { hash } = await service.run({ kind: 'digest', whole })
    const actual = `${whole.algorithm}:${Buffer.from(hash ?? []).toString('hex')}`
    return actual === digest ? hashes : undefined
  } finally {
    service.run({ kind: 'drop', whole }).catch(() => undefined)
    await file.release()
  }
}
