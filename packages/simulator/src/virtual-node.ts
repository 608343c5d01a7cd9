// An agent of a virtual cluster: what it has, whom it knows, what is on its way. Everything that it decides is decided by
// the daemon's own policy; this file only carries it out in virtual time.
import { ChunkMap } from '@shoal/store'
import {
  acceptNeighbour,
  admitUpload,
  busyRetryMs,
  chooseRequest,
  chunksAcross,
  isLate,
  progressIntervalMs,
  usualTime,
  type NeighbourView,
  type WantView,
} from '@shoal/swarm/policy'
import type { Flow } from './links.ts'
import type { Grant } from './virtual-tracker.ts'
import { Untracked } from './untracked.ts'
import { lengthOf, type BlobShape, type World } from './world.ts'

/** How long it takes to notice that a peer has fallen silent (the daemon's stall limit). */
const NOTICE_MS = 1000
/** The tracker hears of a lease's bytes this often, as from the daemon. */
const LEASE_NEWS_MS = 400
/** `have` messages are collected for so long (the daemon's `haveBatchMs`). */
const HAVE_BATCH_MS = 25

/** Another node, as this one sees it, in all blobs together. */
class Peer {
  readonly node: VirtualNode
  outstanding = 0
  notBeforeMs = 0
  freeSlots = 0
  constructor(node: VirtualNode) {
    this.node = node
  }
}

/** A neighbour in the swarm of one blob. */
class Neighbour implements NeighbourView {
  readonly peer: Peer
  /** What it has told: shared by all its neighbours, for all are told at the same time. */
  readonly chunks: ChunkMap
  readonly remote: boolean
  /** What the other side has of this pair. */
  mirror: Neighbour | undefined
  constructor(peer: Peer, chunks: ChunkMap, remote: boolean) {
    this.peer = peer
    this.chunks = chunks
    this.remote = remote
  }
  get outstanding(): number {
    return this.peer.outstanding
  }
  get notBeforeMs(): number {
    return this.peer.notBeforeMs
  }
  get freeSlots(): number {
    return this.peer.freeSlots
  }
}

interface Request {
  readonly part: Part
  readonly chunk: number
  readonly peer: Peer
  readonly startedMs: number
  lastBytesMs: number
  flow: Flow | undefined
  over: boolean
  /** Set for a request under a zone lease, which is not counted in the pipeline. */
  readonly settled: ((busy: boolean) => void) | undefined
}

/** One blob at one node. */
export class Part implements WantView {
  readonly shape: BlobShape
  readonly chunks: ChunkMap
  readonly open: ChunkMap
  readonly late: ChunkMap
  readonly availability: Uint16Array
  readonly nothing: ChunkMap
  /** What the neighbours have been told. */
  readonly told: ChunkMap
  readonly neighbours: Neighbour[] = []
  readonly requests: Request[] = []
  readonly untold: number[] = []
  /** Chunks that are checked and written. */
  kept = 0
  front: number
  across: ChunkMap | undefined
  askedMs = -Infinity
  /** When a chunk came last, from anywhere. */
  progressMs = 0
  /** Chunks that this node has taken from the origin, or is taking. */
  readonly fromOrigin = new Set<number>()
  toldMs = -Infinity
  tellDue = false

  constructor(shape: BlobShape, streaming: boolean) {
    this.shape = shape
    this.chunks = new ChunkMap(shape.chunkCount)
    this.nothing = new ChunkMap(shape.chunkCount)
    this.told = new ChunkMap(shape.chunkCount)
    this.open = ChunkMap.full(shape.chunkCount)
    this.late = new ChunkMap(shape.chunkCount)
    this.availability = new Uint16Array(shape.chunkCount)
    this.front = streaming ? 0 : -1
  }
}

