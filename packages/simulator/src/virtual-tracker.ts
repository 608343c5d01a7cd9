// The tracker of a virtual cluster: its books, and the daemon's own decisions on neighbours and leases.
import { ChunkMap } from '@shoal/store'
import {
  chooseNeighbours,
  chooseZoneSource,
  grantOriginLease,
  grantZoneLease,
  MemberPool,
  originLeaseLimit,
  usualTime,
  ZoneBooks,
  type LeaseCandidate,
  type Random,
  type ZoneCandidate,
  type ZoneSource,
} from '@shoal/swarm/policy'
import type { BlobShape, World } from './world.ts'

/** A holder that tells of no progress for so long loses its lease (the daemon's `leaseIdle`). */
const LEASE_IDLE_MS = 2000

interface Member extends LeaseCandidate, ZoneCandidate, ZoneSource {
  readonly node: number
  readonly zone: string
  chunks: ChunkMap
  granted: number
  held: number
  bringing: number
  chunkMs: number
  crossings: number
  wants: boolean
}

interface Lease {
  readonly swarm: Swarm
  readonly member: Member
  readonly chunks: number[]
  /** The member of another zone that has the chunk; undefined for the origin. */
  readonly source: Member | undefined
  readonly grantedMs: number
  heardMs: number
  over: boolean
}

interface Swarm {
  readonly shape: BlobShape
  readonly members: Map<number, Member>
  readonly pool: MemberPool<Member>
  /** Chunks that no member has and nobody holds a lease for. */
  readonly unleased: ChunkMap
  /** Members that have each chunk. */
  readonly copies: Uint32Array
  readonly zones: ZoneBooks
  /** Zone leases that are out for each zone. */
  readonly crossings: Map<string, number>
}

/** What a lease says to its holder. */
export interface Grant {
  readonly blob: number
  readonly chunks: number[]
  /** Node of another zone to fetch from; undefined for the origin. */
  readonly source: number | undefined
  /** Tells the tracker that bytes have come. */
  progress(): void
  /** Ends it: these chunks are here, the rest goes to others. */
  done(fetched: number[]): void
}

/** One tracker for all blobs. Calls on it are messages that have arrived. */
export class VirtualTracker {
  readonly #world: World
  readonly #random: Random
  readonly #swarms: Swarm[]
  /** Leases at the origin. */
  readonly #leases = new Set<Lease>()
  readonly #zoneLeases = new Set<Lease>()
  messages = 0
  /** Moving average of the time from a grant to a chunk of it. */
  #usualChunkMs = 0

