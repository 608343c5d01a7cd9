// Upload, download and origin rates of a node, adjustable while running.
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

  constructor(rates: Rates) {
    this.#rates = { ...rates }
    const now = performance.now()
    this.#upload = new TokenBucket(rates.uploadRate, now)
    this.#download = new TokenBucket(rates.downloadRate, now)
    this.#origin = new TokenBucket(rates.originRate, now)
  }

  get rates(): Readonly<Rates> {
    return this.#rates
  }

  set(rates: Partial<Rates>): void {
    this.#rates = { ...this.#rates, ...rates }
    const now = performance.now()
    this.#upload.setRate(this.#rates.uploadRate, now)
    this.#download.setRate(this.#rates.downloadRate, now)
    this.#origin.setRate(this.#rates.originRate, now)
  }

  async upload(bytes: number): Promise<void> {
    await wait(this.#upload.take(bytes, performance.now()))
  }

  async download(bytes: number, signal: AbortSignal): Promise<void> {
    await wait(this.#download.take(bytes, performance.now()), signal)
  }

  /** Bytes from the origin count as downloaded too. */
  async origin(bytes: number, signal: AbortSignal): Promise<void> {
    const now = performance.now()
    await wait(Math.max(this.#origin.take(bytes, now), this.#download.take(bytes, now)), signal)
  }
}

async function wait(ms: number, signal?: AbortSignal): Promise<void> {
  if (ms >= 1) await delay(ms, undefined, signal === undefined ? {} : { signal })
}
