// Who may fetch which chunks of one blob from the origin: decisions are the policy's, this class keeps the books.
import { ChunkMap } from '@shoal/store'
import { grantOriginLease, IndexedSet, isLeaseLate, rescueOf, type Random, type SwarmParameters } from '@shoal/swarm'
import type { Coverage } from './coverage.ts'
import { isFor, isIdle, type Lapse, type Lease, type LeaseKind, type Member } from './member.ts'
import type { LapsedMembers } from './lapsed-members.ts'
import type { RescuedMembers } from './rescued-members.ts'

/** What a member says of being starved holds for so long, in milliseconds. */
export const STARVED_SAID_MS = 4000
/** After nobody was found to help, the starved are looked through again in so many milliseconds: there may be thousands. */
const RESCUE_PAUSE_MS = 100
/** A lease may take so many times what its chunks usually take from this origin, and so long in any case. */
const LEASE_AGE_FACTOR = 10
const LEASE_AGE_MIN_MS = 30_000
/** While that is unknown, a chunk may take so long: over a link of 35 kB/s it does. */
const LEASE_AGE_UNKNOWN_MS = 120_000
/** Candidates that are weighed for one lease; in a large swarm a sample is as good as all. */
const LEASE_SAMPLE = 128

export interface OriginLeasesOptions {
  coverage: Coverage
  members: ReadonlyMap<string, Member>
  parameters: Readonly<SwarmParameters>
  leaseIdleMs: number
  random: Random
  /** A member has lost a lease. */
  onLapse: (lease: Lease, how: Lapse) => void
  rescued: RescuedMembers
  /** Registry host that the blob comes from. */
  host: () => string
  lapsed: LapsedMembers
  /** A member holds a lease more, or less. */
  onCount: (peerId: string, by: 1 | -1) => void
  /** Whether a member holds more leases of the origin than its share while another node waits for one. */
  isHoarding: (peerId: string, nowMs: number) => boolean
}

/** Whether a member is among those who get leases first. */
export type TakesFirst = (peerId: string) => boolean

/** The origin leases of one blob. */
export class OriginLeases {
  readonly live = new Map<number, Lease>()
  /** Number of the lease that was granted last. */
  lastId = 0
  readonly #options: OriginLeasesOptions
  /** Chunks that no incomplete member has and nobody holds a lease for. */
  readonly #unleased: ChunkMap
  /** Members that would take a lease now. */
  readonly #able = new IndexedSet<Member>()
  /** Members that have had nothing to ask of their neighbours lately. */
  readonly #starved = new Set<Member>()
  #noRescueBeforeMs = 0

  constructor(options: OriginLeasesOptions) {
    this.#options = options
    this.#unleased = ChunkMap.full(options.coverage.chunkCount)
  }

