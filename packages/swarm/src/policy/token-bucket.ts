// A rate limit as arithmetic: how long a sender of so many bytes has to wait. The caller does the waiting.

/** A token bucket that may go into debt, so that one chunk larger than the burst still passes. */
export class TokenBucket {
  #ratePerMs: number
  #burst: number
  #level: number
  #atMs: number

  /** @param bytesPerSecond 0 for no limit; the burst is a quarter of a second's worth, at least 64 KiB */
  constructor(bytesPerSecond: number, nowMs: number) {
    this.#ratePerMs = bytesPerSecond / 1000
    this.#burst = Math.max(64 * 1024, bytesPerSecond / 4)
    this.#level = this.#burst
    this.#atMs = nowMs
  }

  /** Changes the rate while running. Debts made at the old rate are forgiven: they say nothing about the new one. */
  setRate(bytesPerSecond: number, nowMs: number): void {
    this.#refill(nowMs)
    this.#ratePerMs = bytesPerSecond / 1000
    this.#burst = Math.max(64 * 1024, bytesPerSecond / 4)
    this.#level = Math.max(0, Math.min(this.#level, this.#burst))
  }

  /** Takes `bytes` and returns how many milliseconds the caller has to wait before it goes on. */
  take(bytes: number, nowMs: number): number {
    if (this.#ratePerMs <= 0) return 0
    this.#refill(nowMs)
    this.#level -= bytes
    return this.debtMs(nowMs)
  }

  /** Takes back what was taken and not sent. */
  give(bytes: number): void {
    this.#level = Math.min(this.#burst, this.#level + bytes)
  }

  /** How many milliseconds it takes until what was taken is paid for. */
  debtMs(nowMs: number): number {
    if (this.#ratePerMs <= 0) return 0
    this.#refill(nowMs)
    return this.#level >= 0 ? 0 : -this.#level / this.#ratePerMs
  }

  #refill(nowMs: number): void {
    const elapsed = Math.max(0, nowMs - this.#atMs)
    this.#atMs = nowMs
    this.#level = Math.min(this.#burst, this.#level + elapsed * this.#ratePerMs)
  }
}