export class VirtualNode {
  readonly index: number
  readonly zone: number
  readonly startMs: number
  readonly parts: Part[]
  alive = false
  /** Slow or dying: not among those whose times are told. */
  impaired = false
  finishedMs = -1
  /** What it does without a tracker, in scenarios that lose it or have none. */
  readonly untracked: Untracked | undefined
  requestCount = 0
  busyCount = 0
  readonly #world: World
  readonly #peers = new Map<number, Peer>()
  #outstanding = 0
  #uploads: Request[] = []
  readonly #originFlows = new Set<Flow>()
  #leasesHeld = 0
  #usualMs = 0
  #wakeMs = Infinity
  #turn = 0
  #complete = 0

  constructor(world: World, index: number, zone: number, startMs: number) {
    this.#world = world
    this.index = index
    this.zone = zone
    this.startMs = startMs
    this.parts = world.blobs.map((shape) => new Part(shape, world.scenario.streaming ?? true))
    if (world.scenario.trackerLostAtMs !== undefined) this.untracked = new Untracked(world, this)
  }

  get freeSlots(): number {
    return Math.max(0, this.#world.parameters.uploadSlots - this.#uploads.length)
  }

  /** The rollout reaches this node. */
  start(): void {
    this.alive = true
    for (const part of this.parts) {
      this.#world.toTracker((tracker) => tracker.join(this.index, part.shape.index, this.zone))
    }
    if (this.#world.tracker === undefined) this.untracked?.start()
    else this.#newsToTracker()
  }

  /** Falls silent: nothing that it was doing goes on, and nobody is told. */
  die(): void {
    this.alive = false
    for (const part of this.parts) for (const request of [...part.requests]) this.#end(request)
    for (const flow of this.#originFlows) this.#world.stop(flow)
    for (const upload of this.#uploads) if (upload.flow !== undefined) this.#world.stop(upload.flow)
    this.#uploads = []
    this.#world.after(NOTICE_MS, () => {
      this.#world.tracker?.lost(this.index)
      for (const peer of this.#peers.values()) peer.node.#left(this)
    })
  }

  /** The tracker has named neighbours. */
  introduced(blob: number, nodes: number[]): void {
    for (const index of nodes) this.connect(blob, index)
  }

  /** Opens a channel to a node and joins it in the swarm of the blob. */
  connect(blob: number, index: number): void {
    const world = this.#world
    const { connectMs = 5 } = world.scenario
    const setupMs = this.#peers.has(index) ? 0 : connectMs
    world.messages++
    world.after(setupMs + world.delayMs, () => {
      const other = world.node(index)
      if (other === undefined || !this.alive || other === this) return
      if (other.#neighbour(blob, this.index) !== undefined) return
      if (!acceptNeighbour(other.parts[blob]!.neighbours.length, world.parameters)) return
      // Both know each other from here on: the answer's delay is left out, so that both books agree.
      world.messages++
      const theirs = other.#meet(blob, this)
      theirs.mirror = this.#meet(blob, other)
      theirs.mirror.mirror = theirs
      if (this.untracked === undefined || other.untracked === undefined) return
      this.untracked.tellAll(blob, other.untracked)
      other.untracked.tellAll(blob, this.untracked)
    })
  }

  /** The tracker gives a lease: fetch these chunks from the origin, for everybody. */
  leased(grant: Grant): void {
    const part = this.parts[grant.blob]!
    let over = false
    const news = () => {
      if (!this.alive || over) return
      grant.progress()
      this.#world.after(LEASE_NEWS_MS, news)
    }
    this.#world.after(LEASE_NEWS_MS, news)
    this.fetchRun(part, grant.chunks, grant.source, (fetched) => {
      over = true
      grant.done(fetched)
    })
  }

  /** Fetches chunks one after the other from the origin, or from a node of another zone. */
  fetchRun(part: Part, chunks: number[], source: number | undefined, over: (fetched: number[]) => void): void {
    this.#leasesHeld++
    const fetched: number[] = []
    const next = (at: number) => {
      if (!this.alive) return
      const chunk = chunks[at]
      if (chunk === undefined) {
        this.#leasesHeld--
        over(fetched)
        this.#wake()
        return
      }
      const kept = () => {
        if (part.chunks.has(chunk)) fetched.push(chunk)
        next(at + 1)
      }
      if (part.chunks.has(chunk)) return kept()
      if (source !== undefined) return this.#fetchAcross(part, chunk, source, kept)
      part.fromOrigin.add(chunk)
      const flow = this.#world.carry(this.#world.originIndex, this.index, lengthOf(part.shape, chunk), () => {
        this.#originFlows.delete(flow)
        this.#keep(part, chunk)
        kept()
      })
      this.#originFlows.add(flow)
    }
    for (const chunk of chunks) part.open.delete(chunk)
    // The request to the origin and the first byte of its answer.
    if (source === undefined) this.#world.after(2 * this.#world.delayMs, () => next(0))
    else next(0)
  }

  /** Fetches a chunk from a member of another zone under a zone lease; comes back to it as long as it is busy. */
  #fetchAcross(part: Part, chunk: number, source: number, over: () => void): void {
    const node = this.#world.node(source)
    if (node === undefined) {
      part.open.add(chunk)
      return over()
    }
    const request = this.#ask(part, chunk, new Peer(node), (busy) => {
      if (!busy) return over()
      const waitMs = busyRetryMs(this.#world.parameters, this.#world.random, this.#usualMs)
      part.open.delete(chunk)
      this.#world.after(waitMs, () => {
        if (this.alive) this.#fetchAcross(part, chunk, source, over)
      })
    })
    const watch = () => {
      if (request.over || !this.alive) return
      if (node.alive) return this.#world.after(NOTICE_MS, watch)
      this.#end(request)
      over()
    }
    this.#world.after(NOTICE_MS, watch)
  }

  #neighbour(blob: number, index: number): Neighbour | undefined {
    return this.parts[blob]!.neighbours.find((neighbour) => neighbour.peer.node.index === index)
  }

  #meet(blob: number, other: VirtualNode): Neighbour {
    let peer = this.#peers.get(other.index)
    if (peer === undefined) this.#peers.set(other.index, (peer = new Peer(other)))
    peer.freeSlots = other.freeSlots
    const part = this.parts[blob]!
    const chunks = other.parts[blob]!.told
    const remote = other.zone !== this.zone
    const neighbour = new Neighbour(peer, chunks, remote)
    part.neighbours.push(neighbour)
    // Rare is what is rare in the own zone.
    if (!remote) for (const chunk of chunks.indices()) part.availability[chunk]!++
    this.#wake()
    return neighbour
  }

  /** A peer has been found dead. */
  #left(other: VirtualNode): void {
    if (!this.alive) return
    this.#peers.delete(other.index)
    for (const part of this.parts) {
      const at = part.neighbours.findIndex((neighbour) => neighbour.peer.node === other)
      if (at < 0) continue
      const [gone] = part.neighbours.splice(at, 1)
      if (!gone!.remote) for (const chunk of gone!.chunks.indices()) part.availability[chunk]!--
      for (const request of part.requests.filter((one) => one.peer === gone!.peer)) this.#end(request)
      this.#morePeers(part)
    }
    this.#wake()
  }

  #morePeers(part: Part): void {
    const world = this.#world
    part.askedMs = world.nowMs
    const known = part.neighbours.map((neighbour) => neighbour.peer.node.index)
    world.toTracker((tracker) => tracker.peersWanted(this.index, part.shape.index, known, 1))
  }

  // ---- asking ----------------------------------------------------------------------------------------------

  /** Looks for something to ask for, now or at the end of this step. */
  #wake(delayMs = 0): void {
    const atMs = this.#world.nowMs + delayMs
    if (atMs >= this.#wakeMs || this.#complete === this.parts.length) return
    this.#wakeMs = atMs
    this.#world.after(delayMs, () => {
      if (this.#wakeMs !== atMs) return
      this.#wakeMs = Infinity
      if (this.alive) this.#pump()
    })
  }

  #pump(): void {
    const world = this.#world
    const { parameters } = world
    const room = parameters.pipeline - (this.#leasesHeld > 0 ? 1 : 0)
    let starved = false
    while (this.#outstanding < room) {
      if (!this.#askOne()) {
        starved = true
        break
      }
    }
    if (!starved || this.#complete === this.parts.length) return
    let soonest = Infinity
    for (const peer of this.#peers.values()) {
      if (peer.notBeforeMs > world.nowMs && peer.notBeforeMs < soonest) soonest = peer.notBeforeMs
    }
    if (this.parts.every((part) => part.open.count === 0)) soonest = Math.min(soonest, world.nowMs + 50)
    if (soonest < Infinity) this.#wake(soonest - world.nowMs)
  }

  /** There are zones, and nobody who grants leases for their borders. */
  get #helpsItself(): boolean {
    return this.#world.scenario.zones !== undefined && this.#world.tracker === undefined
  }

  #askOne(): boolean {
    const world = this.#world
    for (let tried = 0; tried < this.parts.length; tried++) {
      const part = this.parts[this.#turn++ % this.parts.length]!
      if (part.chunks.isFull) continue
      if (part.open.count === 0) this.#markLate(part)
      const silentMs = world.nowMs - Math.max(part.progressMs, this.startMs)
      // A tracker gives zone leases; without one nobody knows who is in a zone, and the starved help themselves.
      part.across = this.#helpsItself ? chunksAcross(part, part.nothing, silentMs, world.parameters) : undefined
      const choice = chooseRequest(part, part.neighbours, world.parameters, world.nowMs, world.random)
      if (choice === undefined) continue
      this.#ask(part, choice.chunk, part.neighbours[choice.neighbour]!.peer)
      return true
    }
    return false
  }

  #markLate(part: Part): void {
    for (const request of part.requests) {
      const twice = part.requests.some((other) => other !== request && other.chunk === request.chunk)
      if (!twice && isLate(request, this.#usualMs, this.#world.nowMs)) part.late.add(request.chunk)
    }
  }

  #ask(part: Part, chunk: number, peer: Peer, settled?: (busy: boolean) => void): Request {
    const world = this.#world
    const request: Request = {
      part,
      chunk,
      peer,
      startedMs: world.nowMs,
      lastBytesMs: world.nowMs,
      flow: undefined,
      over: false,
      settled,
    }
    part.requests.push(request)
    part.open.delete(chunk)
    part.late.delete(chunk)
    peer.outstanding++
    if (settled === undefined) this.#outstanding++
    this.requestCount++
    world.messages++
    world.after(world.delayMs, () => {
      if (!request.over && peer.node.alive) peer.node.#serve(this, request)
    })
    return request
  }

  /** A request has come from another node. */
  #serve(asker: VirtualNode, request: Request): void {
    const world = this.#world
    const load = {
      active: this.#uploads.length,
      activeToPeer: this.#uploads.reduce((sum, upload) => sum + (upload.flow!.to === asker.index ? 1 : 0), 0),
      leased: request.settled !== undefined,
    }
    if (!admitUpload(load, world.parameters)) {
      this.busyCount++
      world.messages++
      world.after(world.delayMs, () => asker.#busy(request))
      return
    }
    const bytes = lengthOf(request.part.shape, request.chunk)
    request.flow = world.carry(this.index, asker.index, bytes, () => {
      this.#uploadOver(request)
      asker.#received(request)
    })
    this.#uploads.push(request)
  }

  #uploadOver(request: Request): void {
    const at = this.#uploads.indexOf(request)
    if (at < 0) return
    this.#uploads[at] = this.#uploads[this.#uploads.length - 1]!
    this.#uploads.pop()
  }

  #busy(request: Request): void {
    if (request.over) return
    request.peer.notBeforeMs =
      this.#world.nowMs + busyRetryMs(this.#world.parameters, this.#world.random, this.#usualMs)
    request.peer.freeSlots = 0
    this.#end(request)
    request.settled?.(true)
    this.#wake()
  }

  #received(request: Request): void {
    const tookMs = this.#world.nowMs - request.startedMs
    this.#usualMs = usualTime(this.#usualMs, tookMs)
    this.#keep(request.part, request.chunk)
    this.#end(request)
    request.settled?.(false)
    this.#wake()
  }

  /** A request is over, however it went. */
  #end(request: Request): void {
    if (request.over) return
    request.over = true
    const { part, chunk, peer } = request
    part.requests.splice(part.requests.indexOf(request), 1)
    peer.outstanding--
    if (request.settled === undefined) this.#outstanding--
    if (request.flow !== undefined && request.flow.at >= 0) {
      this.#world.stop(request.flow)
      peer.node.#uploadOver(request)
    }
    const pending = part.requests.some((other) => other.chunk === chunk)
    if (!pending) {
      part.late.delete(chunk)
      if (!part.chunks.has(chunk)) part.open.add(chunk)
    }
  }

  // ---- having ----------------------------------------------------------------------------------------------

  /** A chunk is here: checked and written a moment later, then told. */
  #keep(part: Part, chunk: number): void {
    if (!part.chunks.add(chunk)) return
    part.progressMs = this.#world.nowMs
    part.open.delete(chunk)
    part.late.delete(chunk)
    for (const other of part.requests.filter((request) => request.chunk === chunk)) this.#end(other)
    if (part.front >= 0) part.front = part.chunks.firstMissing(part.front)
    this.#world.after(this.#world.scenario.keepMs ?? 2, () => this.#kept(part, chunk))
  }

  #kept(part: Part, chunk: number): void {
    if (!this.alive) return
    const world = this.#world
    part.untold.push(chunk)
    if (++part.kept === part.shape.chunkCount) {
      this.#complete++
      const { index } = part.shape
      const full = ChunkMap.full(part.shape.chunkCount)
      world.toTracker((tracker) => tracker.progress(this.index, index, full))
      if (this.#complete === this.parts.length) {
        this.finishedMs = world.nowMs
        world.finished(this)
      }
    }
    if (part.tellDue) return
    part.tellDue = true
    const waitMs = part.toldMs + HAVE_BATCH_MS - world.nowMs
    if (waitMs > 0) world.after(waitMs, () => this.#tell(part))
    else this.#tell(part)
  }

  #tell(part: Part): void {
    if (!this.alive) return
    const world = this.#world
    part.tellDue = false
    part.toldMs = world.nowMs
    const chunks = part.untold.splice(0)
    const { freeSlots } = this
    world.messages += part.neighbours.length
    world.after(world.delayMs, () => {
      for (const chunk of chunks) part.told.add(chunk)
      for (const { peer, mirror } of part.neighbours) peer.node.#heard(mirror!, part.shape.index, chunks, freeSlots)
    })
  }

  #heard(neighbour: Neighbour, blob: number, chunks: number[], freeSlots: number): void {
    if (!this.alive) return
    const part = this.parts[blob]!
    if (part.chunks.isFull) return
    neighbour.peer.freeSlots = freeSlots - neighbour.peer.outstanding
    if (!neighbour.remote) for (const chunk of chunks) part.availability[chunk]!++
    this.#wake()
  }

  #newsToTracker(): void {
    this.#world.after(progressIntervalMs(this.#world.scenario.nodes), () => {
      if (!this.alive || this.#complete === this.parts.length || this.#world.tracker === undefined) return
      for (const part of this.parts) {
        if (part.chunks.isFull) continue
        const chunks = part.told.clone()
        this.#world.toTracker((tracker) => tracker.progress(this.index, part.shape.index, chunks))
      }
      this.#newsToTracker()
    })
  }
}
