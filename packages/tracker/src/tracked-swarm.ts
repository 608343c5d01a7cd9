// What a tracker knows of one blob: its members, which chunks are where in the swarm, who may fetch the rest from the origin,
// and who brings what from zone to zone. All state is soft.
import type { Digest } from '@shoal/oci'
import {
  InvalidMessageError,
  type ControlChannel,
  type LeaseDone,
  type NodeAddress,
  type TrackerJoin,
  type TrackerProgress,
} from '@shoal/network'
import { ChunkMap, chunkCountFor } from '@shoal/store'
import { chooseNeighbours, isBrought, MemberPool, usualTime, type Random, type SwarmParameters } from '@shoal/swarm'
import { Coverage } from './coverage.ts'
import { FirstCopies } from './first-copies.ts'
import { isFor, Member, noteProgress, type Lapse, type Lease, type ZoneLease } from './member.ts'
import { OriginLeases, STARVED_SAID_MS, type TakesFirst } from './origin-leases.ts'
import type { LapsedMembers } from './lapsed-members.ts'
import type { RescuedMembers } from './rescued-members.ts'
import { ZoneLeases } from './zone-leases.ts'

export interface TrackedSwarmOptions {
  digest: Digest
  sizeBytes: number
  originHost: string
  parameters: Readonly<SwarmParameters>
  leaseIdleMs: number
  random: Random
  /** A member has lost a lease at the origin. */
  onLapse?: ((lease: Lease, how: Lapse) => void) | undefined
  /** A member gives nobody what it fetches under leases: its word does not count any more. */
  onWithheld?: ((peerId: string) => void) | undefined
  /** Members that had to be rescued, in any swarm. */
  rescued: RescuedMembers
  /** Members that did not use their leases, in any swarm. */
  lapsed: LapsedMembers
  /** A member holds a lease at the origin more, or less. */
  onCount?: ((peerId: string, by: 1 | -1) => void) | undefined
  /** Whether a node holds more leases of the origin than its share while another waits for one. @default nobody does */
  isHoarding?: ((peerId: string, nowMs: number) => boolean) | undefined
}

/** A lease at the origin that its holder says is over. */
export interface LeaseOutcome {
  readonly lease: Lease
  /** Whether all of its chunks are here now. */
  readonly isBrought: boolean
}

/** The books on one blob. */
export class TrackedSwarm {
  readonly digest: Digest
  readonly sizeBytes: number
  readonly members = new Map<string, Member>()
  originHost: string
  /** When the last member left, for forgetting it. */
  emptySinceMs = 0
  readonly #options: TrackedSwarmOptions
  readonly #pool = new MemberPool<Member>()
  readonly #coverage: Coverage
  readonly #firstCopies: FirstCopies
  readonly #originLeases: OriginLeases
  readonly #zoneLeases: ZoneLeases

  constructor(options: TrackedSwarmOptions) {
    const { parameters, leaseIdleMs, random, rescued, lapsed } = options
    const { onLapse = () => undefined, onCount = () => undefined, isHoarding = () => false } = options
    const { members } = this
    this.#options = options
    this.digest = options.digest
    this.sizeBytes = options.sizeBytes
    this.originHost = options.originHost
    const coverage = new Coverage(chunkCountFor(options.sizeBytes))
    this.#coverage = coverage
    const books = { coverage, members, parameters, leaseIdleMs, random }
    const host = () => this.originHost
    this.#originLeases = new OriginLeases({ ...books, host, rescued, lapsed, onLapse, onCount, isHoarding })
    this.#firstCopies = new FirstCopies((member, chunk) => this.#originLeases.isFetching(member, chunk))
    this.#zoneLeases = new ZoneLeases({ ...books, pool: this.#pool })
  }

  get completeMembers(): number {
    return this.#coverage.completeMembers
  }

  /** Chunks that are somewhere in the swarm. */
  get coveredChunks(): number {
    return this.#coverage.count
  }

  get chunkCount(): number {
    return this.#coverage.chunkCount
  }

  /** Leases at the origin that are out. */
  get leases(): ReadonlyMap<number, Lease> {
    return this.#originLeases.live
  }

  /** Leases across borders that are out. */
  get zoneLeases(): ReadonlyMap<number, ZoneLease> {
    return this.#zoneLeases.live
  }

  /** Number of the origin lease that was granted last. */
  get lastLeaseId(): number {
    return this.#originLeases.lastId
  }

  /** Whether a member could take a lease if the origin had room. */
  get wantsLeases(): boolean {
    return this.#originLeases.wanted
  }

  /** Whether all members have everything: nothing happens here before one of them says something. */
  get isIdle(): boolean {
    return this.completeMembers === this.members.size && this.leases.size === 0 && this.zoneLeases.size === 0
  }

