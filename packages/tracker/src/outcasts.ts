// Peers that were caught lying by enough others: what they say is not heard for a while.
import type { ControlChannel } from '@shoal/network'

/** Outcasts that are remembered; the oldest is let in again first. */
const MOST_OUTCASTS = 10_000

interface Outcast {
  readonly sinceMs: number
  /** Over which it speaks. */
  channel: ControlChannel
}

/** Peers that are members of nothing. */
export class Outcasts {
  readonly #ttlMs: number
  readonly #outcasts = new Map<string, Outcast>()

  /** @param ttlMs how long a peer is left out, in milliseconds */
  constructor(ttlMs: number) {
    this.#ttlMs = ttlMs
  }

  add(channel: ControlChannel, nowMs: number): void {
    const { peerId } = channel
    this.#outcasts.delete(peerId)
    this.#outcasts.set(peerId, { sinceMs: nowMs, channel })
    const [oldest] = this.#outcasts.keys()
    if (this.#outcasts.size > MOST_OUTCASTS) this.#outcasts.delete(oldest!)
  }

  /** Whether what comes over a channel is not heard. */
  isOutcast(channel: ControlChannel): boolean {
    const outcast = this.#outcasts.get(channel.peerId)
    if (outcast !== undefined) outcast.channel = channel
    return outcast !== undefined
  }

  /** Lets in again who was left out long enough. Returns the channels: nothing that was said over them is known. */
  expire(nowMs: number): ControlChannel[] {
    const over: ControlChannel[] = []
    for (const [peerId, { sinceMs, channel }] of this.#outcasts) {
      if (nowMs - sinceMs < this.#ttlMs) break
      this.#outcasts.delete(peerId)
      over.push(channel)
    }
    return over
  }
}
