// Slows down who guesses passwords: after some failures an address has to wait, longer each time.
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'

const FREE_FAILURES = 10
const FIRST_WAIT_MS = 2_000
const MAX_WAIT_MS = 60_000
const FORGET_MS = 600_000
const MAX_ADDRESSES = 10_000

interface Failures {
  count: number
  waitUntilMs: number
}

export class LoginLimit {
  readonly #failures = new LRUCache<string, Failures>({ ...entryLimit(MAX_ADDRESSES), ttl: FORGET_MS })

  /** How long this address has to wait before its next try, in ms; 0 when it need not. */
  waitMs(address: string, nowMs: number): number {
    return Math.max(0, (this.#failures.get(address)?.waitUntilMs ?? 0) - nowMs)
  }

  failed(address: string, nowMs: number): void {
    const count = (this.#failures.get(address)?.count ?? 0) + 1
    const over = count - FREE_FAILURES
    const waitMs = over < 0 ? 0 : Math.min(FIRST_WAIT_MS * 2 ** over, MAX_WAIT_MS)
    this.#failures.set(address, { count, waitUntilMs: nowMs + waitMs })
  }

  succeeded(address: string): void {
    this.#failures.delete(address)
  }
}
