// How much a peer may make this node read. Who sends more is not cut off but read more slowly, so that flow control
// holds it back and an honest burst merely takes its time; who is held back for long is flooding.
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'

export interface InboundMeterInit {
  /** What may come for long, in units a second. */
  ratePerSecond: number
  /** What may come at once. */
  burst: number
  /** Who has been held back for so long without a pause is flooding. */
  floodAfterMs: number
  onFlood: (peerId: string) => void
}

interface Account {
  /** Units that may be read now; negative while held back. */
  tokens: number
  atMs: number
  /** Since when it has been held back, without its burst having filled up by half since. */
  heldSinceMs: number | undefined
}

/** Peers whose accounts are kept; one that is forgotten starts afresh. */
const MAX_PEERS = 10_000

/** One account for each peer, whatever number of streams or connections it uses. */
export class InboundMeter {
  readonly #init: InboundMeterInit
  readonly #accounts = new LRUCache<string, Account>({ ...entryLimit(MAX_PEERS) })

  constructor(init: InboundMeterInit) {
    this.#init = init
  }

  /** Takes note of `units` that came from a peer. Returns for how many milliseconds nothing more should be read from it. */
  take(peerId: string, units: number, nowMs = performance.now()): number {
    const { ratePerSecond, burst, floodAfterMs, onFlood } = this.#init
    let account = this.#accounts.get(peerId)
    if (account === undefined) {
      account = { tokens: burst, atMs: nowMs, heldSinceMs: undefined }
      this.#accounts.set(peerId, account)
    }
    account.tokens = Math.min(burst, account.tokens + ((nowMs - account.atMs) * ratePerSecond) / 1000)
    account.atMs = nowMs
    if (account.tokens >= burst / 2) account.heldSinceMs = undefined
    account.tokens -= units
    if (account.tokens >= 0) return 0
    account.heldSinceMs ??= nowMs
    if (nowMs - account.heldSinceMs >= floodAfterMs) {
      this.#accounts.delete(peerId)
      onFlood(peerId)
    }
    return Math.ceil((-account.tokens * 1000) / ratePerSecond)
  }
}
