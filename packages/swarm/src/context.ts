// What all downloads of a node share.
import type { Digest } from '@shoal/oci'
import type { ControlPlane, Lie, NodeAddress, TransferPlane, VerifySignature } from '@shoal/network'
import type { Store } from '@shoal/store'
import type { BlobBody, OriginChunkList } from '@shoal/upstream'
import type { Logger } from 'pino'
import type { BufferPool } from './buffer-pool.ts'
import type { SwarmMetrics } from './metrics.ts'
import type { SwarmParameters } from './policy/index.ts'
import type { RateLimits } from './rate-limits.ts'
import type { RequestBudget } from './request-budget.ts'
import type { TrackerClient } from './tracker-client.ts'

/** Waits and limits in milliseconds. None of them assumes a fast link: they count from the last byte or message. */
export interface SwarmTimings {
  /** A request to a peer without a byte for so long has stalled. @default 1000 */
  stallTimeoutMs: number
  /** A download that nothing has come for, from anywhere, for so long fails. @default 30000 */
  noProgressTimeoutMs: number
  /** How long a peer has to accept a control channel. @default 1500 */
  connectTimeoutMs: number
  /** `have` messages are collected for so long. @default 25 */
  haveBatchMs: number
  /** A tracker has this long to answer the join before a download acts without it. @default 1500 */
  trackerGraceMs: number
  /** A tracker that says nothing about a starved download for so long counts as lost for it. @default 5000 */
  trackerSilenceMs: number
  /** A download with a tracker that has got neither bytes nor a lease for so long asks the origin itself. @default 10000 */
  forsakenMs: number
  /** Without a tracker: a member that shows no activity for so long loses its share of the origin. @default 2000 */
  takeoverMs: number
  /** How long a download goes on after the last client has left. @default 3000 */
  lingerMs: number
  /** How long a peer that sent a wrong chunk is refused. @default 600000 */
  banMs: number
}

export const DEFAULT_TIMINGS: Readonly<SwarmTimings> = Object.freeze({
  stallTimeoutMs: 1000,
  noProgressTimeoutMs: 30_000,
  connectTimeoutMs: 1500,
  haveBatchMs: 25,
  trackerGraceMs: 1500,
  trackerSilenceMs: 5000,
  forsakenMs: 10_000,
  takeoverMs: 2000,
  lingerMs: 3000,
  banMs: 600_000,
})

/** The origin, as far as one blob is concerned. */
export interface OriginSource {
  /** Registry host: leases are counted for each. */
  readonly host: string
  /** `range` is inclusive. @throws UpstreamError */
  open(range: { start: number; end: number }, signal: AbortSignal): Promise<BlobBody>
  /** Chunk list, where the origin is Shoal's own. */
  chunkList(signal: AbortSignal): Promise<OriginChunkList | undefined>
}

/** Services and settings that every download uses. */
export interface SwarmContext {
  readonly store: Store
  readonly control: ControlPlane
  readonly transfer: TransferPlane
  readonly trackers: TrackerClient
  readonly verify: VerifySignature
  readonly parameters: Readonly<SwarmParameters>
  readonly timings: Readonly<SwarmTimings>
  readonly metrics: SwarmMetrics
  readonly logger: Logger
  readonly pool: BufferPool
  readonly budget: RequestBudget
  readonly limits: RateLimits
  /** Upload slots that are free here. */
  freeSlots(): number
  isBanned(peerId: string): boolean
  /** A peer was caught lying: it is refused from now on, everywhere. */
  blame(peerId: string, digest: Digest, lie: Lie): void
  /** Tells the DHT that this node has the blob, when there is time for it. */
  announce(digest: Digest): void
  /** Agents with an open channel, for swarms that nobody else knows of. */
  knownAgents(): NodeAddress[]
  /** Peers that asked for this blob lately, before this node wanted it. */
  interestedPeers(digest: Digest): NodeAddress[]
}
