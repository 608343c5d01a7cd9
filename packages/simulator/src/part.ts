// What a virtual node knows of others and of each blob: books only, decisions are elsewhere.
import { ChunkMap } from '@shoal/store'
import type { NeighbourView, WantView } from '@shoal/swarm/policy'
import type { Flow } from './links.ts'
import type { VirtualNode } from './virtual-node.ts'
import type { BlobShape } from './world.ts'

/** Another node, as this one sees it, in all blobs together. */
export class Peer {
  readonly node: VirtualNode
  outstanding = 0
  notBeforeMs = 0
  freeSlots = 0
  constructor(node: VirtualNode) {
    this.node = node
  }
}

/** A neighbour in the swarm of one blob. */
export class Neighbour implements NeighbourView {
  readonly peer: Peer
  /** What it has told: shared by all its neighbours, for all are told at the same time. */
  readonly chunks: ChunkMap
  readonly remote: boolean
  /** Whose neighbour it is. */
  readonly part: Part
  /** What the other side has of this pair. */
  mirror: Neighbour | undefined
  constructor(part: Part, peer: Peer, chunks: ChunkMap, remote: boolean) {
    this.part = part
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

export interface Request {
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
  readonly node: VirtualNode
  readonly shape: BlobShape
  readonly chunks: ChunkMap
  readonly open: ChunkMap
  readonly late: ChunkMap
  readonly availability: Uint16Array
  /** What the neighbours have been told. */
  readonly told: ChunkMap
  readonly neighbours: Neighbour[] = []
  readonly requests: Request[] = []
  readonly untold: number[] = []
  /** Chunks that are checked and written. */
  kept = 0
  front: number
  across: ChunkMap | undefined
  /** What falls to this node to bring into its zone without a tracker, and the members for which that holds. */
  toBring: { mates: string; chunks: ChunkMap } | undefined
  askedMs = -Infinity
  /** When a chunk came last, from anywhere. */
  progressMs = 0
  /** Chunks that this node has taken from the origin, or is taking. */
  readonly fromOrigin = new Set<number>()
  toldMs = -Infinity
  tellDue = false
  /** Whether news of chunks means anything to it: not when it is complete or its node has fallen silent. */
  listens = true

  constructor(node: VirtualNode, shape: BlobShape, streaming: boolean) {
    this.node = node
    this.shape = shape
    this.chunks = new ChunkMap(shape.chunkCount)
    this.told = new ChunkMap(shape.chunkCount)
    this.open = ChunkMap.full(shape.chunkCount)
    this.late = new ChunkMap(shape.chunkCount)
    this.availability = new Uint16Array(shape.chunkCount)
    this.front = streaming ? 0 : -1
  }

  /** Whether a request for the chunk is under way. */
  isAskedFor(chunk: number): boolean {
    for (const request of this.requests) if (request.chunk === chunk) return true
    return false
  }
}

/** Takes an item out of a list of which the order does not matter, if it is there. */
export function remove<T>(list: T[], item: T): void {
  const at = list.indexOf(item)
  if (at < 0) return
  const last = list.pop()!
  if (last !== item) list[at] = last
}
