// What the store has, in memory, in the order of last use; how many bytes it takes, and what may go when there is no
// more room.
import type { Digest } from '@shoal/oci'
import { isDiskFull, StoreFullError } from './errors.ts'

export interface BlobEntry {
  readonly digest: Digest
  readonly sizeBytes: number
  /** Bytes it takes on the disk: all, or those of the places in its file that were written (place-account.ts). */
  storedBytes: number
  complete: boolean
  mediaType: string | undefined
  lastUsedMs: number
  /** How many users it has. With one or more it stays. */
  holds: number
}

export interface BlobTableOptions {
  quotaBytes: number
  isPinned(digest: Digest): boolean
  /** Whether somebody is about to change it. */
  isBusy(digest: Digest): boolean
  /** Takes the files and rows of an entry away; it is out of the table already. */
  evict(entry: BlobEntry): Promise<void>
}

export class BlobTable {
  readonly #options: BlobTableOptions
  /** Least recently used first. */
  readonly #entries = new Map<Digest, BlobEntry>()
  #storedBytes = 0
  #completeCount = 0
  /** Bytes of the entry whose files are being removed: out of the table, but not off the disk yet. */
  #leavingBytes = 0
  #evicting: Promise<unknown> = Promise.resolve()

  constructor(options: BlobTableOptions) {
    this.#options = options
  }

  get storedBytes(): number {
    return this.#storedBytes
  }

  get completeCount(): number {
    return this.#completeCount
  }

  get partialCount(): number {
    return this.#entries.size - this.#completeCount
  }

  get(digest: Digest): BlobEntry | undefined {
    return this.#entries.get(digest)
  }

  values(): Iterable<BlobEntry> {
    return this.#entries.values()
  }

  /** Puts an entry in as the most recently used one. */
  add(entry: BlobEntry): BlobEntry {
    this.remove(entry.digest)
    this.#entries.set(entry.digest, entry)
    this.#storedBytes += entry.storedBytes
    if (entry.complete) this.#completeCount++
    return entry
  }

  remove(digest: Digest): BlobEntry | undefined {
    const entry = this.#entries.get(digest)
    if (entry === undefined) return undefined
    this.#entries.delete(digest)
    this.#storedBytes -= entry.storedBytes
    if (entry.complete) this.#completeCount--
    return entry
  }

  /** Makes it the most recently used one. */
  touch(entry: BlobEntry, nowMs: number): void {
    entry.lastUsedMs = nowMs
    if (this.#entries.get(entry.digest) !== entry) return
    this.#entries.delete(entry.digest)
    this.#entries.set(entry.digest, entry)
  }

  markComplete(entry: BlobEntry, mediaType: string | undefined): void {
    if (!entry.complete && this.#entries.get(entry.digest) === entry) this.#completeCount++
    entry.complete = true
    entry.mediaType = mediaType
    this.resize(entry, entry.sizeBytes)
  }

  /** Corrects the bytes an entry takes, without asking for room. */
  resize(entry: BlobEntry, storedBytes: number): void {
    if (this.#entries.get(entry.digest) === entry) this.#storedBytes += storedBytes - entry.storedBytes
    entry.storedBytes = storedBytes
  }

  /**
   * Sets bytes aside for an entry before they are written, and evicts others when there is no room. An entry never takes
   * more than its size.
   * @throws StoreFullError when the quota has no room, even after eviction
   */
  async reserve(entry: BlobEntry, bytes: number): Promise<void> {
    // In the common case nothing is awaited: what was looked at and what is reserved belong together.
    const wanted = () => Math.min(bytes, entry.sizeBytes - entry.storedBytes)
    const fits = () => this.#storedBytes + this.#leavingBytes + wanted() <= this.#options.quotaBytes
    while (!fits()) {
      if (!(await this.#exclusively(() => this.#evictUntil(fits)))) throw this.#quotaError(bytes)
    }
    this.resize(entry, entry.storedBytes + wanted())
  }

  /**
   * Runs what writes this many bytes to the disk. When that is full, also of files, others are evicted and it runs again,
   * as long as that brings room. An eviction writes the index itself, so this is for its callers, not for the index.
   * @throws what `write` throws
   */
  async withRoomOnDisk<T>(bytes: number, write: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await write()
      } catch (error) {
        if (!isDiskFull(error) || !(await this.#makeRoomOnDisk(bytes))) throw error
      }
    }
  }

  /** Evicts until this many bytes are free that were not before, and one file at least. False when none is left to evict. */
  async #makeRoomOnDisk(bytes: number): Promise<boolean> {
    return this.#exclusively(() => {
      const before = this.#storedBytes
      return this.#evictUntil(() => before - this.#storedBytes >= Math.max(1, bytes))
    })
  }

  /** Evicts what is over the quota, as far as it may go. */
  async enforceQuota(): Promise<void> {
    await this.#exclusively(() => this.#evictUntil(() => this.#storedBytes <= this.#options.quotaBytes))
  }

  /** True when it can never fit. */
  exceedsQuota(bytes: number): boolean {
    return bytes > this.#options.quotaBytes
  }

  async #evictUntil(enough: () => boolean): Promise<boolean> {
    while (!enough()) {
      const entry = this.#firstToEvict()
      if (entry === undefined) return false
      this.remove(entry.digest)
      this.#leavingBytes = entry.storedBytes
      try {
        await this.#options.evict(entry)
      } catch (error) {
        this.add(entry)
        throw error
      } finally {
        this.#leavingBytes = 0
      }
    }
    return true
  }

  #firstToEvict(): BlobEntry | undefined {
    for (const entry of this.#entries.values()) {
      if (entry.holds > 0 || entry.storedBytes === 0) continue
      if (!this.#options.isPinned(entry.digest) && !this.#options.isBusy(entry.digest)) return entry
    }
    return undefined
  }

  #exclusively<T>(task: () => Promise<T>): Promise<T> {
    const run = this.#evicting.then(task)
    this.#evicting = run.catch(() => undefined)
    return run
  }

  #quotaError(bytes: number): StoreFullError {
    return new StoreFullError(
      'quota',
      `no room for ${bytes} bytes: the store takes ${this.#storedBytes} of the ${this.#options.quotaBytes} bytes it may ` +
        'take, and what is left is in use or pinned; raise its quota or unpin images',
    )
  }
}

/** A blob of which nothing is there yet, used just now. */
export function newEntry(digest: Digest, sizeBytes: number): BlobEntry {
  const lastUsedMs = Date.now()
  return { digest, sizeBytes, storedBytes: 0, complete: false, mediaType: undefined, lastUsedMs, holds: 0 }
}
