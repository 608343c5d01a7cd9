// Chunks that are being written or discarded: one at a time may do so to each.

export class BusyChunks {
  /** The promises never reject. */
  readonly #busy = new Map<number, Promise<void>>()

  /** Settles when the chunk is free; undefined when it is. */
  of(index: number): Promise<void> | undefined {
    return this.#busy.get(index)
  }

  /** Waits until nothing is under way. */
  async idle(): Promise<void> {
    while (this.#busy.size > 0) await Promise.all(this.#busy.values())
  }

  /** Runs `task` while others who want these chunks, which must be free, wait. */
  async occupy<T>(indices: number[], task: () => Promise<T>): Promise<T> {
    const run = task()
    const busy = run.then(
      () => this.#vacate(indices),
      () => this.#vacate(indices),
    )
    for (const index of indices) this.#busy.set(index, busy)
    return run
  }

  #vacate(indices: number[]): void {
    for (const index of indices) this.#busy.delete(index)
  }
}
