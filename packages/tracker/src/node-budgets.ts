// How much of the tracker's memory one node may take: the books on a blob cost some bytes for each of its chunks, and
// nobody checks that a blob of a terabyte exists. What is beyond a node's share is not entered, and its name is told.
import { entryLimit, type Digest } from '@shoal/oci'
import { chunkCountFor, MAX_BLOB_BYTES } from '@shoal/store'
import { LRUCache } from 'lru-cache'

/** Blobs that one node may be a member of: an agent tells a tracker of a thousand, and of those it downloads. */
const MEMBERSHIPS_PER_NODE = 20_000
/** Chunks of the blobs that the tracker knows of because of one node: 4 TiB in chunks of 4 MiB, 12 MB of books. */
const FOUNDED_CHUNKS_PER_NODE = 1024 * 1024
/** Blobs that the tracker knows of at all. */
const MAX_SWARMS = 500_000
/** How long a node that was named is not named again. */
const NAMED_TTL_MS = 60_000

export type RefusalReason = 'too_many_blobs' | 'too_large' | 'too_many_chunks'

export class NodeBudgets {
  readonly #refused: (peerId: string, reason: RefusalReason) => void
  readonly #memberships = new Map<string, number>()
  readonly #foundedChunks = new Map<string, number>()
  readonly #founders = new Map<string, { peerId: string; chunks: number }>()
  readonly #named = new LRUCache<string, true>({ ...entryLimit(10_000), ttl: NAMED_TTL_MS })

  /** @param refused called for the first refusal of a node within a minute */
  constructor(refused: (peerId: string, reason: RefusalReason) => void) {
    this.#refused = refused
  }

  /** Whether a node may be the first to tell of a blob, or of another size of one. */
  found(peerId: string, digest: Digest, sizeBytes: number): boolean {
    if (sizeBytes > MAX_BLOB_BYTES) return this.#refuse(peerId, 'too_large')
    const chunks = chunkCountFor(sizeBytes)
    const founded = (this.#foundedChunks.get(peerId) ?? 0) + chunks
    if (founded > FOUNDED_CHUNKS_PER_NODE) return this.#refuse(peerId, 'too_many_chunks')
    const hasRoom = (this.#memberships.get(peerId) ?? 0) < MEMBERSHIPS_PER_NODE && this.#founders.size < MAX_SWARMS
    if (!hasRoom) return this.#refuse(peerId, 'too_many_blobs')
    this.#foundedChunks.set(peerId, founded)
    this.#founders.set(keyOf(digest, sizeBytes), { peerId, chunks })
    return true
  }

  /** Whether a node may become a member of one more blob; counts it. */
  join(peerId: string): boolean {
    const memberships = this.#memberships.get(peerId) ?? 0
    if (memberships >= MEMBERSHIPS_PER_NODE) return this.#refuse(peerId, 'too_many_blobs')
    this.#memberships.set(peerId, memberships + 1)
    return true
  }

  /** A node is a member of one blob less. */
  left(peerId: string): void {
    const memberships = (this.#memberships.get(peerId) ?? 1) - 1
    if (memberships > 0) this.#memberships.set(peerId, memberships)
    else this.#memberships.delete(peerId)
  }

  /** The tracker knows nothing of a blob of this size any more. */
  forgotten(digest: Digest, sizeBytes: number): void {
    const key = keyOf(digest, sizeBytes)
    const founder = this.#founders.get(key)
    if (founder === undefined) return
    this.#founders.delete(key)
    const chunks = (this.#foundedChunks.get(founder.peerId) ?? 0) - founder.chunks
    if (chunks > 0) this.#foundedChunks.set(founder.peerId, chunks)
    else this.#foundedChunks.delete(founder.peerId)
  }

  #refuse(peerId: string, reason: RefusalReason): false {
    const key = `${reason} ${peerId}`
    if (!this.#named.has(key)) this.#refused(peerId, reason)
    this.#named.set(key, true)
    return false
  }
}

function keyOf(digest: Digest, sizeBytes: number): string {
  return `${digest} ${sizeBytes}`
}
