// What a virtual node sends to others: it answers requests for chunks by the daemon's rule.
import { admitUpload, type UploadLoad } from '@shoal/swarm/policy'
import { remove, type Request } from './part.ts'
import type { VirtualNode } from './virtual-node.ts'
import { lengthOf, type World } from './world.ts'

/** What the rule looks at, counted when it does: in a busy swarm most requests meet full slots, whoever asks. */
class SlotsInUse implements UploadLoad {
  readonly #uploads: readonly Request[]
  readonly #asker: number

  constructor(uploads: readonly Request[], asker: number) {
    this.#uploads = uploads
    this.#asker = asker
  }

  get active(): number {
    return this.#uploads.length
  }

  get activeToPeer(): number {
    let count = 0
    for (const { flow } of this.#uploads) if (flow!.to === this.#asker) count++
    return count
  }
}

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
    if (!admitUpload(new SlotsInUse(this.#active, asker.index), world.parameters)) {
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

  /** A chunk has been sent, or is not wanted any more. */
  over(request: Request): void {
    remove(this.#active, request)
  }

  /** The node has fallen silent: nothing more is sent. */
  stop(): void {
    for (const { flow } of this.#active) if (flow !== undefined) this.#world.stop(flow)
    this.#active.length = 0
  }
}