  constructor(world: World, random: Random) {
    this.#world = world
    this.#random = random
    this.#swarms = world.blobs.map((shape) => ({
      shape,
      members: new Map<number, Member>(),
      pool: new MemberPool<Member>(),
      unleased: ChunkMap.full(shape.chunkCount),
      copies: new Uint32Array(shape.chunkCount),
      zones: new ZoneBooks(shape.chunkCount),
      crossings: new Map<string, number>(),
    }))
  }

  /** A node wants a blob; it is answered with neighbours. */
  join(node: number, blob: number, zone: number): void {
    this.messages++
    const swarm = this.#swarms[blob]!
    const member: Member = {
      node,
      zone: String(zone),
      chunks: new ChunkMap(swarm.shape.chunkCount),
      granted: 0,
      held: 0,
      bringing: 0,
      chunkMs: 0,
      crossings: 0,
      wants: true,
    }
    swarm.zones.joins(member.zone)
    swarm.members.set(node, member)
    swarm.pool.add(member)
    this.#introduce(swarm, member, [], this.#world.parameters.introducedNeighbours)
    this.#grant()
  }

  peersWanted(node: number, blob: number, exclude: number[], count: number): void {
    this.messages++
    const swarm = this.#swarms[blob]!
    const member = swarm.members.get(node)
    if (member !== undefined) this.#introduce(swarm, member, exclude, count)
  }

  /** What a member has by now. */
  progress(node: number, blob: number, chunks: ChunkMap): void {
    this.messages++
    const member = this.#swarms[blob]!.members.get(node)
    if (member !== undefined) this.#has(this.#swarms[blob]!, member, chunks)
  }

  /** The channel to a node has broken. */
  lost(node: number): void {
    for (const swarm of this.#swarms) {
      const member = swarm.members.get(node)
      if (member === undefined) continue
      swarm.members.delete(node)
      swarm.pool.delete(member)
      for (const lease of [...this.#leases, ...this.#zoneLeases]) if (lease.member === member) this.#end(lease, [])
      for (const chunk of member.chunks.indices()) {
        swarm.zones.copies(member.zone, chunk, -1)
        if (--swarm.copies[chunk]! === 0) swarm.unleased.add(chunk)
      }
      swarm.zones.leaves(member.zone)
    }
    this.#grant()
  }

  #introduce(swarm: Swarm, member: Member, exclude: number[], count: number): void {
    const excluded = new Set([member, ...exclude.flatMap((node) => swarm.members.get(node) ?? [])])
    const { parameters } = this.#world
    const chosen = chooseNeighbours(swarm.pool, member.zone, count, excluded, parameters, this.#random)
    for (const other of chosen) {
      swarm.pool.raiseDegree(other)
      swarm.pool.raiseDegree(member)
    }
    const nodes = chosen.map((other) => other.node)
    this.messages++
    this.#world.fromTracker(member.node, () => this.#world.node(member.node)?.introduced(swarm.shape.index, nodes))
  }

  /** Gives out leases as long as there are any to give and there is room for them. */
  #grant(): void {
    const { parameters } = this.#world
    while (this.#leases.size < originLeaseLimit(this.#usualChunkMs, parameters)) {
      const open = this.#swarms.filter((swarm) => swarm.unleased.count > 0)
      if (open.length === 0 || !open.some((swarm) => this.#grantOrigin(swarm))) break
    }
    for (const swarm of this.#swarms) {
      for (const zone of swarm.zones.lacking()) {
        while ((swarm.crossings.get(zone) ?? 0) < parameters.leasesPerZone && this.#grantAcross(swarm, zone)) continue
      }
    }
  }

  #grantOrigin(swarm: Swarm): boolean {
    const candidates = [...swarm.members.values()].filter((member) => member.wants)
    const { parameters } = this.#world
    const { length: incompleteMembers } = candidates
    const view = { unleased: swarm.unleased, incompleteMembers, usualChunkMs: this.#usualChunkMs }
    const decision = grantOriginLease(view, candidates, parameters, this.#random)
    if (decision === undefined) return false
    const member = candidates[decision.candidate]!
    const chunks = Array.from({ length: decision.count }, (_, at) => decision.first + at)
    for (const chunk of chunks) swarm.unleased.delete(chunk)
    this.#enter(swarm, member, chunks, undefined)
    return true
  }

  /** One chunk into a zone, from a member of another one. */
  #grantAcross(swarm: Swarm, zone: string): boolean {
    const members = [...swarm.members.values()]
    const candidates = members.filter((member) => member.wants && member.zone === zone)
    const view = { wanted: swarm.zones.wanted(zone), incompleteMembers: candidates.length }
    const decision = grantZoneLease(view, candidates, this.#world.parameters, this.#random)
    if (decision === undefined) return false
    const { candidate, chunk } = decision
    const sources = members.filter((member) => member.zone !== zone && member.chunks.has(chunk))
    const source = sources[chooseZoneSource(sources, this.#random)]
    if (source === undefined) throw new Error(`chunk ${chunk} is wanted across a border but nobody has it`)
    this.#enter(swarm, candidates[candidate]!, [chunk], source)
    return true
  }

  #enter(swarm: Swarm, member: Member, chunks: number[], source: Member | undefined): void {
    member.granted++
    if (source === undefined) member.held++
    else {
      member.bringing++
      source.crossings++
      swarm.crossings.set(member.zone, (swarm.crossings.get(member.zone) ?? 0) + 1)
    }
    for (const chunk of chunks) swarm.zones.promises(member.zone, chunk, 1)
    const now = this.#world.nowMs
    const lease: Lease = { swarm, member, chunks, source, grantedMs: now, heardMs: now, over: false }
    const leases = source === undefined ? this.#leases : this.#zoneLeases
    leases.add(lease)
    this.#watch(lease)
    const grant: Grant = {
      blob: swarm.shape.index,
      chunks,
      source: source?.node,
      progress: () => {
        this.#world.toTracker(member.node, () => {
          this.messages++
          lease.heardMs = this.#world.nowMs
        })
      },
      done: (fetched) => {
        this.#world.toTracker(member.node, () => {
          this.messages++
          if (fetched.length > 0 && source === undefined) this.#took(member, (this.#world.nowMs - now) / fetched.length)
          this.#end(lease, fetched)
          this.#grant()
        })
      },
    }
    this.messages++
    this.#world.fromTracker(member.node, () => this.#world.node(member.node)?.runs.leased(grant))
  }

  #took(member: Member, chunkMs: number): void {
    member.chunkMs = usualTime(member.chunkMs, chunkMs)
    this.#usualChunkMs = usualTime(this.#usualChunkMs, chunkMs)
  }

  #watch(lease: Lease): void {
    const silentMs = this.#world.nowMs - lease.heardMs
    this.#world.after(LEASE_IDLE_MS - silentMs, () => {
      if (lease.over) return
      if (this.#world.nowMs - lease.heardMs < LEASE_IDLE_MS) return this.#watch(lease)
      this.#end(lease, [])
      this.#grant()
    })
  }

  #end(lease: Lease, fetched: number[]): void {
    if (lease.over) return
    lease.over = true
    this.#leases.delete(lease)
    this.#zoneLeases.delete(lease)
    const { swarm, member, chunks, source } = lease
    if (source === undefined) member.held--
    else {
      member.bringing--
      source.crossings--
      swarm.crossings.set(member.zone, swarm.crossings.get(member.zone)! - 1)
    }
    for (const chunk of fetched) this.#hasChunk(swarm, member, chunk)
    for (const chunk of chunks) {
      swarm.zones.promises(member.zone, chunk, -1)
      if (source === undefined && swarm.copies[chunk] === 0) swarm.unleased.add(chunk)
    }
  }

  /** What a lease brought may be newer than this word: the map only grows. Who is complete is asked for nothing. */
  #has(swarm: Swarm, member: Member, chunks: ChunkMap): void {
    member.wants = !chunks.isFull
    for (const chunk of chunks.indices()) this.#hasChunk(swarm, member, chunk)
  }

  #hasChunk(swarm: Swarm, member: Member, chunk: number): void {
    if (swarm.members.get(member.node) !== member || !member.chunks.add(chunk)) return
    swarm.copies[chunk]!++
    swarm.unleased.delete(chunk)
    swarm.zones.copies(member.zone, chunk, 1)
  }
}
