// What a tracker knows of one blob: its members, which chunks are somewhere in the swarm, and who may fetch the rest
// from the origin. Decisions are the policy's; this class keeps the books. All state is soft.
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
import {
  chooseNeighbours,
  grantOriginLease,
  IndexedSet,
  MemberPool,
  usualTime,
  type LeaseCandidate,
  type MemberView,
  type Random,
  type SwarmParameters,
} from '@shoal/swarm'

/** A starved member is helped past what the books say when it has been starved for so long, in milliseconds. */
const RESCUE_AFTER_MS = 4000
/** Before the first byte a lease may wait for the origin's authentication and its queue. */
const FIRST_BYTE_FACTOR = 3
/** A lease may take so many times what its chunks usually take from this origin, and so long in any case. */
const LEASE_AGE_FACTOR = 10
const LEASE_AGE_MIN_MS = 30_000
/** A member that lets so many leases in a row lapse gets one only where nobody else would take it. */
const LAPSES_UNTIL_UNRELIABLE = 3
/** Candidates that are weighed for one lease; in a large swarm a sample is as good as all. */
const LEASE_SAMPLE = 128

/** A member of a swarm, as the tracker keeps it. */
export class Member implements LeaseCandidate, MemberView {
  readonly channel: ControlChannel
  chunks: ChunkMap
  complete = false
  credit = 0
  granted = 0
  held = 0
  chunkMs = 0
  degree = 0
  /** Since when it has had nothing to ask of its neighbours; 0 when it has not said so lately. */
  starvedSinceMs = 0
  starvedSaidMs = 0
  /** Leases in a row that it let lapse. */
  lapses = 0
  /** Others could not get what it says it has: its word on that does not count any more. */
  discredited = false
  /** Who said so. */
  readonly complainants = new Set<string>()

  constructor(channel: ControlChannel, chunkCount: number) {
    this.channel = channel
    this.chunks = new ChunkMap(chunkCount)
  }

  get address(): NodeAddress {
    return this.channel.hello.node
  }

  get zone(): string {
    return this.address.zone
  }
}

/** The right of one member to fetch some chunks from the origin. */
export interface Lease {
  readonly id: number
  readonly member: Member
  readonly first: number
  readonly count: number
  /** A rescue repeats chunks that the books say are there. */
  readonly rescue: boolean
  readonly grantedMs: number
  newsMs: number
  receivedBytes: number
}

export interface TrackedSwarmOptions {
  digest: Digest
  sizeBytes: number
  originHost: string
  parameters: Readonly<SwarmParameters>
  leaseIdleMs: number
  random: Random
}

/** The books on one blob. */
export class TrackedSwarm {
  readonly digest: Digest
  readonly sizeBytes: number
  readonly members = new Map<string, Member>()
  readonly leases = new Map<number, Lease>()
  originHost: string
  /** Number of the lease that was granted last. */
  lastLeaseId = 0
  /** When the last member left, for forgetting it. */
  emptySinceMs = 0
  readonly #options: TrackedSwarmOptions
  readonly #chunkCount: number
  /** Members known to have each chunk; complete members are counted apart. */
  readonly #copies: Uint32Array
  /** When a chunk got its first copy, in milliseconds. */
  readonly #coveredMs: Float64Array
  readonly #unleased: ChunkMap
  readonly #pool = new MemberPool<Member>()
  /** Members that would take a lease now. */
  readonly #able = new IndexedSet<Member>()
  /** Members that have had nothing to ask of their neighbours lately. */
  readonly #starved = new Set<Member>()
  #completeMembers = 0

  constructor(options: TrackedSwarmOptions) {
    this.#options = options
    this.digest = options.digest
    this.sizeBytes = options.sizeBytes
    this.originHost = options.originHost
    this.#chunkCount = chunkCountFor(options.sizeBytes)
    this.#copies = new Uint32Array(this.#chunkCount)
    this.#coveredMs = new Float64Array(this.#chunkCount)
    this.#unleased = ChunkMap.full(this.#chunkCount)
  }

  get completeMembers(): number {
    return this.#completeMembers
  }

