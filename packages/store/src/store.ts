// What the store promises to the rooms that use it. The class that keeps the promise is in level-store.ts.
import type { Readable } from 'node:stream'
import type { Digest } from '@shoal/oci'
import type { ChunkMap } from './chunk-map.ts'

/** Options of a stream over (a part of) a blob. */
export interface ReadOptions {
  /** First byte. @default 0 */
  start?: number
  /** Last byte, inclusive, as in HTTP. @default size - 1 */
  end?: number
  /** Ends the stream with an AbortError, also while it waits for a chunk. */
  signal?: AbortSignal
}

/** A blob that is whole and whose digest was checked. It is not evicted until it is released. */
export interface StoredBlob {
  readonly digest: Digest
  readonly sizeBytes: number
  /** Content type it was stored with (manifests), if any. */
  readonly mediaType: string | undefined
  /** SHA-256 of every chunk, 32 bytes each, in order. */
  readonly chunkHashes: Uint8Array
  /** Fills `into` from `position`; always the whole of it. @throws RangeError past the end */
  readAt(position: number, into: Uint8Array): Promise<void>
  /** Streams in buffers of up to 1 MiB. The stream holds the blob by itself until it ends. */
  createReadStream(options?: ReadOptions): Readable
  /** Gives the blob free for eviction. Idempotent. */
  release(): void
}

/** A blob that is arriving, chunk by chunk, in any order. One object per blob while it is open. */
export interface PartialBlob {
  readonly digest: Digest
  readonly sizeBytes: number
  readonly chunkSizeBytes: number
  readonly chunkCount: number
  /** Chunks that are written and checked. Do not change it: it is the store's own. */
  readonly chunks: ChunkMap
  /** First chunk from the start that is missing: everything before it can be read without waiting. */
  readonly frontChunk: number
  /** SHA-256 of a chunk that is there. */
  hashOf(index: number): Uint8Array | undefined
  /**
   * Checks and keeps a chunk. With `expectedHash` the bytes must have that SHA-256; without, they come from a source
   * that is itself the authority (the origin, under a lease). Returns the SHA-256 of the bytes. The buffer belongs to
   * the caller again when the promise settles. Writing a chunk that is there already is a no-op that returns the hash
   * of the chunk that was kept. Once the promise has resolved, the death of the process does not lose the chunk.
   * @throws ChunkMismatchError when the bytes do not have the expected hash; nothing is kept, but the place of the chunk
   * goes on counting for the quota until the blob is removed, because its blocks stay in the file
   * @throws StoreFullError when the disk or the quota has no room, even after eviction
   */
  writeChunk(index: number, data: Uint8Array, expectedHash?: Uint8Array): Promise<Uint8Array>
  /** Fills `into` with bytes of a chunk that is there, from `offset` within it. @throws ChunkMissingError */
  readChunk(index: number, into: Uint8Array, offset?: number): Promise<void>
  /** Forgets chunks that turned out to be wrong; reads that wait for them go on waiting. Their places go on counting. */
  discard(indices: Iterable<number>): Promise<void>
  /**
   * Checks the digest of the whole blob (hashing goes along with the front, so little is left to do) and makes it a
   * stored blob. Streams that wait for the last chunk are released as soon as the digest has matched. May be called
   * again after it failed for lack of room.
   * @throws DigestMismatchError when all chunks are there but the digest differs; the chunks stay, to be examined
   * @throws ChunkMissingError when chunks are missing, which it names
   * @throws StoreFullError, StoreFailedError
   */
  complete(mediaType?: string): Promise<void>
  /**
   * Streams the blob while it arrives: waits for each chunk, and holds back the last chunk of the blob until
   * `complete()` has succeeded. Its `position` property tells the next byte it will read. Fails when the partial
   * blob is closed before it is complete.
   * @throws StoreClosedError after the close; where the blob is whole, it is to be opened from the store
   */
  createReadStream(options?: ReadOptions): Readable & { readonly position: number }
  /** Called for every chunk after it was kept. Returns the function that ends the subscription. */
  onChunk(listener: (index: number, hash: Uint8Array) => void): () => void
  /**
   * Lets go of it: the chunks stay on disk for a later `openPartial`, and streams are failed with `reason`, unless the
   * digest has matched already. To be called after `complete()`, too: until then the blob is held against eviction.
   */
  close(reason?: Error): Promise<void>
}

/** One row of `list()`. */
export interface StoreEntry {
  digest: Digest
  sizeBytes: number
  /** Bytes that it takes on the disk. */
  storedBytes: number
  complete: boolean
  pinned: boolean
  /** Milliseconds since the epoch. */
  lastUsedMs: number
}

export interface StoreUsage {
  /** Bytes of content that Shoal itself stores. */
  storedBytes: number
  quotaBytes: number
  blobs: number
  partialBlobs: number
}

/** Content-addressed blobs on the disk of this node. */
export interface Store {
  /** Told of each whole blob that is not here any more: it was evicted, deleted, or found damaged. One listener. */
  onRemoved: ((digest: Digest) => void) | undefined
  /** Whether the blob is whole. Answered from memory. */
  has(digest: Digest): boolean
  /** A whole blob, held until it is released; undefined when it is not here. Counts as a use for eviction. */
  open(digest: Digest): Promise<StoredBlob | undefined>
  /**
   * Starts a blob or takes up again what an earlier run left of it. A second call gives the same object. A blob that is
   * whole already is handed out as one that has just been completed.
   * @throws BlobSizeError for a size that cannot be, or differs from that of the blob that is whole or arriving now
   * @throws StoreFullError when the blob can never fit into the quota
   */
  openPartial(digest: Digest, sizeBytes: number): Promise<PartialBlob>
  /** The partial blob that is open right now, if any. */
  partial(digest: Digest): PartialBlob | undefined
  /**
   * Stores small content in one go (manifests): checks the digest first.
   * @throws DigestMismatchError, StoreFullError
   */
  put(digest: Digest, bytes: Uint8Array, mediaType?: string): Promise<void>
  /** Removes a blob, whole or partial, when nobody reads it. False when it was held or not there. */
  delete(digest: Digest): Promise<boolean>
  /** A pinned blob is never evicted. It may be pinned before it is there; `delete` takes the pin away, too. */
  pin(digest: Digest): Promise<void>
  unpin(digest: Digest): Promise<void>
  /** Also names verified blobs of containerd, with 0 stored bytes. */
  list(): Iterable<StoreEntry>
  usage(): StoreUsage
  /** A small durable map from text to JSON beside the blobs (last known tags and the like). */
  records<T>(name: string): StoreRecords<T>
  close(): Promise<void>
}

/** A durable map from text to JSON values. */
export interface StoreRecords<T> {
  get(key: string): Promise<T | undefined>
  put(key: string, value: T): Promise<void>
  delete(key: string): Promise<void>
  entries(): AsyncIterable<[string, T]>
}

export interface StoreOptions {
  /** Folder of the store; made when missing. Only one process may have it open. */
  directory: string
  /** Most bytes that blobs may take. @default Infinity */
  quotaBytes?: number
  /**
   * A containerd content store (`…/io.containerd.content.v1.content`) that is read as a second source, never written.
   */
  containerdContentDirectory?: string
}