  /** Whether some zone lacks what another has. */
  get wantsZoneLeases(): boolean {
    return this.#zoneLeases.wanted
  }

  /** A member joins, or tells of itself again after a reconnect. @throws InvalidMessageError for a map that does not fit */
  join(channel: ControlChannel, message: TrackerJoin, nowMs: number): Member {
    const map = this.#mapOf(message)
    const before = this.members.get(channel.peerId)
    // The same node over a new channel: what it holds is void, what it says now counts.
    if (before !== undefined && before.channel !== channel) this.leave(channel.peerId, nowMs)
    let member = this.members.get(channel.peerId)
    if (member === undefined) {
      member = new Member(channel, this.chunkCount)
      member.rescuedElsewhere = this.#options.rescued.of(channel.peerId)
      this.members.set(channel.peerId, member)
      this.#pool.add(member)
      this.#coverage.zones.joins(member.zone)
    }
    if (message.originHost !== '' && this.originHost === '') this.originHost = message.originHost
    this.#update(member, message, map, nowMs)
    return member
  }

  /** What a member has by now. @throws InvalidMessageError for a map that does not fit */
  progress(peerId: string, message: TrackerProgress, nowMs: number): void {
    const member = this.members.get(peerId)
    if (member !== undefined) this.#update(member, message, this.#mapOf(message), nowMs)
  }

  leave(peerId: string, nowMs: number): void {
    const member = this.members.get(peerId)
    if (member === undefined) return
    this.members.delete(peerId)
    this.#pool.delete(member)
    this.#originLeases.left(member)
    this.#zoneLeases.left(member, nowMs)
    this.#forget(member)
    this.#firstCopies.left(member)
    this.#coverage.zones.leaves(member.zone)
    if (this.members.size === 0) this.emptySinceMs = nowMs
  }

  /** Chooses neighbours for a member that it does not have yet. */
  introduce(member: Member, exclude: ReadonlySet<string>, count: number): NodeAddress[] {
    const { parameters, random } = this.#options
    const excluded = new Set([member])
    for (const peerId of exclude) {
      const known = this.members.get(peerId)
      if (known !== undefined) excluded.add(known)
    }
    return chooseNeighbours(this.#pool, member.zone, count, excluded, parameters, random)
      .filter(({ channel }) => channel.isOpen)
      .map((other) => {
        this.#pool.raiseDegree(other)
        this.#pool.raiseDegree(member)
        return other.address
      })
  }

  /** A member has nothing to ask of its neighbours. */
  starved(member: Member, nowMs: number): void {
    this.#originLeases.starved(member, nowMs)
  }

  /**
   * Grants one lease, if there is a chunk and a member for it. `usualChunkMs`: what a chunk of this origin takes.
   * @param mayTake who may have it; @default anybody
   */
  grant(id: number, usualChunkMs: number, nowMs: number, mayTake: TakesFirst = () => true): Lease | undefined {
    // Leases are counted for each origin: a blob of which no member has named one has none to ask.
    if (this.originHost === '') return undefined
    return this.#originLeases.grant(id, usualChunkMs, nowMs, mayTake)
  }

  /** Whether a member without a lease would get one if the origin had room. */
  isAwaited(mayTake: TakesFirst): boolean {
    return this.originHost !== '' && this.#originLeases.isAwaited(mayTake)
  }

  /** Grants one zone lease, if a zone lacks what another has. */
  grantAcross(id: number, nowMs: number): ZoneLease | undefined {
    return this.#zoneLeases.grant(id, nowMs)
  }

  leaseProgress(id: number, peerId: string, receivedBytes: number, nowMs: number): void {
    noteProgress(this.leases.get(id) ?? this.zoneLeases.get(id), peerId, receivedBytes, nowMs)
  }

  /**
   * A lease is over: what was fetched is covered, the rest is free again. Returns what became of it when it was one at the origin
   * that was still out.
   */
  leaseDone(message: LeaseDone, peerId: string, nowMs: number): LeaseOutcome | undefined {
    const lease = this.leases.get(message.leaseId)
    const member = this.members.get(peerId)
    if (member !== undefined) {
      // Chunks of a lease that was given to another meanwhile are there all the same.
      for (const chunk of message.fetched) if (chunk < this.chunkCount) this.#cover(member, chunk, nowMs)
    }
    if (lease !== undefined && lease.member === member) this.#noteFirstCopies(lease, message.fetched, nowMs)
    const crossing = this.zoneLeases.get(message.leaseId)
    if (crossing !== undefined && crossing.member === member) {
      const failed = message.failed || !message.fetched.includes(crossing.chunk)
      this.#zoneLeases.end(crossing, failed, nowMs)
    }
    if (lease === undefined || lease.member !== member) return undefined
    this.#originLeases.end(lease)
    // Its word that all went well does not count: what was not brought has failed.
    if (message.failed || !isBrought(lease, message.fetched)) {
      this.#originLeases.failed(lease)
      return { lease, isBrought: false }
    }
    this.#originLeases.brought(lease)
    member.chunkMs = usualTime(member.chunkMs, (nowMs - lease.grantedMs) / lease.count)
    return { lease, isBrought: true }
  }

  /**
   * Takes leases away whose holders make no progress, or only say that they do. Returns how many of them were at the
   * origin. `usualChunkMs`: what a chunk of this origin takes, 0 while unknown.
   */
  expire(nowMs: number, usualChunkMs = 0): number {
    this.#zoneLeases.expire(nowMs)
    for (const member of this.#firstCopies.withholders(nowMs, usualChunkMs)) {
      this.#discredit(member)
      this.#options.onWithheld?.(member.channel.peerId)
    }
    return this.#originLeases.expire(nowMs, usualChunkMs)
  }

  /**
   * A member could not get from another what that says it has. When `needed` different ones say so, its word does not
   * count any more: others get leases for what only it has. It may go on to take part. Returns whether that is new.
   */
  complaint(complainant: string, about: string, needed: number): boolean {
    const member = this.members.get(about)
    if (member === undefined || member.discredited || !this.members.has(complainant)) return false
    if (member.complain(complainant) < needed) return false
    this.#discredit(member)
    return true
  }

  #discredit(member: Member): void {
    this.#forget(member)
    member.discredited = true
  }

