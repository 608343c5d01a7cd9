// Rounds of leases: after what members said in one turn, each blob gets one lease after the other for as long as its origin has
// room. The books of each blob say who, those of the origins how many.
import { randomInt } from 'node:crypto'
import type { LeaseDone } from '@shoal/network'
import type { SwarmParameters } from '@shoal/swarm'
import type { Logger } from 'pino'
import { LapsedMembers } from './lapsed-members.ts'
import type { TrackerMetrics } from './metrics.ts'
import type { TakesFirst } from './origin-leases.ts'
import { OriginPace } from './origin-pace.ts'
import type { TrackedSwarm } from './tracked-swarm.ts'

/** Numbers of leases begin below: what is counted up from there stays a safe integer. */
const FIRST_LEASE_ID_LIMIT = 2 ** 47

export interface LeaseRoundsOptions {
  /** The live numbers: leases for each origin may be changed while it runs. */
  parameters: Readonly<SwarmParameters>
  leaseIdleMs: number
  logger: Logger
  metrics: TrackerMetrics
}

/** Grants the leases of all swarms of one tracker. */
export class LeaseRounds {
  readonly origins: OriginPace
  readonly lapses = new LapsedMembers()
  readonly #options: LeaseRoundsOptions
  /** Those in which something may happen by itself. Most have nothing but members that have everything. */
  readonly #busy = new Set<TrackedSwarm>()
  readonly #dirty = new Set<TrackedSwarm>()
  /** Origins that have room for more leases. */
  readonly #freed = new Set<string>()
  #granting = false
  /** Not the numbers of an earlier run: its leases may still be out, and news of them would be taken for news of these. */
  #nextLeaseId = randomInt(FIRST_LEASE_ID_LIMIT)

  constructor(options: LeaseRoundsOptions) {
    this.#options = options
    this.origins = new OriginPace(options.parameters)
  }

  /** Swarms in which something may happen by itself. */
  get busy(): Iterable<TrackedSwarm> {
    return this.#busy
  }

  /** Nothing happens in a swarm before one of its members says something. */
  rest(swarm: TrackedSwarm): void {
    this.#busy.delete(swarm)
  }

  /** Grants once for all messages of this turn. */
  grantSoon(swarm: TrackedSwarm | undefined): void {
    if (swarm === undefined) return
    this.#busy.add(swarm)
    this.#dirty.add(swarm)
    this.#schedule()
  }

  /** A member of a swarm holds a lease at the origin more, or less. */
  outstandingChanged(host: string, peerId: string, by: 1 | -1): void {
    this.origins.count(host, peerId, by)
    if (by > 0) return
    this.#freed.add(host)
    this.#schedule()
  }

  /** A lease is over, its holder says. */
  done(swarm: TrackedSwarm | undefined, peerId: string, message: LeaseDone, nowMs: number): void {
    const outcome = swarm?.leaseDone(message, peerId, nowMs)
    if (swarm !== undefined && outcome !== undefined) {
      const { lease, isBrought } = outcome
      const { leaseId, originBackoffMs } = message
      const tookMs = nowMs - lease.grantedMs
      this.#options.logger.debug({ lease: leaseId, isBrought, tookMs: Math.round(tookMs) }, 'lease over')
      if (isBrought) this.origins.took(swarm.originHost, tookMs / lease.count)
      else if (originBackoffMs > 0) this.origins.pause(swarm.originHost, peerId, originBackoffMs, nowMs)
    }
    this.grantSoon(swarm)
  }

  #schedule(): void {
    if (this.#granting) return
    this.#granting = true
    setImmediate(() => {
      this.#granting = false
      // Room at the origin is room for every blob of it.
      if (this.#freed.size > 0) {
        for (const swarm of this.#busy) if (this.#freed.has(swarm.originHost)) this.#dirty.add(swarm)
        this.#freed.clear()
      }
      const swarms = [...this.#dirty]
      this.#dirty.clear()
      this.#grantAll(swarms)
    })
  }

  /**
   * One lease for each blob in turn, so that a large blob does not keep a small one waiting. Who holds its share of an origin already,
   * or does not use what it gets, gets what nobody else wants: else one node that tells of many blobs would have it all.
   */
  #grantAll(swarms: TrackedSwarm[]): void {
    const now = performance.now()
    // Where there is room for one lease only, it goes to the blob that has waited longest.
    swarms.sort((one, other) => one.lastLeaseId - other.lastLeaseId)
    const wanting = swarms.filter((swarm) => swarm.wantsLeases)
    this.#grantInTurn(wanting, ({ originHost }, peerId) => this.#takesFirst(originHost, peerId), now)
    for (const swarm of wanting) {
      const { originHost } = swarm
      if (!swarm.isAwaited((peerId) => this.#takesFirst(originHost, peerId))) continue
      this.origins.waits(originHost, now)
    }
    this.#grantInTurn(wanting, () => true, now)
    for (const swarm of swarms) while (this.#grantAcross(swarm, now)) continue
  }

  #grantInTurn(
    swarms: readonly TrackedSwarm[],
    mayTake: (swarm: TrackedSwarm, peerId: string) => boolean,
    nowMs: number,
  ): void {
    let wanting = swarms
    const grant = (swarm: TrackedSwarm) => this.#grantOne(swarm, (peerId) => mayTake(swarm, peerId), nowMs)
    while (wanting.length > 0) wanting = wanting.filter(grant)
  }

  #takesFirst(host: string, peerId: string): boolean {
    return this.origins.isWithinShare(host, peerId) && this.lapses.isReliable(host, peerId)
  }

  /** A zone lease: the holder fetches from a member of another zone, the origin has no part in it. */
  #grantAcross(swarm: TrackedSwarm, nowMs: number): boolean {
    const lease = swarm.grantAcross(this.#nextLeaseId, nowMs)
    if (lease === undefined) return false
    this.#nextLeaseId++
    this.#options.metrics.leases.inc({ kind: 'zone' })
    const { id, member, chunk, source } = lease
    this.#options.logger.debug(
      { lease: id, peer: member.channel.peerId, chunk, source: source.channel.peerId },
      'zone lease granted',
    )
    member.channel.send({
      type: 'lease-grant',
      digest: swarm.digest,
      leaseId: id,
      first: chunk,
      count: 1,
      idleLimitMs: this.#options.leaseIdleMs,
      source: source.address,
    })
    return true
  }

  #grantOne(swarm: TrackedSwarm, mayTake: TakesFirst, nowMs: number): boolean {
    if (!this.origins.hasRoom(swarm.originHost, nowMs)) return false
    const usualChunkMs = this.origins.usualChunkMs(swarm.originHost)
    const lease = swarm.grant(this.#nextLeaseId, usualChunkMs, nowMs, mayTake)
    if (lease === undefined) return false
    this.#nextLeaseId++
    const { id, first, count, kind } = lease
    this.#options.metrics.leases.inc({ kind })
    this.#options.logger.debug({ lease: id, peer: lease.member.channel.peerId, first, count, kind }, 'lease granted')
    lease.member.channel.send({
      type: 'lease-grant',
      digest: swarm.digest,
      leaseId: lease.id,
      first: lease.first,
      count: lease.count,
      idleLimitMs: this.#options.leaseIdleMs,
      source: undefined,
    })
    return true
  }
}
