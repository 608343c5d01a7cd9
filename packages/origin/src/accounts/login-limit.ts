// Slows down who guesses passwords: after some failures one has to wait, longer each time. Counted for each user name at an
// address, so that a client with an old password does not lock out others behind the same proxy; and for the address, so
// that it does not help to guess at many names, or to log in as oneself in between.
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'

const FREE_FAILURES_OF_USER = 10
const FREE_FAILURES_OF_ADDRESS = 100
const FIRST_WAIT_MS = 2_000
const MAX_WAIT_MS = 60_000
const FORGET_MS = 600_000
const MAX_ENTRIES = 10_000
/** Names of accounts are no longer; what is tried may be. */
const MAX_NAME_CHARACTERS = 128

interface Failures {
  count: number
  waitUntilMs: number
}

export class LoginLimit {
  readonly #ofUsers = new LRUCache<string, Failures>({ ...entryLimit(MAX_ENTRIES), ttl: FORGET_MS })
  /** From the first failure on: some each minute, of clients with an old password, must not add up for ever. */
  readonly #ofAddresses = new LRUCache<string, Failures>({
    ...entryLimit(MAX_ENTRIES),
    ttl: FORGET_MS,
    noUpdateTTL: true,
  })

  /** How long this user has to wait at this address before its next try, in ms; 0 when it need not. */
  userWaitMs(address: string, user: string, nowMs: number): number {
    return waitMs(this.#ofUsers.get(userKey(address, user)), nowMs)
  }

  /** How long everybody has to wait at this address, in ms. */
  addressWaitMs(address: string, nowMs: number): number {
    return waitMs(this.#ofAddresses.get(address), nowMs)
  }

  failed(address: string, user: string, nowMs: number): void {
    count(this.#ofUsers, userKey(address, user), FREE_FAILURES_OF_USER, nowMs)
    count(this.#ofAddresses, address, FREE_FAILURES_OF_ADDRESS, nowMs)
  }

  succeeded(address: string, user: string): void {
    this.#ofUsers.delete(userKey(address, user))
  }
}

function userKey(address: string, user: string): string {
  return `${address} ${user.slice(0, MAX_NAME_CHARACTERS)}`
}

function waitMs(failures: Failures | undefined, nowMs: number): number {
  return Math.max(0, (failures?.waitUntilMs ?? 0) - nowMs)
}

function count(failures: LRUCache<string, Failures>, key: string, free: number, nowMs: number): void {
  const count = (failures.get(key)?.count ?? 0) + 1
  const over = count - free
  const waitMs = over < 0 ? 0 : Math.min(FIRST_WAIT_MS * 2 ** over, MAX_WAIT_MS)
  failures.set(key, { count, waitUntilMs: nowMs + waitMs })
}
