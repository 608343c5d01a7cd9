// An agent of a virtual cluster: whom it knows, what it has, and what it tells of it. Everything that it decides is decided
// by the daemon's own policy; this file and those of its parts only carry it out in virtual time.
import { ChunkMap } from '@shoal/store'
import { acceptNeighbour, haveBatchMs, progressIntervalMs, textHash } from '@shoal/swarm/policy'
import { LeaseRuns } from './lease-runs.ts'
import { Neighbour, Part, Peer } from './part.ts'
import { Requests } from './requests.ts'
import { Untracked } from './untracked.ts'
import { UploadSlots } from './upload-slots.ts'
import { NOTICE_MS, type World } from './world.ts'

/** `have` messages are collected for so long at least (the daemon's timing of that name). */
const HAVE_BATCH_MS = 25

export class VirtualNode {
  readonly index: number
  readonly zone: number
  readonly startMs: number
  /** Stands for it in rendezvous hashing. */
  readonly hash: number
  readonly parts: Part[]
  alive = false
  /** Slow or dying: not among those whose times are told. */
  impaired = false
  finishedMs = -1
  /** What it does without a tracker, in scenarios that lose it or have none. */
  readonly untracked: Untracked | undefined
  readonly requests: Requests
  readonly uploads: UploadSlots
  readonly runs: LeaseRuns
  readonly #world: World
  readonly #peers = new Map<number, Peer>()
  #complete = 0

  constructor(world: World, index: number, zone: number, startMs: number) {
    this.#world = world
    this.index = index
    this.zone = zone
    this.startMs = startMs
    this.hash = textHash(`node ${index}`)
    this.requests = new Requests(world, this)
    this.uploads = new UploadSlots(world, this)
    this.runs = new LeaseRuns(world, this)
    this.parts = world.blobs.map((shape) => new Part(this, shape, world.scenario.streaming ?? true))
    if (world.scenario.trackerLostAtMs !== undefined) this.untracked = new Untracked(world, this)
  }

  /** It has the whole image. */
  get isComplete(): boolean {
    return this.#complete === this.parts.length
  }

  /** All nodes that it has a channel to. */
  peers(): Iterable<Peer> {
    return this.#peers.values()
  }

  /** Whether it has a channel to another node. */
  knows(index: number): boolean {
    return this.#peers.has(index)
  }

  /** The rollout reaches this node. */
  start(): void {
    this.alive = true
    for (const part of this.parts) {
      this.#world.toTracker(this.index, (tracker) => tracker.join(this.index, part.shape.index, this.zone))
    }
    if (this.#world.tracker === undefined) this.untracked?.start()
    else this.#newsToTracker()
  }

  /** Falls silent: nothing that it was doing goes on, and nobody is told. */
  die(): void {
    this.alive = false
    for (const part of this.parts) {
      part.listens = false
      for (const request of [...part.requests]) this.requests.end(request)
    }
    this.runs.stop()
    this.uploads.stop()
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
      if (!other.#accepts(blob, this) || !this.#accepts(blob, other)) return
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

  #neighbour(blob: number, index: number): Neighbour | undefined {
    return this.parts[blob]!.neighbours.find((neighbour) => neighbour.peer.node.index === index)
  }

  #accepts(blob: number, other: VirtualNode): boolean {
    const { neighbours } = this.parts[blob]!
    const remote = neighbours.filter((neighbour) => neighbour.remote).length
    return acceptNeighbour({ all: neighbours.length, remote }, other.zone !== this.zone, this.#world.parameters)
  }

  #meet(blob: number, other: VirtualNode): Neighbour {
    let peer = this.#peers.get(other.index)
    if (peer === undefined) this.#peers.set(other.index, (peer = new Peer(other)))
    peer.freeSlots = other.uploads.free
    const part = this.parts[blob]!
    const chunks = other.parts[blob]!.told
    const remote = other.zone !== this.zone
    const neighbour = new Neighbour(part, peer, chunks, remote)
    part.neighbours.push(neighbour)
    // Rare is what is rare in the own zone.
    if (!remote) for (const chunk of chunks.indices()) part.availability[chunk]!++
    this.requests.wake()
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
      for (const request of part.requests.filter((one) => one.peer === gone!.peer)) this.requests.end(request)
      this.#morePeers(part)
    }
    this.requests.wake()
  }

  #morePeers(part: Part): void {
    const world = this.#world
    part.askedMs = world.nowMs
    const known = part.neighbours.map((neighbour) => neighbour.peer.node.index)
    world.toTracker(this.index, (tracker) => tracker.peersWanted(this.index, part.shape.index, known, 1))
  }

  // ---- having ----------------------------------------------------------------------------------------------

  /** A chunk is here: checked and written a moment later, then told. */
  keep(part: Part, chunk: number): void {
    if (!part.chunks.add(chunk)) return
    if (part.chunks.isFull) part.listens = false
    part.progressMs = this.#world.nowMs
    part.open.delete(chunk)
    part.late.delete(chunk)
    for (let at = part.requests.length - 1; at >= 0; at--) {
      const request = part.requests[at]!
      if (request.chunk === chunk) this.requests.end(request)
    }
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
      world.toTracker(this.index, (tracker) => tracker.progress(this.index, index, full))
      if (this.isComplete) {
        this.finishedMs = world.nowMs
        world.finished(this)
      }
    }
    if (part.tellDue) return
    part.tellDue = true
    const waitMs = part.toldMs + haveBatchMs(HAVE_BATCH_MS, this.requests.usualMs) - world.nowMs
    if (waitMs > 0) world.after(waitMs, () => this.#tell(part))
    else this.#tell(part)
  }

  #tell(part: Part): void {
    if (!this.alive) return
    const world = this.#world
    part.tellDue = false
    part.toldMs = world.nowMs
    const chunks = part.untold.splice(0)
    const freeSlots = this.uploads.free
    world.messages += part.neighbours.length
    // All count as told when the last of them has heard it: in a busy swarm the queues are alike.
    world.after(world.delayMs + this.#queueMs(part), () => {
      for (const chunk of chunks) part.told.add(chunk)
      for (const { mirror } of part.neighbours) if (mirror!.part.listens) heard(mirror!, chunks, freeSlots)
    })
  }

  /** What queues add to the way to the neighbour that is furthest. */
  #queueMs(part: Part): number {
    if (!this.#world.hasQueues) return 0
    return part.neighbours.reduce(
      (most, { peer }) => Math.max(most, this.#world.queueMs(this.index, peer.node.index)),
      0,
    )
  }

  #newsToTracker(): void {
    this.#world.after(progressIntervalMs(this.#world.scenario.nodes), () => {
      if (!this.alive || this.isComplete || this.#world.tracker === undefined) return
      for (const part of this.parts) {
        if (part.chunks.isFull) continue
        const chunks = part.told.clone()
        this.#world.toTracker(this.index, (tracker) => tracker.progress(this.index, part.shape.index, chunks))
      }
      this.#newsToTracker()
    })
  }
}

/** News of a neighbour. This is what a simulation does most often: it touches as few objects as can be. */
function heard({ part, peer, remote }: Neighbour, chunks: readonly number[], freeSlots: number): void {
  peer.freeSlots = freeSlots - peer.outstanding
  if (!remote) for (const chunk of chunks) part.availability[chunk]!++
  // Most of the news is of chunks that are here or on their way: no reason to look through all neighbours.
  if (part.open.count === 0 || chunks.some((chunk) => part.open.has(chunk))) part.node.requests.wake()
}
