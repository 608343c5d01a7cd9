// When blobs were last used: in memory at once, for the order of eviction, and in the index from time to time.
import type { Digest } from '@shoal/oci'
import type { BlobTable } from './blob-table.ts'
import { PARTIALS, put, type IndexChange, type StoreIndex } from './store-index.ts'
import { rowOf } from './stored-files.ts'

/** How often the times of last use are written down. After a crash the order of eviction is this old at most. */
const PERSIST_MS = 60_000

export class BlobUses {
  readonly #table: BlobTable
  readonly #index: StoreIndex
  readonly #logFailure: (error: unknown) => void
  /** Blobs whose time of last use is newer than their row. */
  readonly #used = new Set<Digest>()
  readonly #timer: NodeJS.Timeout

  constructor(table: BlobTable, index: StoreIndex, logFailure: (error: unknown) => void) {
    this.#table = table
    this.#index = index
    this.#logFailure = logFailure
    this.#timer = setInterval(() => {
      this.#persist().catch(logFailure)
    }, PERSIST_MS).unref()
  }

  /** A blob is used now. */
  note(digest: Digest): void {
    const entry = this.#table.get(digest)
    if (entry === undefined) return
    this.#table.touch(entry, Date.now())
    this.#used.add(digest)
  }

  async #persist(): Promise<void> {
    const changes: IndexChange[] = []
    for (const digest of this.#used) {
      const entry = this.#table.get(digest)
      if (entry?.complete === true) changes.push(rowOf(entry))
      else if (entry !== undefined) {
        changes.push(put(PARTIALS, digest, { sizeBytes: entry.sizeBytes, lastUsedMs: entry.lastUsedMs }))
      }
    }
    this.#used.clear()
    if (changes.length > 0) await this.#index.write(changes, false)
  }

  /** Writes down what was not yet. Idempotent. */
  async close(): Promise<void> {
    clearInterval(this.#timer)
    await this.#persist().catch(this.#logFailure)
  }
}
