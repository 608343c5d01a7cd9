// Buffers of one size that are used over and over: a fresh MiB for every read would keep the garbage collector busy and
// the resident memory high.

export class BufferPool {
  readonly #bytes: number
  readonly #max: number
  readonly #free: Buffer[] = []
  readonly #waiting: ((buffer: Buffer) => void)[] = []
  #made = 0

  /** @param max buffers that may be out at once; whoever comes later waits */
  constructor(bytes: number, max: number) {
    this.#bytes = bytes
    this.#max = max
  }

  /** Buffers that are in use now. */
  get inUse(): number {
    return this.#made - this.#free.length
  }

  async acquire(): Promise<Buffer> {
    const free = this.#free.pop()
    if (free !== undefined) return free
    if (this.#made < this.#max) {
      this.#made += 1
      // Not from Node's own pool: these stay.
      return Buffer.allocUnsafeSlow(this.#bytes)
    }
    return await new Promise((resolve) => this.#waiting.push(resolve))
  }

  release(buffer: Buffer): void {
    const next = this.#waiting.shift()
    if (next !== undefined) next(buffer)
    else this.#free.push(buffer)
  }
}
