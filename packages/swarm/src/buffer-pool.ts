// Buffers for chunks on their way. The pool is what bounds the memory of all downloads of a node together.

/** A bounded set of reusable buffers, one size class for each chunk size. */
export class BufferPool {
  readonly #limitBytes: number
  readonly #free = new Map<number, Buffer[]>()
  #usedBytes = 0
  #freeBytes = 0

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes
  }

  get usedBytes(): number {
    return this.#usedBytes
  }

  /** A buffer of at least `sizeBytes` (a chunk size), or none while the pool is at its limit. */
  take(sizeBytes: number): Buffer | undefined {
    // One buffer is always granted, so that a limit below one chunk slows a node down but never stops it.
    if (this.#usedBytes > 0 && this.#usedBytes + sizeBytes > this.#limitBytes) return undefined
    this.#usedBytes += sizeBytes
    const buffer = this.#free.get(sizeBytes)?.pop()
    if (buffer !== undefined) {
      this.#freeBytes -= sizeBytes
      return buffer
    }
    return Buffer.allocUnsafeSlow(sizeBytes)
  }

  /** Gives a buffer back; nobody may write to it any more. */
  give(buffer: Buffer): void {
    this.#usedBytes -= buffer.length
    // What lies idle counts against the limit too, and no more than a quarter of it is kept.
    if (this.#freeBytes + buffer.length > this.#limitBytes / 4) return
    this.#freeBytes += buffer.length
    const list = this.#free.get(buffer.length)
    if (list === undefined) this.#free.set(buffer.length, [buffer])
    else list.push(buffer)
  }

  /** Lets go of idle buffers, when nothing is downloaded any more. */
  trim(): void {
    this.#free.clear()
    this.#freeBytes = 0
  }
}