  /** Chunks that are somewhere in the swarm. */
  get coveredChunks(): number {
    if (this.#completeMembers > 0) return this.#chunkCount
    let covered = 0
    for (const copies of this.#copies) if (copies > 0) covered++
    return covered
  }

  get chunkCount(): number {
    return this.#chunkCount
  }

  /** Whether a member could take a lease if the origin had room. */
  get wantsLeases(): boolean {
    return (this.#completeMembers === 0 && this.#unleased.count > 0) || this.#starved.size > 0
  }

  /** A member joins, or tells of itself again after a reconnect. @throws InvalidMessageError for a map that does not fit */
  join(channel: ControlChannel, message: TrackerJoin, nowMs: number): Member {
    const map = this.#mapOf(message)
    const before = this.members.get(channel.peerId)
    // The same node over a new channel: what it holds is void, what it says now counts.
    if (before !== undefined && before.channel !== channel) this.leave(channel.peerId, nowMs)
    let member = this.members.get(channel.peerId)
    if (member === undefined) {
      member = new Member(channel, this.#chunkCount)
      this.members.set(channel.peerId, member)
      this.#pool.add(member)
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
    for (const lease of [...this.leases.values()]) if (lease.member === member) this.#end(lease)
    this.members.delete(peerId)
    this.#pool.delete(member)
    this.#able.delete(member)
    this.#starved.delete(member)
    if (member.complete) this.#completeMembers--
    for (const chunk of member.chunks.indices()) this.#uncover(chunk)
    this.#recomputeUnleased()
    if (this.members.size === 0) this.emptySinceMs = nowMs
  }

  /** Chooses neighbours for a member that it does not have yet. */
  introduce(member: Member, exclude: ReadonlySet<string>, count: number): NodeAddress[] {
    const usable = (other: Member) => other !== member && !exclude.has(other.channel.peerId) && other.channel.isOpen
    const { parameters, random } = this.#options
    return chooseNeighbours(this.#pool, member.zone, count, usable, parameters, random).map((other) => {
      other.degree++
      member.degree++
      return other.address
    })
  }

  /** A member has nothing to ask of its neighbours. */
  starved(member: Member, nowMs: number): void {
    if (member.starvedSinceMs === 0 || nowMs - member.starvedSaidMs > RESCUE_AFTER_MS) member.starvedSinceMs = nowMs
    member.starvedSaidMs = nowMs
    this.#starved.add(member)
  }

  /** Grants one lease, if there is a chunk and a member for it. `usualChunkMs`: what a chunk of this origin takes. */
  grant(id: number, usualChunkMs: number, nowMs: number): Lease | undefined {
    // Leases are counted for each origin: a blob of which no member has named one has none to ask.
    if (this.originHost === '') return undefined
    return this.#grantRegular(id, usualChunkMs, nowMs) ?? this.#grantRescue(id, nowMs)
  }

  leaseProgress(id: number, peerId: string, receivedBytes: number, nowMs: number): void {
    const lease = this.leases.get(id)
    if (lease?.member.channel.peerId !== peerId || receivedBytes <= lease.receivedBytes) return
    lease.receivedBytes = receivedBytes
    lease.newsMs = nowMs
  }

  /** A lease is over: what was fetched is covered, the rest is free again. Undefined when it was not (any more) granted. */
  leaseDone(message: LeaseDone, peerId: string, nowMs: number): Lease | undefined {
    const lease = this.leases.get(message.leaseId)
    const member = this.members.get(peerId)
    if (member !== undefined) {
      // Chunks of a lease that was given to another meanwhile are there all the same.
      for (const chunk of message.fetched) if (chunk < this.#chunkCount) this.#cover(member, chunk, nowMs)
    }
    if (lease === undefined || lease.member !== member) return undefined
    this.#end(lease)
    member.lapses = 0
    if (message.failed) this.#setCredit(member, 0)
    else member.chunkMs = usualTime(member.chunkMs, (nowMs - lease.grantedMs) / lease.count)
    return lease
  }

  /**
   * Takes leases away whose holders make no progress, or only say that they do. Returns how many. `usualChunkMs`: what a
   * chunk of this origin takes, 0 while unknown.
   */
  expire(nowMs: number, usualChunkMs = 0): number {
    let expired = 0
    for (const lease of [...this.leases.values()]) {
      const limitMs = this.#options.leaseIdleMs * (lease.receivedBytes === 0 ? FIRST_BYTE_FACTOR : 1)
      const usualMs = usualChunkMs * lease.count
      const ageLimitMs = usualMs === 0 ? Infinity : Math.max(LEASE_AGE_MIN_MS, usualMs * LEASE_AGE_FACTOR)
      if (nowMs - lease.newsMs <= limitMs && nowMs - lease.grantedMs <= ageLimitMs) continue
      this.#end(lease)
      // Silent now, so it gets no other until it tells of itself again.
      this.#setCredit(lease.member, 0)
      lease.member.lapses++
      expired++
    }
    return expired
  }

  /**
   * A member could not get from another what that says it has. When `needed` different ones say so, its word does not
   * count any more: others get leases for what only it has. It may go on to take part. Returns whether that is new.
   */
  complaint(complainant: string, about: string, needed: number): boolean {
    const member = this.members.get(about)
    if (member === undefined || member.discredited || !this.members.has(complainant)) return false
    member.complainants.add(complainant)
    if (member.complainants.size < needed) return false
    member.discredited = true
    if (member.complete) this.#completeMembers--
    member.complete = false
    for (const chunk of [...member.chunks.indices()]) {
      member.chunks.delete(chunk)
      this.#uncover(chunk)
    }
    this.#recomputeUnleased()
    return true
  }

  #grantRegular(id: number, usualChunkMs: number, nowMs: number): Lease | undefined {
    if (this.#completeMembers > 0 || this.#unleased.count === 0) return undefined
    const { parameters, random } = this.#options
    const willing = this.#able.draw(LEASE_SAMPLE, ({ channel }) => channel.isOpen, random)
    const reliable = willing.filter(({ lapses }) => lapses < LAPSES_UNTIL_UNRELIABLE)
    // Somebody unreliable is better than nobody.
    const sample = reliable.length > 0 ? reliable : willing
    const incompleteMembers = this.members.size - this.#completeMembers
    const view = { unleased: this.#unleased, incompleteMembers, usualChunkMs }
    const decision = grantOriginLease(view, sample, parameters, random)
    if (decision === undefined) return undefined
    return this.#enter(id, sample[decision.candidate]!, decision.first, decision.count, false, nowMs)
  }

  /**
   * The books say that a chunk is in the swarm, but a member has been unable to get anything for a while: whoever has it
   * does not serve it. It may fetch one such chunk at a time itself.
   */
  #grantRescue(id: number, nowMs: number): Lease | undefined {
    for (const member of this.#starved) {
      const starving = nowMs - member.starvedSinceMs >= RESCUE_AFTER_MS
      if (!starving || nowMs - member.starvedSaidMs > RESCUE_AFTER_MS || member.held > 0 || member.credit === 0)
        continue
      for (let chunk = 0; chunk < this.#chunkCount; chunk++) {
        const old = nowMs - this.#coveredMs[chunk]! >= RESCUE_AFTER_MS
        if (!old || member.chunks.has(chunk) || this.#isLeased(chunk)) continue
        return this.#enter(id, member, chunk, 1, true, nowMs)
      }
    }
    return undefined
  }

  #enter(id: number, member: Member, first: number, count: number, rescue: boolean, nowMs: number): Lease {
    this.lastLeaseId = id
    const lease: Lease = { id, member, first, count, rescue, grantedMs: nowMs, newsMs: nowMs, receivedBytes: 0 }
    this.leases.set(id, lease)
    member.held++
    member.granted++
    this.#weigh(member)
    for (let chunk = first; chunk < first + count; chunk++) this.#unleased.delete(chunk)
    return lease
  }

  #end(lease: Lease): void {
    this.leases.delete(lease.id)
    lease.member.held--
    this.#weigh(lease.member)
    for (let chunk = lease.first; chunk < lease.first + lease.count; chunk++) {
      if (this.#copies[chunk] === 0) this.#unleased.add(chunk)
    }
  }

  #isLeased(chunk: number): boolean {
    for (const { first, count } of this.leases.values()) if (chunk >= first && chunk < first + count) return true
    return false
  }

  #mapOf({ chunks, complete }: TrackerJoin | TrackerProgress): ChunkMap {
    if (complete || chunks.length === 0) return new ChunkMap(this.#chunkCount)
    try {
      return ChunkMap.fromBytes(this.#chunkCount, chunks)
    } catch (error) {
      throw new InvalidMessageError(`A map of chunks that does not fit ${this.digest}`, { cause: error })
    }
  }

  #update(member: Member, message: TrackerJoin | TrackerProgress, map: ChunkMap, nowMs: number): void {
    if (member.discredited) {
      this.#setCredit(member, message.leaseCredit)
      return
    }
    if (message.complete !== member.complete) {
      member.complete = message.complete
      this.#completeMembers += message.complete ? 1 : -1
    }
    this.#setCredit(member, message.leaseCredit)
    if (message.complete) {
      this.#fed(member)
      return
    }
    let lost = false
    for (let byte = 0; byte < map.bytes.length; byte++) {
      if (map.bytes[byte] === member.chunks.bytes[byte]) continue
      for (let chunk = byte * 8; chunk < Math.min(byte * 8 + 8, this.#chunkCount); chunk++) {
        if (map.has(chunk)) this.#cover(member, chunk, nowMs)
        else if (member.chunks.delete(chunk)) {
          this.#uncover(chunk)
          lost = true
        }
      }
    }
    if (map.count > 0 && nowMs - member.starvedSaidMs > RESCUE_AFTER_MS) this.#fed(member)
    if (lost) this.#recomputeUnleased()
  }

  #setCredit(member: Member, credit: number): void {
    member.credit = credit
    this.#weigh(member)
  }

  /** Something has changed of what decides whether a member takes a lease. */
  #weigh(member: Member): void {
    const isMember = this.members.get(member.channel.peerId) === member
    if (isMember && !member.complete && member.held < member.credit) this.#able.add(member)
    else this.#able.delete(member)
  }

  #fed(member: Member): void {
    member.starvedSinceMs = 0
    this.#starved.delete(member)
  }

  #cover(member: Member, chunk: number, nowMs: number): void {
    if (member.discredited || !member.chunks.add(chunk)) return
    this.#fed(member)
    if (this.#copies[chunk]!++ === 0) this.#coveredMs[chunk] = nowMs
    this.#unleased.delete(chunk)
  }

  #uncover(chunk: number): void {
    this.#copies[chunk]!--
  }

  #recomputeUnleased(): void {
    for (let chunk = 0; chunk < this.#chunkCount; chunk++) {
      if (this.#copies[chunk] === 0 && !this.#isLeased(chunk)) this.#unleased.add(chunk)
    }
  }
}
