// Brings written chunks to the disk in batches, off the path of the writes: one blob after another, at the latest
// five seconds after the first chunk, or as soon as 256 MiB have come together.
import type { Logger } from 'pino'

const SYNC_AFTER_MS = 5000
const SYNC_AFTER_BYTES = 256 * 1024 * 1024

/** What can be brought to the disk. */
export interface Syncable {
  sync(): Promise<void>
}

export class ChunkSyncer {
  readonly #log: Logger
  readonly #dirty = new Set<Syncable>()
  #dirtyBytes = 0
  #timer: NodeJS.Timeout | undefined
  #running: Promise<void> | undefined
  #closed = false

  constructor(log: Logger) {
    this.#log = log
  }

  /** Says that a blob has bytes that are not certainly on the disk. */
  mark(blob: Syncable, bytes: number): void {
    this.#dirty.add(blob)
    this.#dirtyBytes += bytes
    this.#schedule()
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#timer)
    await this.#running
  }

  #schedule(): void {
    if (this.#running !== undefined || this.#closed) return
    if (this.#dirtyBytes >= SYNC_AFTER_BYTES) this.#start()
    else this.#timer ??= setTimeout(() => this.#start(), SYNC_AFTER_MS).unref()
  }

  #start(): void {
    if (this.#dirty.size > 0) this.#running ??= this.#run()
  }

  async #run(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const blobs = [...this.#dirty]
    this.#dirty.clear()
    this.#dirtyBytes = 0
    for (const blob of blobs) {
      try {
        await blob.sync()
      } catch (error) {
        this.#log.warn({ err: error }, 'chunks could not be brought to the disk')
        this.#dirty.add(blob)
      }
    }
    this.#running = undefined
    if (this.#dirty.size > 0) this.#schedule()
  }
}
