// What a virtual node and the virtual tracker see of the cluster that they are in.
import type { Random, SwarmParameters } from '@shoal/swarm/policy'
import type { Flow } from './links.ts'
import type { Scenario } from './scenario.ts'
import type { VirtualNode } from './virtual-node.ts'
import type { VirtualTracker } from './virtual-tracker.ts'

/** How long it takes to notice that a peer has fallen silent (the daemon's stall limit), in milliseconds. */
export const NOTICE_MS = 1000

/** A blob of the image. */
export interface BlobShape {
  readonly index: number
  /** Stands for it in rendezvous hashing. */
  readonly hash: number
  readonly sizeBytes: number
  readonly chunkSizeBytes: number
  readonly chunkCount: number
}

export interface World {
  readonly scenario: Scenario
  readonly parameters: Readonly<SwarmParameters>
  readonly blobs: readonly BlobShape[]
  readonly random: Random
  readonly nowMs: number
  /** Time of a control message one way over links that have room. */
  readonly delayMs: number
  /** Whether links have queues at all. */
  readonly hasQueues: boolean
  /** What full queues add to the way from one node to another at this moment, in milliseconds. */
  queueMs(from: number, to: number): number
  /** The tracker, while there is one. */
  readonly tracker: VirtualTracker | undefined
  /** Control messages between nodes so far. */
  messages: number
  after(delayMs: number, action: () => void): void
  /** A message to the tracker; lost when there is none. */
  toTracker(from: number, deliver: (tracker: VirtualTracker) => void): void
  fromTracker(to: number, deliver: () => void): void
  /** A node that is up. */
  node(index: number): VirtualNode | undefined
  /** A node that knows another one wants what that one may want later. */
  interest(index: number, from: number): void
  /** Bytes from one node to another; the origin is the node after the last. */
  carry(from: number, to: number, bytes: number, onDone: () => void): Flow
  stop(flow: Flow): void
  remaining(flow: Flow): number
  readonly originIndex: number
  finished(node: VirtualNode): void
}

/** Length of a chunk of the blob. */
export function lengthOf(shape: BlobShape, chunk: number): number {
  return Math.min(shape.chunkSizeBytes, shape.sizeBytes - chunk * shape.chunkSizeBytes)
}
