// How many requests are under way at one registry. Content and metadata have lanes of their own, so that a manifest
// never waits behind eight slow layers; so have uploads, which may wait for content of the same registry.
import PQueue from 'p-queue'

export type Lane = 'content' | 'metadata' | 'upload'

export class Lanes {
  readonly #queues = new Map<string, PQueue>()
  #concurrency: number

  constructor(concurrency: number) {
    this.#concurrency = concurrency
  }

  get concurrency(): number {
    return this.#concurrency
  }

  /** Requests that are under way beyond a lower number go on; new ones wait for them. */
  set concurrency(concurrency: number) {
    this.#concurrency = concurrency
    for (const queue of this.#queues.values()) queue.concurrency = concurrency
  }

  /** Waits for a place; what is returned gives it back, once. @throws the signal's reason */
  async enter(host: string, lane: Lane, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted()
    const key = `${lane} ${host}`
    let queue = this.#queues.get(key)
    if (queue === undefined) {
      const created = new PQueue({ concurrency: this.#concurrency })
      created.on('idle', () => {
        if (this.#queues.get(key) === created) this.#queues.delete(key)
      })
      this.#queues.set(key, created)
      queue = created
    }
    const place = Promise.withResolvers<undefined>()
    const entered = Promise.withResolvers<undefined>()
    const waiting = new AbortController()
    const abort = (): void => waiting.abort(signal.reason)
    signal.addEventListener('abort', abort, { once: true })
    queue
      .add(
        () => {
          // From here on, the place is given back by its holder only.
          signal.removeEventListener('abort', abort)
          entered.resolve(undefined)
          return place.promise
        },
        { signal: waiting.signal },
      )
      .catch((reason: unknown) => entered.reject(reason))
    try {
      await entered.promise
    } finally {
      signal.removeEventListener('abort', abort)
    }
    return () => place.resolve(undefined)
  }
}
