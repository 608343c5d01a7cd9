// What a virtual node fetches for everybody: chunks from the origin, or across the border of its zone.
import { busyRetryMs } from '@shoal/swarm/policy'
import type { Flow } from './links.ts'
import { Peer, type Part } from './part.ts'
import type { VirtualNode } from './virtual-node.ts'
import type { Grant } from './virtual-tracker.ts'
import { lengthOf, NOTICE_MS, type World } from './world.ts'

/** The tracker hears of a lease's bytes this often, as from the daemon. */
const LEASE_NEWS_MS = 400

/** The runs of one node. */
export class LeaseRuns {
  /** Runs that are under way. */
  active = 0
  readonly #world: World
  readonly #node: VirtualNode
  readonly #flows = new Set<Flow>()
  /** Nodes of other zones that it has opened a channel to. */
  readonly #met = new Set<number>()

  constructor(world: World, node: VirtualNode) {
    this.#world = world
    this.#node = node
  }

  /** The tracker gives a lease: fetch these chunks, for everybody. */
  leased(grant: Grant): void {
    const part = this.#node.parts[grant.blob]!
    let over = false
    const news = () => {
      if (!this.#node.alive || over) return
      grant.progress()
      this.#world.after(LEASE_NEWS_MS, news)
    }
    this.#world.after(LEASE_NEWS_MS, news)
    this.fetch(part, grant.chunks, grant.source, (fetched) => {
      over = true
      grant.done(fetched)
    })
  }

  /** Fetches chunks one after the other from the origin, or from a node of another zone. */
  fetch(part: Part, chunks: number[], source: number | undefined, over: (fetched: number[]) => void): void {
    const { originIndex } = this.#world
    const { index } = this.#node
    this.active++
    const fetched: number[] = []
    const next = (at: number) => {
      if (!this.#node.alive) return
      const chunk = chunks[at]
      if (chunk === undefined) {
        this.active--
        over(fetched)
        this.#node.requests.wake()
        return
      }
      const kept = () => {
        if (part.chunks.has(chunk)) fetched.push(chunk)
        next(at + 1)
      }
      if (part.chunks.has(chunk)) return kept()
      if (source !== undefined) return this.#askForHash(source, () => this.#fetchAcross(part, chunk, source, kept))
      part.fromOrigin.add(chunk)
      const flow = this.#world.carry(originIndex, index, lengthOf(part.shape, chunk), () => {
        this.#flows.delete(flow)
        this.#node.keep(part, chunk)
        kept()
      })
      this.#flows.add(flow)
    }
    for (const chunk of chunks) part.open.delete(chunk)
    // The request to the origin and the first byte of its answer.
    const queuesMs = this.#world.queueMs(index, originIndex)
    if (source === undefined) this.#world.after(2 * this.#world.delayMs + queuesMs, () => next(0))
    else next(0)
  }

  /** The node has fallen silent: nothing more comes. */
  stop(): void {
    for (const flow of this.#flows) this.#world.stop(flow)
  }

  /** The chunk's hash comes from the source itself: a question over its channel, which may have to be opened first. */
  #askForHash(source: number, known: () => void): void {
    const world = this.#world
    const { connectMs = 5 } = world.scenario
    const setupMs = this.#node.knows(source) || this.#met.has(source) ? 0 : connectMs
    this.#met.add(source)
    world.messages += 2
    const queuesMs = world.queueMs(this.#node.index, source) + world.queueMs(source, this.#node.index)
    world.after(setupMs + 2 * world.delayMs + queuesMs, () => {
      if (this.#node.alive) known()
    })
  }

  /** Fetches a chunk from a member of another zone under a zone lease; comes back to it as long as it is busy. */
  #fetchAcross(part: Part, chunk: number, source: number, over: () => void): void {
    const { requests } = this.#node
    const node = this.#world.node(source)
    if (node === undefined) {
      part.open.add(chunk)
      return over()
    }
    const request = requests.ask(part, chunk, new Peer(node), (busy) => {
      if (!busy) return over()
      const waitMs = busyRetryMs(this.#world.parameters, this.#world.random, requests.usualMs)
      part.open.delete(chunk)
      this.#world.after(waitMs, () => {
        if (this.#node.alive) this.#fetchAcross(part, chunk, source, over)
      })
    })
    const watch = () => {
      if (request.over || !this.#node.alive) return
      if (node.alive) return this.#world.after(NOTICE_MS, watch)
      requests.end(request)
      over()
    }
    this.#world.after(NOTICE_MS, watch)
  }
}