  /** Whether a member could take a lease if the origin had room. */
  get wanted(): boolean {
    const isIncomplete = this.#options.coverage.completeMembers === 0
    return (isIncomplete && (this.#unleased.count > 0 || this.live.size > 0)) || this.#starved.size > 0
  }

  /** Grants one, if there is a chunk and a member for it that may take one. `usualChunkMs`: what a chunk of this origin takes. */
  grant(id: number, usualChunkMs: number, nowMs: number, mayTake: TakesFirst): Lease | undefined {
    return (
      this.#grantRegular(id, usualChunkMs, nowMs, mayTake) ??
      this.#grantSecond(id, usualChunkMs, nowMs, mayTake) ??
      this.#grantRescue(id, usualChunkMs, nowMs, mayTake)
    )
  }

  /** Whether a member without a lease would get one if the origin had room. A sample of them is looked at. */
  isAwaited(mayTake: TakesFirst): boolean {
    const { coverage, random } = this.#options
    if (coverage.completeMembers > 0 || this.#unleased.count === 0) return false
    const waits = ({ channel, discredited, held }: Member) =>
      channel.isOpen && !discredited && held === 0 && mayTake(channel.peerId)
    return this.#able.draw(1, waits, random).length > 0
  }

  /** Its holder has brought none of a lease, or not all. */
  failed({ member }: Lease): void {
    this.#options.lapsed.lapsed(this.#options.host(), member.channel.peerId)
    // It gets no other until it tells of itself again.
    this.setCredit(member, 0)
  }

  brought({ member }: Lease): void {
    this.#options.lapsed.brought(this.#options.host(), member.channel.peerId)
  }

  /** A lease is over; what was not fetched under it is free again. */
  end(lease: Lease): void {
    this.live.delete(lease.id)
    this.#options.onCount(lease.member.channel.peerId, -1)
    lease.member.held--
    if (lease.member.rescue === lease) lease.member.rescue = undefined
    this.weigh(lease.member)
    const { coverage } = this.#options
    for (let chunk = lease.first; chunk < lease.first + lease.count; chunk++) {
      coverage.zones.promises(lease.member.zone, chunk, -1)
      if (!coverage.hasCopy(chunk) && !this.#isLeased(chunk)) this.#unleased.add(chunk)
    }
  }

  /** Takes leases away whose holders make no progress, or only say that they do. Returns how many. */
  expire(nowMs: number, usualChunkMs: number): number {
    let expired = 0
    for (const lease of [...this.live.values()]) {
      const how = this.#lapseOf(lease, usualChunkMs, nowMs)
      if (how === undefined) continue
      this.end(lease)
      this.failed(lease)
      expired++
      this.#options.onLapse(lease, how)
    }
    return expired
  }

  #lapseOf(lease: Lease, usualChunkMs: number, nowMs: number): Lapse | undefined {
    const { coverage, isHoarding, leaseIdleMs, parameters } = this.#options
    if (isIdle(lease, leaseIdleMs, nowMs)) return 'idle'
    const usualMs = usualChunkMs === 0 ? LEASE_AGE_UNKNOWN_MS : usualChunkMs * LEASE_AGE_FACTOR
    if (nowMs - lease.grantedMs > Math.max(LEASE_AGE_MIN_MS, usualMs * lease.count)) return 'too_old'
    if (!isLeaseLate(lease, usualChunkMs, parameters, nowMs)) return undefined
    if (lease.kind === 'regular' && chunksOf(lease).every((chunk) => coverage.hasCopy(chunk))) return 'overtaken'
    return isHoarding(lease.member.channel.peerId, nowMs) ? 'hoarded' : undefined
  }

  /** Whether a member holds a lease of a chunk. */
  isFetching(member: Member, chunk: number): boolean {
    for (const lease of this.live.values()) if (lease.member === member && isFor(lease, chunk)) return true
    return false
  }

  /** A member is gone: what it held, and what it alone had, is free again. */
  left(member: Member): void {
    for (const lease of [...this.live.values()]) if (lease.member === member) this.end(lease)
    this.#able.delete(member)
    this.#starved.delete(member)
  }

  setCredit(member: Member, credit: number): void {
    member.credit = credit
    this.weigh(member)
  }

  /** Something has changed of what decides whether a member takes a lease. */
  weigh(member: Member): void {
    const isMember = this.#options.members.get(member.channel.peerId) === member
    if (isMember && !member.complete && member.held < member.credit) this.#able.add(member)
    else this.#able.delete(member)
  }

  /** A member has nothing to ask of its neighbours. */
  starved(member: Member, nowMs: number): void {
    if (member.starvedSinceMs === 0 || nowMs - member.starvedSaidMs > STARVED_SAID_MS) member.starvedSinceMs = nowMs
    member.starvedSaidMs = nowMs
    this.#starved.add(member)
  }

  /** A member has got something. */
  fed(member: Member): void {
    member.starvedSinceMs = 0
    if (member.rescue === undefined) member.rescues = member.rescuedElsewhere = 0
    this.#starved.delete(member)
  }

  /** A member has a chunk: nobody needs a lease for it. */
  covered(chunk: number): void {
    this.#unleased.delete(chunk)
  }

  /** A chunk has lost its last copy. */
  uncovered(chunk: number): void {
    if (!this.#isLeased(chunk)) this.#unleased.add(chunk)
  }

  #grantRegular(id: number, usualChunkMs: number, nowMs: number, mayTake: TakesFirst): Lease | undefined {
    const { coverage, members, parameters, random } = this.#options
    if (coverage.completeMembers > 0 || this.#unleased.count === 0) return undefined
    // What a discredited member fetches counts for nobody: while others wait, the origin's time is theirs.
    const isAwaited = this.#isAwaited()
    const isUsable = ({ channel, discredited }: Member) =>
      channel.isOpen && !(discredited && isAwaited) && mayTake(channel.peerId)
    const willing = this.#able.draw(LEASE_SAMPLE, isUsable, random)
    const reliable = willing.filter((member) => this.#isReliable(member))
    // Somebody unreliable is better than nobody.
    const sample = reliable.length > 0 ? reliable : willing
    const view = { unleased: this.#unleased, incompleteMembers: members.size, usualChunkMs }
    const decision = grantOriginLease(view, sample, parameters, random)
    if (decision === undefined) return undefined
    return this.#enter(id, sample[decision.candidate]!, decision.first, decision.count, 'regular', nowMs)
  }

  /** Nothing else is left to fetch: what the holder of a late lease has not brought, another fetches as well. */
  #grantSecond(id: number, usualChunkMs: number, nowMs: number, mayTake: TakesFirst): Lease | undefined {
    const { coverage, members, parameters, random } = this.#options
    if (coverage.completeMembers > 0 || this.#unleased.count > 0) return undefined
    const late = new ChunkMap(coverage.chunkCount)
    const holders = new Set<Member>()
    for (const lease of this.live.values()) {
      if (lease.kind !== 'regular' || !isLeaseLate(lease, usualChunkMs, parameters, nowMs)) continue
      holders.add(lease.member)
      for (const chunk of chunksOf(lease)) if (!coverage.hasCopy(chunk)) late.add(chunk)
    }
    for (const lease of this.live.values())
      if (lease.kind !== 'regular') for (const chunk of chunksOf(lease)) late.delete(chunk)
    if (late.count === 0) return undefined
    const isUsable = (member: Member) =>
      member.channel.isOpen && this.#isReliable(member) && !holders.has(member) && mayTake(member.channel.peerId)
    const sample = this.#able.draw(LEASE_SAMPLE, isUsable, random)
    const view = { unleased: late, incompleteMembers: members.size, usualChunkMs }
    const decision = grantOriginLease(view, sample, parameters, random)
    if (decision === undefined) return undefined
    return this.#enter(id, sample[decision.candidate]!, decision.first, decision.count, 'second', nowMs)
  }

  /** The books say that chunks are in the swarm, but a member has been unable to get any for a while. */
  #grantRescue(id: number, usualChunkMs: number, nowMs: number, mayTake: TakesFirst): Lease | undefined {
    if (nowMs < this.#noRescueBeforeMs) return undefined
    let isPutOff = false
    for (const member of this.#starved) {
      if (nowMs - member.starvedSaidMs > STARVED_SAID_MS) {
        this.#starved.delete(member)
        continue
      }
      if (!mayTake(member.channel.peerId)) {
        isPutOff = true
        continue
      }
      const othersWait = member.discredited && this.#isAwaited()
      const { starvedMs, coveredMs, chunks } = rescueOf(member, usualChunkMs, othersWait)
      if (nowMs - member.starvedSinceMs < starvedMs || member.held > 0 || member.credit === 0) continue
      const run = this.#rescueRun(member, chunks, nowMs - coveredMs)
      if (run === undefined) continue
      member.rescues++
      this.#options.rescued.note(member.channel.peerId, member.rescuedElsewhere + member.rescues)
      return (member.rescue = this.#enter(id, member, run.first, run.count, 'rescue', nowMs))
    }
    if (!isPutOff) this.#noRescueBeforeMs = nowMs + RESCUE_PAUSE_MS
    return undefined
  }

  /** Whether a member whose word counts lacks something. */
  #isAwaited(): boolean {
    for (const { complete, discredited } of this.#options.members.values()) if (!complete && !discredited) return true
    return false
  }

  /** The first chunks in a row that a member lacks, that were to be had elsewhere by then, and that nobody is bringing. */
  #rescueRun(member: Member, most: number, coveredByMs: number): { first: number; count: number } | undefined {
    const { coverage } = this.#options
    const isDue = (chunk: number): boolean =>
      chunk < coverage.chunkCount &&
      coverage.coveredMs(chunk) <= coveredByMs &&
      !member.chunks.has(chunk) &&
      !this.#isLeased(chunk) &&
      !coverage.zones.isPromised(member.zone, chunk)
    for (let first = 0; first < coverage.chunkCount; first++) {
      if (!isDue(first)) continue
      let count = 1
      while (count < most && isDue(first + count)) count++
      return { first, count }
    }
    return undefined
  }

  #enter(id: number, member: Member, first: number, count: number, kind: LeaseKind, nowMs: number): Lease {
    this.lastId = id
    const lease: Lease = { id, member, first, count, kind, grantedMs: nowMs, newsMs: nowMs, receivedBytes: 0 }
    this.live.set(id, lease)
    this.#options.onCount(member.channel.peerId, 1)
    member.held++
    member.granted++
    this.weigh(member)
    for (let chunk = first; chunk < first + count; chunk++) {
      this.#unleased.delete(chunk)
      this.#options.coverage.zones.promises(member.zone, chunk, 1)
    }
    return lease
  }

  #isReliable({ channel, discredited }: Member): boolean {
    return !discredited && this.#options.lapsed.isReliable(this.#options.host(), channel.peerId)
  }

  #isLeased(chunk: number): boolean {
    for (const lease of this.live.values()) if (isFor(lease, chunk)) return true
    return false
  }
}

function chunksOf({ first, count }: Lease): number[] {
  return Array.from({ length: count }, (_, at) => first + at)
}
