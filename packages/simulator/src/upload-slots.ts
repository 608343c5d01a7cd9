// What a virtual node sends to others: it answers requests for chunks by the daemon's rule.
import { admitUpload, type UploadLoad } from '@shoal/swarm/policy'
import type { Request } from './part.ts'
import type { VirtualNode } from './virtual-node.ts'
import { lengthOf, type World } from './world.ts'

/** The upload slots of one node. */
export class UploadSlots {
  /** Requests that were answered `busy`. */
  busyCount = 0
  readonly #world: World
  readonly #node: VirtualNode
  readonly #active: Request[] = []

  constructor(world: World, node: VirtualNode) {
    this.#world = world
    this.#node = node
  }

  get free(): number {
    return Math.max(0, this.#world.parameters.uploadSlots - this.#active.length)
  }

  /** A request has come from another node. */
  serve(asker: VirtualNode, request: Request): void {
    const world = this.#world
    const { index } = this.#node
    if (!admitUpload(this.#loadFor(asker.index), world.parameters)) {
      this.busyCount++
      world.messages++
      world.after(world.delayMs + world.queueMs(index, asker.index), () => asker.requests.busy(request))
      return
    }
    const bytes = lengthOf(request.part.shape, request.chunk)
    request.flow = world.carry(index, asker.index, bytes, () => {
      this.over(request)
      asker.requests.received(request)
    })
    this.#active.push(request)
  }

  /** What the rule wants to know. In a busy swarm most requests meet full slots: then it does not matter whose they are. */
  #loadFor(asker: number): UploadLoad {
    const active = this.#active.length
    let activeToPeer = 0
    if (active < this.#world.parameters.uploadSlots) {
      for (const { flow } of this.#active) if (flow!.to === asker) activeToPeer++
    }
    return { active, activeToPeer }
  }

  /** A chunk has been sent, or is not wanted any more. */
  over(request: Request): void {
    const at = this.#active.indexOf(request)
    if (at < 0) return
    this.#active[at] = this.#active[this.#active.length - 1]!
    this.#active.pop()
  }

  /** The node has fallen silent: nothing more is sent. */
  stop(): void {
    for (const { flow } of this.#active) if (flow !== undefined) this.#world.stop(flow)
    this.#active.length = 0
  }
}
