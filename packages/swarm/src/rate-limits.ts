// Upload, download and origin rates of a node, adjustable while running.
import { EventEmitter } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { TokenBucket } from './policy/index.ts'

/** Rates in bytes per second; 0 means no limit. */
export interface Rates {
  uploadRate: number
  downloadRate: number
  originRate: number
}

/** Waits that keep a node within its rates. */
export class RateLimits {
  #rates: Rates
  readonly #upload: TokenBucket
  readonly #download: TokenBucket
  readonly #origin: TokenBucket
  readonly #changed = new EventEmitter().setMaxListeners(0)

  constructor(rates: Rates) {
    // What is handed in may hold more, such as the secrets of a whole configuration, and the rates are shown.
    const { uploadRate, downloadRate, originRate } = rates
    this.#rates = { uploadRate, downloadRate, originRate }
    const now = performance.now()
    this.#upload = new TokenBucket(rates.uploadRate, now)
    this.#download = new TokenBucket(rates.downloadRate, now)
    this.#origin = new TokenBucket(rates.originRate, now)
  }

  get rates(): Readonly<Rates> {
    return this.#rates
  }

  /** Who waits at the old rates goes on at once: at a rate that was too low it could take hours. */
  set(rates: Partial<Rates>): void {
    this.#rates = { ...this.#rates, ...rates }
    const now = performance.now()
    this.#upload.setRate(this.#rates.uploadRate, now)
    this.#download.setRate(this.#rates.downloadRate, now)
    this.#origin.setRate(this.#rates.originRate, now)
    this.#changed.emit('change')
  }

  /** How long what is about to be sent has to wait for what was sent before, in milliseconds. */
  get uploadWaitMs(): number {
    return this.#upload.debtMs(performance.now())
  }

  /**
   * Counts a whole chunk, and waits for those before it, not for itself: the rate is kept by the pause after it, so that who
   * waits for its bytes sees them come at the speed of the link.
   */
  async upload(bytes: number): Promise<void> {
    const now = performance.now()
    const waitMs = this.#upload.debtMs(now)
    this.#upload.take(bytes, now)
    await this.#wait(waitMs)
  }

  /** Bytes that were counted and not sent after all. */
  unsent(bytes: number): void {
    this.#upload.give(bytes)
  }

  async download(bytes: number, signal: AbortSignal): Promise<void> {
    await this.#wait(this.#download.take(bytes, performance.now()), signal)
  }

  /** Bytes from the origin count as downloaded too. */
  async origin(bytes: number, signal: AbortSignal): Promise<void> {
    const now = performance.now()
    await this.#wait(Math.max(this.#origin.take(bytes, now), this.#download.take(bytes, now)), signal)
  }

  async #wait(ms: number, signal?: AbortSignal): Promise<void> {
    if (ms < 1) return
    signal?.throwIfAborted()
    const stop = new AbortController()
    const over = () => stop.abort()
    this.#changed.once('change', over)
    signal?.addEventListener('abort', over, { once: true })
    try {
      await delay(ms, undefined, { signal: stop.signal }).catch(() => undefined)
    } finally {
      this.#changed.off('change', over)
      signal?.removeEventListener('abort', over)
    }
    signal?.throwIfAborted()
  }
}
