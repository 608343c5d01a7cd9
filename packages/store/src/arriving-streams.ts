// Streams over an arriving blob: they wait for chunks that are missing, and hold the last one back until the digest of
// the whole has matched.
import type { Readable } from 'node:stream'
import type { BlobFile } from './blob-file.ts'
import { BlobStream, type StreamSource } from './blob-stream.ts'
import type { KeptChunks } from './kept-chunks.ts'
import type { ReadOptions } from './store.ts'

/** Called once: it is worth looking again, or what was waited for will not come for this reason. */
type Waiter = (failure?: Error) => void

export class ArrivingStreams {
  readonly #sizeBytes: number
  readonly #file: BlobFile
  readonly #chunks: KeptChunks
  readonly #waiters = new Map<number, Set<Waiter>>()
  /** Whether the digest has matched: all of it may be read. */
  #verified: boolean
  #failure: Error | undefined

  constructor(sizeBytes: number, file: BlobFile, chunks: KeptChunks, verified: boolean) {
    this.#sizeBytes = sizeBytes
    this.#file = file
    this.#chunks = chunks
    this.#verified = verified
  }

  /** @param release called when the stream has ended */
  open(options: ReadOptions, release: () => void): Readable & { readonly position: number } {
    const source: StreamSource = {
      sizeBytes: this.#sizeBytes,
      readable: (position, most) => this.#readable(position, most),
      wait: (position, ready) => this.#wait(position, ready),
      read: (into, position) => this.#read(into, position),
      settled: () => this.#verified,
      release,
    }
    return new BlobStream(source, options)
  }

  /** A chunk has come. */
  wake(index: number, failure?: Error): void {
    const waiters = this.#waiters.get(index)
    this.#waiters.delete(index)
    for (const ready of waiters ?? []) ready(failure)
  }

  /** The digest has matched. */
  verified(): void {
    this.#verified = true
    this.#wakeAll()
  }

  /** Chunks were taken back: what was said of the digest does not hold any more. */
  unverified(): void {
    this.#verified = false
  }

  /** From now on nobody waits any more, but who waits already is not told before `fail`. The first reason stays. */
  refuse(reason: Error): void {
    this.#failure ??= reason
  }

  /** Nothing more will come. What was verified can still be read. */
  fail(reason: Error): void {
    this.refuse(reason)
    this.#wakeAll(reason)
  }

  #readable(position: number, most: number): number {
    if (this.#verified) return most
    return this.#failure === undefined ? this.#chunks.readable(position, most) : 0
  }

  /** False when chunks were taken back meanwhile. */
  async #read(into: Uint8Array, position: number): Promise<boolean> {
    const { deletions } = this.#chunks
    await this.#file.read(into, position)
    return deletions === this.#chunks.deletions
  }

  #wait(position: number, ready: Waiter): () => void {
    const failure = this.#failure
    if (failure !== undefined) {
      let cancelled = false
      queueMicrotask(() => {
        if (!cancelled) ready(failure)
      })
      return () => (cancelled = true)
    }
    const index = this.#chunks.chunkAt(position)
    let waiters = this.#waiters.get(index)
    if (waiters === undefined) this.#waiters.set(index, (waiters = new Set()))
    waiters.add(ready)
    return () => waiters.delete(ready)
  }

  #wakeAll(failure?: Error): void {
    for (const index of [...this.#waiters.keys()]) this.wake(index, failure)
  }
}
