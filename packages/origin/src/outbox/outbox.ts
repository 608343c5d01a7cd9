// Delivers what waits in a queue on the disk, one item after the other, again and again until each has arrived. Whoever
// hands an item over waits only until it is written.
import { setTimeout as delay } from 'node:timers/promises'
import type { DiskQueue } from './queue.ts'

const LONGEST_RETRY_MS = 300_000

export interface OutboxOptions<Item> {
  queue: DiskQueue<Item>
  /** Brings an item to its receiver. What it throws means that it has to be done again. */
  deliver: (item: Item, signal: AbortSignal) => Promise<void>
  /** Milliseconds since the epoch. */
  queuedMs: (item: Item) => number
  /**
   * What an item stands for. One that comes while another for the same waits is not kept; delivering looks up what is
   * newest by itself.
   * @default each item stands for itself
   */
  identity?: (item: Item) => string
  /**
   * Whether a failure is that of the receiver, so that all items wait. Otherwise only the failed one waits. Others overtake
   * what has failed in both cases: it may be the item after all.
   * @default always: items stay in their order
   */
  concernsAll?: (error: unknown) => boolean
  /** How long the first wait after a failure is, in ms; each is twice as long, up to five minutes. @default 1000 */
  retryMs?: number
  /** How many items may wait. @default 10000 */
  maxPending?: number
  observer: OutboxObserver<Item>
}

/** Told what happens to items: for metrics and the log. */
export interface OutboxObserver<Item> {
  pending(count: number): void
  delivered(item: Item): void
  /**
   * @param item - undefined when the queue cannot be read
   * @param tries - how many have failed, of this item or, when all wait, in a row
   */
  failed(item: Item | undefined, error: unknown, tries: number): void
  /** Too many wait, or it could not be written. */
  dropped(item: Item, reason: 'full' | Error): void
}

interface Entry {
  /** Undefined until it is written. */
  key: string | undefined
  identity: string | undefined
  queuedMs: number
  failures: number
  /** By the clock of `performance`. */
  dueMs: number
}

export class Outbox<Item> {
  readonly #options: OutboxOptions<Item>
  readonly #closing = new AbortController()
  /** In the order in which they are tried. */
  readonly #entries: Set<Entry>
  /** The one that waits, not the one that is being delivered. */
  readonly #waiting = new Map<string, Entry>()
  readonly #running: Promise<void>
  #more = new AbortController()
  /** Appends are one after the other: at most `maxPending` wait here. */
  #written: Promise<unknown> = Promise.resolve()

