// What a virtual node asks of its neighbours, and when: the daemon's choices, carried out in virtual time.
import { busyRetryMs, chooseRequest, chunksAcross, chunksToBring, isLate, usualTime } from '@shoal/swarm/policy'
import type { ChunkMap } from '@shoal/store'
import { remove, type Part, type Peer, type Request } from './part.ts'
import type { VirtualNode } from './virtual-node.ts'
import type { World } from './world.ts'

/** The requests of one node, in all its blobs. */
export class Requests {
  /** Requests that were made so far. */
  count = 0
  /** Moving average of what a chunk takes from a peer, in milliseconds; 0 while unknown. */
  usualMs = 0
  readonly #world: World
  readonly #node: VirtualNode
  #outstanding = 0
  #wakeMs = Infinity
  #turn = 0

  constructor(world: World, node: VirtualNode) {
    this.#world = world
    this.#node = node
  }

  /** Looks for something to ask for, now or at the end of this step. */
  wake(delayMs = 0): void {
    const atMs = this.#world.nowMs + delayMs
    if (atMs >= this.#wakeMs || this.#node.isComplete) return
    this.#wakeMs = atMs
    this.#world.after(delayMs, () => {
      if (this.#wakeMs !== atMs) return
      this.#wakeMs = Infinity
      if (this.#node.alive) this.#pump()
    })
  }

  /** Asks a peer for a chunk. `settled` is called in the end, with whether the peer was busy. */
  ask(part: Part, chunk: number, peer: Peer, settled?: (busy: boolean) => void): Request {
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
    this.count++
    world.messages++
    world.after(world.delayMs + world.queueMs(this.#node.index, peer.node.index), () => {
      if (!request.over && peer.node.alive) peer.node.uploads.serve(this.#node, request)
    })
    return request
  }

  busy(request: Request): void {
    if (request.over) return
    const { parameters, random, nowMs } = this.#world
    // As the daemon's timer has it: a look a moment too early would find the peer not to be asked yet.
    request.peer.notBeforeMs = Math.ceil(nowMs + busyRetryMs(parameters, random, this.usualMs))
    request.peer.freeSlots = 0
    this.end(request)
    request.settled?.(true)
    this.wake()
  }

  received(request: Request): void {
    const tookMs = this.#world.nowMs - request.startedMs
    this.usualMs = usualTime(this.usualMs, tookMs)
    this.#node.keep(request.part, request.chunk)
    this.end(request)
    request.settled?.(false)
    this.wake()
  }

  /** A request is over, however it went. */
  end(request: Request): void {
    if (request.over) return
    request.over = true
    const { part, chunk, peer } = request
    remove(part.requests, request)
    peer.outstanding--
    if (request.settled === undefined) this.#outstanding--
    if (request.flow !== undefined && request.flow.at >= 0) {
      this.#world.stop(request.flow)
      peer.node.uploads.over(request)
    }
    if (part.isAskedFor(chunk)) return
    part.late.delete(chunk)
    if (!part.chunks.has(chunk)) part.open.add(chunk)
  }

  #pump(): void {
    const world = this.#world
    const node = this.#node
    const room = world.parameters.pipeline - (node.runs.active > 0 ? 1 : 0)
    let starved = false
    while (this.#outstanding < room) {
      if (!this.#askOne()) {
        starved = true
        break
      }
    }
    if (!starved || node.isComplete) return
    let soonest = Infinity
    for (const peer of node.peers()) {
      if (peer.notBeforeMs > world.nowMs && peer.notBeforeMs < soonest) soonest = peer.notBeforeMs
    }
    if (node.parts.every((part) => part.open.count === 0)) soonest = Math.min(soonest, world.nowMs + 50)
    if (soonest < Infinity) this.wake(soonest - world.nowMs)
  }

  #askOne(): boolean {
    const world = this.#world
    const { parts } = this.#node
    for (let tried = 0; tried < parts.length; tried++) {
      const part = parts[this.#turn++ % parts.length]!
      if (part.chunks.isFull) continue
      if (part.open.count === 0) this.#markLate(part)
      part.across = this.#across(part)
      const choice = chooseRequest(part, part.neighbours, world.parameters, world.nowMs, world.random)
      if (choice === undefined) continue
      this.ask(part, choice.chunk, part.neighbours[choice.neighbour]!.peer)
      return true
    }
    return false
  }

  /** Chunks that neighbours of other zones may be asked for; undefined for none. */
  #across(part: Part): ChunkMap | undefined {
    const world = this.#world
    if (world.scenario.zones === undefined) return undefined
    // Bytes that are arriving are progress, too.
    const arriving = this.#node.runs.active > 0 || part.requests.some(({ flow }) => flow !== undefined)
    const silentMs = arriving ? 0 : world.nowMs - Math.max(part.progressMs, this.#node.startMs)
    const toBring = world.tracker === undefined ? this.#toBring(part) : undefined
    return chunksAcross(part, toBring, silentMs, world.parameters)
  }

  #toBring(part: Part): ChunkMap {
    const mates = part.neighbours.filter(({ remote, peer }) => !remote && !peer.node.isComplete)
    const hashes = mates.map(({ peer }) => peer.node.hash)
    const key = hashes.join(' ')
    if (part.toBring?.mates !== key) {
      const { hash, chunkCount } = part.shape
      part.toBring = { mates: key, chunks: chunksToBring(this.#node.hash, hashes, hash, chunkCount) }
    }
    return part.toBring.chunks
  }

  #markLate(part: Part): void {
    for (const request of part.requests) {
      const twice = part.requests.some((other) => other !== request && other.chunk === request.chunk)
      if (!twice && isLate(request, this.usualMs, this.#world.nowMs)) part.late.add(request.chunk)
    }
  }
}
