// Waiting that can be cut short, and what is done only now and then.

/** Settles after `ms`, or early and without an error when `signal` fires. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const done = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal.addEventListener('abort', done)
    if (signal.aborted) done()
  })
}

/** Waiting times that double from `firstMs` to `lastMs`, each off by up to a half so that nodes do not march in step. */
export class Backoff {
  readonly #firstMs: number
  readonly #lastMs: number
  #nextMs: number

  constructor(firstMs: number, lastMs: number) {
    this.#firstMs = firstMs
    this.#lastMs = lastMs
    this.#nextMs = firstMs
  }

  next(): number {
    const ms = this.#nextMs
    this.#nextMs = Math.min(ms * 2, this.#lastMs)
    return ms * (0.5 + Math.random())
  }

  reset(): void {
    this.#nextMs = this.#firstMs
  }
}

/** Lets something through at once, and then once in `everyMs`: a log line that a failing neighbour would repeat for ever. */
export class NowAndThen {
  readonly #everyMs: number
  #lastMs = -Infinity
  #heldBack = 0

  constructor(everyMs: number) {
    this.#everyMs = everyMs
  }

  /** How often it was held back since the last time; undefined when it is not time yet. */
  due(nowMs: number): number | undefined {
    if (nowMs - this.#lastMs < this.#everyMs) {
      this.#heldBack++
      return undefined
    }
    const heldBack = this.#heldBack
    this.#lastMs = nowMs
    this.#heldBack = 0
    return heldBack
  }
}