  /** It was wrong not to count on a member: what it says next counts again. */
  #clear(member: Member): void {
    member.discredited = false
    for (const chunk of [...member.chunks.indices()]) member.chunks.delete(chunk)
  }

  /** Nothing of what a member has counts any more. */
  #forget(member: Member): void {
    for (const chunk of this.#coverage.forget(member)) this.#uncovered(chunk)
  }

  /** A chunk has lost its last copy. */
  #uncovered(chunk: number): void {
    this.#firstCopies.uncovered(chunk)
    this.#originLeases.uncovered(chunk)
  }

  #noteFirstCopies(lease: Lease, fetched: readonly number[], nowMs: number): void {
    const { member, kind } = lease
    // What a rescued member fetches others have already.
    if (member.discredited || kind !== 'regular') return
    for (const chunk of fetched) {
      if (isFor(lease, chunk) && this.#coverage.copiesOf(chunk) === 1) this.#firstCopies.brought(chunk, member, nowMs)
    }
  }

  /** Undefined for a map without chunks. */
  #mapOf({ chunks, complete }: TrackerJoin | TrackerProgress): ChunkMap | undefined {
    if (complete || chunks.length === 0) return undefined
    try {
      return ChunkMap.fromBytes(this.chunkCount, chunks)
    } catch (error) {
      throw new InvalidMessageError(`A map of chunks that does not fit ${this.digest}`, { cause: error })
    }
  }

  #update(member: Member, message: TrackerJoin | TrackerProgress, map: ChunkMap | undefined, nowMs: number): void {
    if (!member.discredited) this.#setComplete(member, message.complete, nowMs)
    this.#originLeases.setCredit(member, message.leaseCredit)
    if (message.complete) {
      this.#originLeases.fed(member)
      return
    }
    if (map === undefined && member.chunksTold === 0) return
    const words = map?.words
    for (let word = 0; word < member.chunks.words.length; word++) {
      if ((words?.[word] ?? 0) === member.chunks.words[word]) continue
      for (let chunk = word * 32; chunk < Math.min(word * 32 + 32, this.chunkCount); chunk++) {
        if (map?.has(chunk) === true) this.#cover(member, chunk, nowMs)
        else if (this.#coverage.uncover(member, chunk)) this.#uncovered(chunk)
      }
    }
    if ((map?.count ?? 0) > 0 && nowMs - member.starvedSaidMs > STARVED_SAID_MS) this.#originLeases.fed(member)
  }

  #setComplete(member: Member, complete: boolean, nowMs: number): void {
    if (member.complete === complete) return
    this.#coverage.setComplete(member, complete)
    if (!complete) return
    for (const cleared of this.#firstCopies.allCovered(member, nowMs)) this.#clear(cleared)
  }

  #cover(member: Member, chunk: number, nowMs: number): void {
    if (!this.#coverage.cover(member, chunk, nowMs)) return
    this.#originLeases.fed(member)
    if (member.discredited) return
    this.#originLeases.covered(chunk)
    const cleared = this.#firstCopies.covered(chunk, member, nowMs)
    if (cleared !== undefined) this.#clear(cleared)
  }
}
