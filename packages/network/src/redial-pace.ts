// When a peer that hangs up on this node may be dialled again. libp2p dials a peer near in the DHT again as soon as its
// connection has closed: with one that has banned this node, or has no room for it, that went on a hundred times a second.

/** A connection that lasted less was not wanted at the other end. */
const SHORT_MS = 2_000
/** So many in a row may have other reasons, as both ends dialling at once. */
const FREE_CLOSINGS = 2
const FIRST_WAIT_MS = 1_000
const LONGEST_WAIT_MS = 30_000
const MAX_PEERS = 4_096

interface Closings {
  inARow: number
  notBeforeMs: number
}

/** Remembers who hung up. Times are those of one monotonic clock, in milliseconds. */
export class RedialPace {
  readonly #peers = new Map<string, Closings>()

  /** A connection that this node had dialled has ended, and there is no other one to that peer. */
  closed(peerId: string, openedMs: number, nowMs: number): void {
    const inARow = (this.#peers.get(peerId)?.inARow ?? 0) + 1
    this.#peers.delete(peerId)
    if (nowMs - openedMs >= SHORT_MS) return
    const doublings = inARow - FREE_CLOSINGS - 1
    const waitMs = doublings < 0 ? 0 : Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** doublings)
    this.#peers.set(peerId, { inARow, notBeforeMs: nowMs + waitMs })
    for (const oldest of this.#peers.keys()) {
      if (this.#peers.size <= MAX_PEERS) break
      this.#peers.delete(oldest)
    }
  }

  /** Somebody with a pace of his own wants the peer: it may be dialled now, and what is known of it stays known. */
  allow(peerId: string): void {
    const closings = this.#peers.get(peerId)
    if (closings !== undefined) closings.notBeforeMs = -Infinity
  }

  /** Whether the peer may not be dialled yet. */
  mustWait(peerId: string, nowMs: number): boolean {
    return nowMs < (this.#peers.get(peerId)?.notBeforeMs ?? -Infinity)
  }
}
