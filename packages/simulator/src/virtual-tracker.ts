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
  type LeaseCandidate,
  type Random,
  type ZoneSource,
} from '@shoal/swarm/policy'
import type { BlobShape, World } from './world.ts'

/** A holder that tells of no progress for so long loses its lease (the daemon's `leaseIdle`). */
const LEASE_IDLE_MS = 2000

interface Member extends LeaseCandidate, ZoneSource {
  readonly node: number
  readonly zone: string
  degree: number
  chunks: ChunkMap
  granted: number
  held: number
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

/** A blob in one zone. */
interface ZoneBook {
  readonly name: string
  /** Chunks that a member of the zone has, or fetches under a lease. */
  readonly covered: ChunkMap
  /** Chunks that another zone has and this one does not cover. */
  readonly wanted: ChunkMap
  leases: number
}

interface Swarm {
  readonly shape: BlobShape
  readonly members: Map<number, Member>
  readonly pool: MemberPool<Member>
  /** Chunks that no member has and nobody holds a lease for. */
  readonly unleased: ChunkMap
  readonly zones: Map<string, ZoneBook>
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
      zones: new Map<string, ZoneBook>(),
    }))
  }

  /** A node wants a blob; it is answered with neighbours. */
  join(node: number, blob: number, zone: number): void {
    this.messages++
    const swarm = this.#swarms[blob]!
    const member: Member = {
      node,
      zone: String(zone),
      degree: 0,
      chunks: new ChunkMap(swarm.shape.chunkCount),
      granted: 0,
      held: 0,
      chunkMs: 0,
      crossings: 0,
      wants: true,
    }
    if (!swarm.zones.has(member.zone)) this.#openZone(swarm, member.zone)
    this.#introduce(swarm, member, [], this.#world.parameters.introducedNeighbours)
    swarm.members.set(node, member)
    swarm.pool.add(member)
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
      this.#recount(swarm)
    }
    this.#grant()
  }

  #introduce(swarm: Swarm, member: Member, exclude: number[], count: number): void {
    const known = new Set(exclude)
    const usable = (other: Member) => other !== member && !known.has(other.node)
    const { parameters } = this.#world
    const chosen = chooseNeighbours(swarm.pool, member.zone, count, usable, parameters, this.#random)
    for (const other of chosen) {
      other.degree++
      member.degree++
    }
    const nodes = chosen.map((other) => other.node)
    this.messages++
    this.#world.fromTracker(() => this.#world.node(member.node)?.introduced(swarm.shape.index, nodes))
  }

  /** Gives out leases as long as there are any to give and there is room for them. */
  #grant(): void {
    const { parameters } = this.#world
    while (this.#leases.size < originLeaseLimit(this.#usualChunkMs, parameters)) {
      const open = this.#swarms.filter((swarm) => swarm.unleased.count > 0)
      if (open.length === 0 || !open.some((swarm) => this.#grantOrigin(swarm))) break
    }
    for (const swarm of this.#swarms) {
      if (swarm.zones.size < 2) continue
      for (const book of swarm.zones.values()) {
        while (book.leases < parameters.leasesPerZone && this.#grantAcross(swarm, book)) continue
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
    for (const chunk of chunks) {
      swarm.unleased.delete(chunk)
      swarm.zones.get(member.zone)!.covered.add(chunk)
    }
    this.#enter(swarm, member, chunks, undefined)
    return true
  }

  /** One chunk into a zone, from a member of another one. */
  #grantAcross(swarm: Swarm, book: ZoneBook): boolean {
    if (book.wanted.count === 0) return false
    const candidates = [...swarm.members.values()].filter((member) => member.wants && member.zone === book.name)
    const { parameters } = this.#world
    const view = { wanted: book.wanted, incompleteMembers: candidates.length }
    const decision = grantZoneLease(view, candidates, parameters, this.#random)
    if (decision === undefined) return false
    const chunk = decision.first
    const sources = [...swarm.members.values()].filter(
      (member) => member.zone !== book.name && member.chunks.has(chunk),
    )
    book.wanted.delete(chunk)
    if (sources.length === 0) throw new Error(`chunk ${chunk} is wanted across a border but nobody has it`)
    const source = sources[chooseZoneSource(sources, this.#random)]!
    book.covered.add(chunk)
    book.leases++
    source.crossings++
    this.#enter(swarm, candidates[decision.candidate]!, [chunk], source)
    return true
  }

  #enter(swarm: Swarm, member: Member, chunks: number[], source: Member | undefined): void {
    member.granted++
    member.held++
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
        this.#world.toTracker(() => {
          this.messages++
          lease.heardMs = this.#world.nowMs
        })
      },
      done: (fetched) => {
        this.#world.toTracker(() => {
          this.messages++
          if (fetched.length > 0 && source === undefined) this.#took(member, (this.#world.nowMs - now) / fetched.length)
          this.#end(lease, fetched)
          this.#grant()
        })
      },
    }
    this.messages++
    this.#world.fromTracker(() => this.#world.node(member.node)?.runs.leased(grant))
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
    lease.member.held--
    this.#leases.delete(lease)
    this.#zoneLeases.delete(lease)
    const { swarm, member, chunks, source } = lease
    const book = swarm.zones.get(member.zone)!
    if (source !== undefined) {
      source.crossings--
      book.leases--
    }
    for (const chunk of fetched) this.#hasChunk(swarm, member, chunk)
    for (const chunk of chunks) {
      if (fetched.includes(chunk)) continue
      book.covered.delete(chunk)
      if (source === undefined) swarm.unleased.add(chunk)
      else book.wanted.add(chunk)
    }
  }

  #has(swarm: Swarm, member: Member, chunks: ChunkMap): void {
    member.wants = !chunks.isFull
    // What a lease brought may be newer than this word: the map only grows. Who is complete is asked for nothing.
    if (swarm.unleased.count > 0 || swarm.zones.size > 1) {
      for (const chunk of chunks.indices()) this.#hasChunk(swarm, member, chunk)
    } else for (const chunk of chunks.indices()) member.chunks.add(chunk)
  }

  #hasChunk(swarm: Swarm, member: Member, chunk: number): void {
    if (!member.chunks.add(chunk)) return
    swarm.unleased.delete(chunk)
    for (const book of swarm.zones.values()) {
      if (book.name === member.zone) {
        book.covered.add(chunk)
        book.wanted.delete(chunk)
      } else if (!book.covered.has(chunk)) book.wanted.add(chunk)
    }
  }

  #openZone(swarm: Swarm, name: string): void {
    const { chunkCount } = swarm.shape
    const book: ZoneBook = { name, covered: new ChunkMap(chunkCount), wanted: new ChunkMap(chunkCount), leases: 0 }
    for (const member of swarm.members.values()) for (const chunk of member.chunks.indices()) book.wanted.add(chunk)
    swarm.zones.set(name, book)
  }

  /** A member is gone: what only it had is nowhere now. */
  #recount(swarm: Swarm): void {
    const { chunkCount } = swarm.shape
    const leases = [...this.#leases, ...this.#zoneLeases].filter((lease) => lease.swarm === swarm)
    for (let chunk = 0; chunk < chunkCount; chunk++) {
      const holders = new Set<string>()
      for (const member of swarm.members.values()) if (member.chunks.has(chunk)) holders.add(member.zone)
      const leased = leases.filter((lease) => lease.chunks.includes(chunk))
      if (holders.size === 0 && !leased.some((lease) => lease.source === undefined)) swarm.unleased.add(chunk)
      for (const book of swarm.zones.values()) {
        const covered = holders.has(book.name) || leased.some((lease) => lease.member.zone === book.name)
        if (covered) book.covered.add(chunk)
        else book.covered.delete(chunk)
        if (!covered && holders.size > 0) book.wanted.add(chunk)
        else book.wanted.delete(chunk)
      }
    }
  }
}