  private constructor(options: OutboxOptions<Item>, entries: Entry[]) {
    this.#options = options
    this.#entries = new Set(entries)
    for (const entry of entries) if (entry.identity !== undefined) this.#waiting.set(entry.identity, entry)
    options.observer.pending(this.#entries.size)
    this.#running = this.#run()
  }

  /** Goes on with what the queue holds. */
  static async open<Item>(options: OutboxOptions<Item>): Promise<Outbox<Item>> {
    const entries: Entry[] = []
    for await (const [key, item] of options.queue.leftOver()) {
      const identity = options.identity?.(item)
      entries.push({ key, identity, queuedMs: options.queuedMs(item), failures: 0, dueMs: 0 })
    }
    return new Outbox(options, entries)
  }

  /** Since when the oldest item has been waiting, in ms since the epoch. */
  get oldestMs(): number | undefined {
    let oldestMs: number | undefined
    for (const { queuedMs } of this.#entries) oldestMs = Math.min(queuedMs, oldestMs ?? queuedMs)
    return oldestMs
  }

  /** Resolves when the item is on the disk, or was dropped because it cannot be or too many wait. */
  async send(item: Item): Promise<void> {
    const { queue, observer, maxPending = 10_000 } = this.#options
    const identity = this.#options.identity?.(item)
    const same = identity === undefined ? undefined : this.#waiting.get(identity)
    if (same) {
      // Whatever was wrong with what it stood for, this is something else.
      same.failures = 0
      same.dueMs = 0
      this.#more.abort()
      await this.#written
      return
    }
    if (this.#entries.size >= maxPending) return observer.dropped(item, 'full')
    const entry: Entry = { key: undefined, identity, queuedMs: this.#options.queuedMs(item), failures: 0, dueMs: 0 }
    this.#entries.add(entry)
    if (identity !== undefined) this.#waiting.set(identity, entry)
    observer.pending(this.#entries.size)
    const write = async (): Promise<void> => {
      try {
        entry.key = await queue.append(item)
      } catch (error) {
        this.#forget(entry)
        observer.dropped(item, error as Error)
      }
      this.#more.abort()
    }
    await (this.#written = this.#written.then(write))
  }

  /** Writes what has come, and breaks off what is being delivered: that is done after the next start. */
  async close(): Promise<void> {
    await this.#written
    this.#closing.abort(new Error('the registry is closing'))
    this.#more.abort()
    await this.#running
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing
    /** In a row, of the receiver. */
    let failures = 0
    while (!signal.aborted) {
      this.#more = new AbortController()
      const entry = this.#next()
      if (entry?.key === undefined || entry.dueMs > performance.now()) {
        await this.#wait(entry ? entry.dueMs - performance.now() : Infinity, this.#more.signal)
        continue
      }
      if (await this.#deliver(entry, entry.key, failures + 1)) {
        failures = 0
        continue
      }
      await this.#wait(this.#pauseMs(failures++), signal)
    }
  }

  /** False when everything has to wait. */
  async #deliver(entry: Entry, key: string, failures: number): Promise<boolean> {
    const { queue, deliver, observer, concernsAll = () => true } = this.#options
    const { signal } = this.#closing
    const { identity } = entry
    if (identity !== undefined) this.#waiting.delete(identity)
    let item: Item | undefined
    try {
      item = await queue.get(key)
      signal.throwIfAborted()
      if (item !== undefined) await deliver(item, signal)
      // After a crash right here it is delivered twice.
      await queue.remove(key)
      this.#forget(entry)
      if (item !== undefined) observer.delivered(item)
      return true
    } catch (error) {
      if (signal.aborted) return false
      const isOfAll = item === undefined || concernsAll(error)
      entry.failures++
      observer.failed(item, error, isOfAll ? failures : entry.failures)
      await this.#postpone(entry, key, isOfAll)
      return !isOfAll
    }
  }

  async #postpone(entry: Entry, key: string, isOfAll: boolean): Promise<void> {
    const { identity } = entry
    const newer = () => (identity === undefined ? undefined : this.#waiting.get(identity))
    // One that is still being written may not get onto the disk.
    for (let found = newer(); found !== undefined && found.key === undefined; found = newer()) await this.#written
    if (newer() !== undefined) {
      // A newer one stands for the same. What stays on the disk now is done twice after the next start.
      await this.#options.queue.remove(key).catch(() => undefined)
      this.#forget(entry)
      return
    }
    if (identity !== undefined) this.#waiting.set(identity, entry)
    if (!this.#options.concernsAll) return
    if (!isOfAll) entry.dueMs = performance.now() + this.#pauseMs(entry.failures - 1)
    this.#entries.delete(entry)
    this.#entries.add(entry)
  }

  /** The first that is due, else the one that is due next. */
  #next(): Entry | undefined {
    const nowMs = performance.now()
    let next: Entry | undefined
    for (const entry of this.#entries) {
      if (entry.key === undefined) continue
      if (entry.dueMs <= nowMs) return entry
      if (!next || entry.dueMs < next.dueMs) next = entry
    }
    return next
  }

  #pauseMs(failures: number): number {
    const { retryMs = 1_000 } = this.#options
    const ceilingMs = Math.min(LONGEST_RETRY_MS, retryMs * 2 ** Math.min(failures, 30))
    return ceilingMs * (0.5 + Math.random() / 2)
  }

  async #wait(ms: number, signal: AbortSignal): Promise<void> {
    await delay(Math.min(Math.max(ms, 0), LONGEST_RETRY_MS), undefined, { signal }).catch(() => undefined)
  }

  #forget(entry: Entry): void {
    this.#entries.delete(entry)
    if (entry.identity !== undefined && this.#waiting.get(entry.identity) === entry) {
      this.#waiting.delete(entry.identity)
    }
    this.#options.observer.pending(this.#entries.size)
  }
}
