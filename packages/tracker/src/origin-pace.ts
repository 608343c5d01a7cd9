// How fast each origin is asked: how many leases are out, how long a chunk takes, and whether it asked for a pause.
import { originLeaseLimit, usualTime, type SwarmParameters } from '@shoal/swarm'
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'

/** Members' word keeps all from an origin for so long at most, in milliseconds. */
const MAX_PAUSE_MS = 10_000
/** The word of one member alone, which may be a lie. */
const LONE_PAUSE_MS = 1000
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

  /** A member says that the origin itself asked for less: nobody is sent to it for a while. */
  pause(host: string, saidBy: string, backoffMs: number, nowMs: number): void {
    const before = this.#pauses.get(host)
    const agrees = before !== undefined && before.saidBy !== saidBy && nowMs - before.saidMs <= AGREEMENT_MS
    const untilMs = nowMs + Math.min(backoffMs, agrees ? MAX_PAUSE_MS : LONE_PAUSE_MS)
    this.#pauses.set(host, { untilMs: Math.max(before?.untilMs ?? 0, untilMs), saidBy, saidMs: nowMs })
  }
}
