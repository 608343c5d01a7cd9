// How fast each origin is asked: how many leases are out, how long a chunk takes, and whether it asked for a pause.
import { originLeaseLimit, pauseOf, usualTime, type SwarmParameters } from '@shoal/swarm'
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'

/** Two members that say so within this time, in milliseconds, are believed. */
const AGREEMENT_MS = 15_000
/** Origins that are remembered. */
const ORIGINS = 1000

interface Pause {
  untilMs: number
  readonly saidBy: string
  readonly saidMs: number
}

/** The books on all origins, by their hosts. */
export class OriginPace {
  readonly #parameters: Readonly<SwarmParameters>
  readonly #outstanding = new Map<string, number>()
  /** Moving average of the time from a grant to its chunk, in milliseconds. */
  readonly #usualChunkMs = new LRUCache<string, number>({ ...entryLimit(ORIGINS) })
  readonly #pauses = new LRUCache<string, Pause>({ ...entryLimit(ORIGINS) })

  constructor(parameters: Readonly<SwarmParameters>) {
    this.#parameters = parameters
  }

  /** Whether one more lease may be granted. */
  hasRoom(host: string, nowMs: number): boolean {
    if (nowMs < (this.#pauses.get(host)?.untilMs ?? 0)) return false
    return (this.#outstanding.get(host) ?? 0) < originLeaseLimit(this.usualChunkMs(host), this.#parameters)
  }

  /** What a chunk takes from grant to end, in milliseconds; 0 while unknown. */
  usualChunkMs(host: string): number {
    return this.#usualChunkMs.get(host) ?? 0
  }

  /** So many leases more, or less, are out. */
  count(host: string, by: number): void {
    const now = (this.#outstanding.get(host) ?? 0) + by
    if (now <= 0) this.#outstanding.delete(host)
    else this.#outstanding.set(host, now)
  }

  took(host: string, chunkMs: number): void {
    this.#usualChunkMs.set(host, usualTime(this.usualChunkMs(host), chunkMs))
  }

  /**
   * A member says that the origin itself asked for less: nobody is sent to it for a while. When nobody else says so, its word
   * counts once: it is not sent there again itself while it waits, and others would have met the same.
   */
  pause(host: string, saidBy: string, backoffMs: number, nowMs: number): void {
    const before = this.#pauses.get(host)
    const isRecent = before !== undefined && nowMs - before.saidMs <= AGREEMENT_MS
    const pauseMs = pauseOf(backoffMs, isRecent ? before.saidBy : undefined, saidBy)
    this.#pauses.set(host, { untilMs: Math.max(before?.untilMs ?? 0, nowMs + pauseMs), saidBy, saidMs: nowMs })
  }
}
