// Where the chunks of a blob lie. The rule is shared by every node and by the origin: it depends on the size alone.

/** Smallest size of a chunk in bytes: below it, the cost of a message outweighs the gain of spreading. */
export const MIN_CHUNK_SIZE_BYTES = 256 * 1024
/** Largest size of a chunk in bytes (measured best at 300 MB/s, docs/decisions/0001-chunk-size.md). */
export const MAX_CHUNK_SIZE_BYTES = 4 * 1024 * 1024
/** Length of the hash of a chunk (SHA-256). */
export const CHUNK_HASH_BYTES = 32
/** How many chunks a blob has at least, once it is large enough for it. */
export const TARGET_CHUNK_COUNT = 128
/**
 * Largest blob that is taken, in bytes. The sizes come from manifests, so anybody may claim any; at this one the hashes
 * of the chunks take 8 MiB of memory.
 */
export const MAX_BLOB_BYTES = 2 ** 40

/** Whether a blob can have this size in bytes. */
export function isBlobSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= MAX_BLOB_BYTES
}

/**
 * Size of the chunks of a blob of `blobSizeBytes`: the largest power of two that gives at least 128 chunks, held
 * between 256 KiB and 4 MiB.
 */
export function chunkSizeFor(blobSizeBytes: number): number {
  let size = MIN_CHUNK_SIZE_BYTES
  while (size < MAX_CHUNK_SIZE_BYTES && blobSizeBytes / (size * 2) >= TARGET_CHUNK_COUNT) size *= 2
  return size
}

/** Number of chunks of a blob; an empty blob has none. */
export function chunkCountFor(blobSizeBytes: number): number {
  return Math.ceil(blobSizeBytes / chunkSizeFor(blobSizeBytes))
}

/** First byte of chunk `index`. */
export function chunkStart(blobSizeBytes: number, index: number): number {
  return index * chunkSizeFor(blobSizeBytes)
}

/** Length in bytes of chunk `index`; the last one may be shorter than the others. */
export function chunkLength(blobSizeBytes: number, index: number): number {
  const size = chunkSizeFor(blobSizeBytes)
  return Math.min(size, blobSizeBytes - index * size)
}
