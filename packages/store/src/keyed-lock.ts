// One at a time for each key: what opens, finishes and removes the same thing must not overlap.

export class KeyedLock<K> {
  readonly #tails = new Map<K, Promise<unknown>>()

  isTaken(key: K): boolean {
    return this.#tails.has(key)
  }

  /** Runs `task` when all that were handed in before for the same key are done; at once when there are none. */
  run<T>(key: K, task: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key)
    const run = before === undefined ? task() : before.then(task)
    const tail = run
      .then(
        () => undefined,
        () => undefined,
      )
      .then(() => {
        if (this.#tails.get(key) === tail) this.#tails.delete(key)
      })
    this.#tails.set(key, tail)
    return run
  }

  /** Waits until nothing is under way. */
  async idle(): Promise<void> {
    while (this.#tails.size > 0) await Promise.all(this.#tails.values())
  }
}
