// Who brings which chunk of one blob into its zone, and from whom: decisions are the policy's, this class keeps the books.
import { chooseZoneSource, grantZoneLease, type MemberPool, type Random, type SwarmParameters } from '@shoal/swarm'
import type { Coverage } from './coverage.ts'
import { isIdle, type Member, type ZoneLease } from './member.ts'

/** Candidates that are weighed for one lease; in a large zone a sample is as good as all. */
const CANDIDATES = 128
/** After a zone lease that failed, holder and source have no part in another for so long, in milliseconds. */
const REST_MS = 1000

export interface ZoneLeasesOptions {
  coverage: Coverage
  members: ReadonlyMap<string, Member>
  pool: MemberPool<Member>
  parameters: Readonly<SwarmParameters>
  leaseIdleMs: number
  random: Random
}

/** The zone leases of one blob. */
export class ZoneLeases {
  readonly live = new Map<number, ZoneLease>()
  readonly #options: ZoneLeasesOptions
  /** Leases that are out for each zone. */
  readonly #outstanding = new Map<string, number>()

  constructor(options: ZoneLeasesOptions) {
    this.#options = options
  }

  /** Whether some zone lacks what another has. */
  get wanted(): boolean {
    const { zones } = this.#options.coverage
    return zones.size > 1 && zones.lacking().length > 0
  }

  /** Grants one, if a zone lacks a chunk, and there are a member to bring it and one to give it. */
  grant(id: number, nowMs: number): ZoneLease | undefined {
    const { zones } = this.#options.coverage
    if (zones.size < 2) return undefined
    for (const zone of zones.lacking()) {
      if ((this.#outstanding.get(zone) ?? 0) >= this.#options.parameters.leasesPerZone) continue
      const lease = this.#grantIn(zone, id, nowMs)
      if (lease !== undefined) return lease
    }
    return undefined
  }

  /** A lease is over. When it failed, its holder and its source have a rest from others. */
  end(lease: ZoneLease, failed: boolean, nowMs: number): void {
    const { member, source, chunk } = lease
    this.live.delete(lease.id)
    member.bringing--
    source.crossings--
    const left = this.#outstanding.get(member.zone)! - 1
    if (left === 0) this.#outstanding.delete(member.zone)
    else this.#outstanding.set(member.zone, left)
    this.#options.coverage.zones.promises(member.zone, chunk, -1)
    if (failed) for (const one of [member, source]) one.noCrossingBeforeMs = nowMs + REST_MS
  }

  /** Ends those in which a member has a part that is gone. */
  left(member: Member, nowMs: number): void {
    for (const lease of this.live.values()) {
      if (lease.member === member || lease.source === member) this.end(lease, false, nowMs)
    }
  }

  /** Takes leases away whose holders make no progress. Returns how many. */
  expire(nowMs: number): number {
    let expired = 0
    for (const lease of this.live.values()) {
      if (!isIdle(lease, this.#options.leaseIdleMs, nowMs)) continue
      this.end(lease, true, nowMs)
      expired++
    }
    return expired
  }

  #grantIn(zone: string, id: number, nowMs: number): ZoneLease | undefined {
    const { coverage, members, pool, parameters, random } = this.#options
    const { zones } = coverage
    const isFit = (one: Member) => one.channel.isOpen && nowMs >= one.noCrossingBeforeMs
    const candidates = pool.drawFrom(zone, CANDIDATES, (one) => !one.complete && isFit(one), random)
    const view = { wanted: zones.wanted(zone), incompleteMembers: zones.incompleteMembers(zone) }
    const decision = grantZoneLease(view, candidates, parameters, random)
    if (decision === undefined) return undefined
    const { candidate, chunk } = decision
    const sources: Member[] = []
    for (const one of members.values()) {
      if (one.zone === zone || one.discredited || !isFit(one)) continue
      if (one.complete || one.chunks.has(chunk)) sources.push(one)
    }
    const source = sources[chooseZoneSource(sources, random)]
    if (source === undefined) return undefined
    const member = candidates[candidate]!
    const lease: ZoneLease = { id, member, source, chunk, grantedMs: nowMs, newsMs: nowMs, receivedBytes: 0 }
    this.live.set(id, lease)
    member.granted++
    member.bringing++
    source.crossings++
    this.#outstanding.set(zone, (this.#outstanding.get(zone) ?? 0) + 1)
    zones.promises(zone, chunk, 1)
    return lease
  }
}
