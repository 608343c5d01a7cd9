// How fast each origin is asked: how many leases are out, how long a chunk takes, and whether it asked for a pause.
import { originLeaseLimit, originLeasesPerNode, pauseOf, usualTime, type SwarmParameters } from '@shoal/swarm'
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'

/** Two members that say so within this time, in milliseconds, are believed. */
const AGREEMENT_MS = 15_000
/** Somebody who could not get a lease counts as waiting for so long: meanwhile it has been looked again. */
const WAITING_MS = 1000
/** Origins that are remembered. */
const ORIGINS = 1000

/** Leases that are out at one origin. */
interface Outstanding {
  total: number
  readonly ofNode: Map<string, number>
}

interface Pause {
  untilMs: number
  readonly saidBy: string
  readonly saidMs: number
}

/** The books on all origins, by their hosts. */
export class OriginPace {
  readonly #parameters: Readonly<SwarmParameters>
  readonly #outstanding = new Map<string, Outstanding>()
  /** Moving average of the time from a grant to its chunk, in milliseconds. */
  readonly #usualChunkMs = new LRUCache<string, number>({ ...entryLimit(ORIGINS) })
  /** When somebody could not get a lease last, because too many were out. */
  readonly #waitingMs = new LRUCache<string, number>({ ...entryLimit(ORIGINS) })
  readonly #pauses = new LRUCache<string, Pause>({ ...entryLimit(ORIGINS) })

  constructor(parameters: Readonly<SwarmParameters>) {
    this.#parameters = parameters
  }

  /** Whether one more lease may be granted. */
  hasRoom(host: string, nowMs: number): boolean {
    if (nowMs < (this.#pauses.get(host)?.untilMs ?? 0)) return false
    return (this.#outstanding.get(host)?.total ?? 0) < this.#limit(host)
  }

  /** Whether a node would be within its share with one lease more. */
  isWithinShare(host: string, peerId: string): boolean {
    return this.#held(host, peerId) < originLeasesPerNode(this.#limit(host))
  }

  /** Somebody within its share could not get a lease, because too many were out. */
  waits(host: string, nowMs: number): void {
    this.#waitingMs.set(host, nowMs)
  }

  /** Whether a node holds more than its share while another waits. */
  isHoarding(host: string, peerId: string, nowMs: number): boolean {
    const isAwaited = nowMs - (this.#waitingMs.get(host) ?? -Infinity) <= WAITING_MS
    return isAwaited && this.#held(host, peerId) > originLeasesPerNode(this.#limit(host))
  }

  /** What a chunk takes from grant to end, in milliseconds; 0 while unknown. */
  usualChunkMs(host: string): number {
    return this.#usualChunkMs.get(host) ?? 0
  }

  /** A node holds a lease more, or less. */
  count(host: string, peerId: string, by: 1 | -1): void {
    const all = this.#outstanding.get(host) ?? { total: 0, ofNode: new Map<string, number>() }
    this.#outstanding.set(host, all)
    all.total += by
    const held = (all.ofNode.get(peerId) ?? 0) + by
    if (held > 0) all.ofNode.set(peerId, held)
    else all.ofNode.delete(peerId)
    if (all.total === 0) this.#outstanding.delete(host)
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

  #limit(host: string): number {
    return originLeaseLimit(this.usualChunkMs(host), this.#parameters)
  }

  #held(host: string, peerId: string): number {
    return this.#outstanding.get(host)?.ofNode.get(peerId) ?? 0
  }
}
