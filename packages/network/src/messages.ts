// The control messages, as values. control-codec.ts turns them into protobuf and back; docs/protocol.md has the schema.
import type { Digest } from '@shoal/oci'

/** How to reach a node on both planes. */
export interface NodeAddress {
  /** libp2p peer id in its text form. */
  readonly peerId: string
  /** libp2p multiaddrs. */
  readonly multiaddrs: readonly string[]
  /** Where its transfer plane listens: `host:port`; empty for nodes without one (trackers). */
  readonly transfer: string
  readonly zone: string
}

/** First message on every channel, in both directions. */
export interface Hello {
  type: 'hello'
  version: number
  /** For people: `shoal-agent/0.1.0`. */
  agent: string
  node: NodeAddress
  /** Random for each start of a process, set by the network room: tells a restarted peer from the one before. */
  instance?: string
  /** Counts the hellos of an instance, so that of two channels opened at once both ends keep the same. */
  sequence?: number
}

/**
 * Hashes of some chunks, signed by the node that vouches for them: it fetched these chunks from the origin itself, or
 * it has verified the whole blob. `hashes` holds 32 bytes for each chunk in `indices`, in that order.
 */
export interface ChunkVoucher {
  indices: number[]
  hashes: Uint8Array
  /** Peer id of the signer: an Ed25519 id, so that it contains the key. */
  signer: string
  signature: Uint8Array
}

// ---- between agents -------------------------------------------------------------------------------------------

/**
 * The sender takes part in the swarm of a blob, or asks whether the other does. Answered by a `swarm-join` of the
 * receiver when it has or wants the blob, else by `swarm-refuse`. Sent again, it replaces what was said before.
 */
export interface SwarmJoin {
  type: 'swarm-join'
  digest: Digest
  /** 0 when the sender does not know it yet. */
  sizeBytes: number
  /** Content type, where the sender knows it (manifests). */
  mediaType: string
  /** Bit field of what the sender has; empty means none. Ignored when `complete`. */
  chunks: Uint8Array
  complete: boolean
  /** What the sender knows about the hashes of the blob's chunks. */
  vouchers: ChunkVoucher[]
  /** Whether an answer is expected. */
  reply: boolean
  /** Upload slots that are free at the sender. */
  freeSlots: number
}

/** Not here, or too many neighbours already; `others` are members that may do instead. */
export interface SwarmRefuse {
  type: 'swarm-refuse'
  digest: Digest
  reason: 'unknown' | 'full'
  others: NodeAddress[]
}

export interface SwarmLeave {
  type: 'swarm-leave'
  digest: Digest
}

/** The sender has more chunks than before. */
export interface Have {
  type: 'have'
  digest: Digest
  indices: number[]
  vouchers: ChunkVoucher[]
  /** The blob is whole at the sender now. */
  complete: boolean
  /** Upload slots that are free at the sender, for the choice of a peer; a hint that ages within milliseconds. */
  freeSlots: number
}

/** The sender lost chunks (they turned out wrong). */
export interface Lost {
  type: 'lost'
  digest: Digest
  indices: number[]
}

/** Without a tracker: the sender is fetching these chunks from the origin (or, `active: false`, no longer). */
export interface Claim {
  type: 'claim'
  digest: Digest
  indices: number[]
  active: boolean
}

/**
 * What does the receiver know about the hashes of these chunks? Answered by a `have` that names those that it has, with their
 * vouchers. The sender does not become a neighbour.
 */
export interface HashQuery {
  type: 'hash-query'
  digest: Digest
  indices: number[]
}

/** What does the receiver know about this tag? Answered by `tag-known`. */
export interface TagQuery {
  type: 'tag-query'
  requestId: number
  /** `registry/repository:tag` */
  reference: string
}

export interface TagKnown {
  type: 'tag-known'
  requestId: number
  /** Empty when it is not known. */
  digest: Digest | ''
  mediaType: string
  sizeBytes: number
  /** How long ago the origin said so. */
  ageMs: number
}

// ---- between agent and tracker --------------------------------------------------------------------------------

/** The sender has or wants a blob. Sent again after every reconnect: the tracker's state is soft. */
export interface TrackerJoin {
  type: 'tracker-join'
  digest: Digest
  sizeBytes: number
  /** Host of the origin that has it: leases are counted for each host. */
  originHost: string
  chunks: Uint8Array
  complete: boolean
  /** How many leases the sender would take now. */
  leaseCredit: number
}

/** What the sender has whole: as many TrackerJoin, in one message. Only to trackers of version 2 or later. */
export interface TrackerHoldings {
  type: 'tracker-holdings'
  blobs: Holding[]
}

/** A blob that a node has whole. */
export interface Holding {
  digest: Digest
  sizeBytes: number
}

export interface TrackerLeave {
  type: 'tracker-leave'
  digest: Digest
}

/** More neighbours, please: the sender is starved or has lost some. `exclude` holds peer ids it has already. */
export interface TrackerPeersWanted {
  type: 'tracker-peers-wanted'
  digest: Digest
  exclude: string[]
}

/** Answer to join and peers-wanted. */
export interface TrackerPeers {
  type: 'tracker-peers'
  digest: Digest
  /** 0 when no member has told it. */
  sizeBytes: number
  members: number
  peers: NodeAddress[]
}

/**
 * The right to fetch chunks `first` … `first + count - 1` while there is progress: from the origin, or for the holder's zone
 * from `source`, a member of another zone.
 */
export interface LeaseGrant {
  type: 'lease-grant'
  digest: Digest
  leaseId: number
  first: number
  count: number
  /** Without news of progress for so long, the tracker gives the lease to another. */
  idleLimitMs: number
  source: NodeAddress | undefined
}

/** The holder is at it: bytes have come since the last word. `credit` as in join, absolute. */
export interface LeaseProgress {
  type: 'lease-progress'
  digest: Digest
  leaseId: number
  receivedBytes: number
}

/** The lease is over: every chunk in `fetched` is at the sender; the rest goes to others. */
export interface LeaseDone {
  type: 'lease-done'
  digest: Digest
  leaseId: number
  fetched: number[]
  /** Set when the origin failed: how long nobody should ask it (0: the fault was the holder's own). */
  originBackoffMs: number
  failed: boolean
}

/** What the sender has by now (sent at a low rate), and how many leases it would take. */
export interface TrackerProgress {
  type: 'tracker-progress'
  digest: Digest
  chunks: Uint8Array
  complete: boolean
  leaseCredit: number
}

/** What is this tag at the origin? The tracker answers, or makes the sender the one that asks (`tag-lookup`). */
export interface TagAsk {
  type: 'tag-ask'
  requestId: number
  reference: string
}

/** Ask the origin for it and tell with `tag-result`: others wait for it. */
export interface TagLookup {
  type: 'tag-lookup'
  requestId: number
  reference: string
}

/** What came out of the lookup that the tracker had asked for. */
export interface TagResult {
  type: 'tag-result'
  requestId: number
  reference: string
  /** Empty when there is none: then `errorCode` says why. */
  digest: Digest | ''
  mediaType: string
  sizeBytes: number
  errorCode: string
}

/** Answer to `tag-ask`. `stale`: the origin did not answer, this is what it said last. Empty digest: not known. */
export interface TagAnswer {
  type: 'tag-answer'
  requestId: number
  reference: string
  digest: Digest | ''
  mediaType: string
  sizeBytes: number
  stale: boolean
  errorCode: string
}

/** The sender has caught a peer at sending wrong bytes or wrong hashes. */
export interface PeerReport {
  type: 'peer-report'
  digest: Digest
  peerId: string
  reason: string
}

/** Bring an image in ahead of time, and keep it if so wished. From a tracker; an order that is known is not repeated. */
export interface PreheatOrder {
  type: 'preheat-order'
  preheatId: string
  /** In full: `registry/repository:tag` or `…@digest`. */
  image: string
  /** `os/arch[/variant]`; empty: that of the receiver. */
  platform: string
  /** `pin` pulls as well. */
  action: 'pull' | 'pin' | 'unpin'
}

/** An order is void: who is at it stops. */
export interface PreheatCancel {
  type: 'preheat-cancel'
  preheatId: string
}

/** How far the sender is with an order: at once, then once a second, and when it is over. */
export interface PreheatReport {
  type: 'preheat-report'
  preheatId: string
  state: 'waiting' | 'running' | 'done' | 'failed'
  /** Of the image; empty until it is known. */
  digest: Digest | ''
  /** 0 until the manifest is known. */
  totalBytes: number
  /** Of the total, what is in the store by now, whenever it came. */
  receivedBytes: number
  fromPeersBytes: number
  fromOriginBytes: number
  errorCode: string
  /** For people, when it failed. */
  reason: string
}

export type ControlMessage =
  | Hello
  | SwarmJoin
  | SwarmRefuse
  | SwarmLeave
  | Have
  | Lost
  | Claim
  | HashQuery
  | TagQuery
  | TagKnown
  | TrackerJoin
  | TrackerHoldings
  | TrackerLeave
  | TrackerPeersWanted
  | TrackerPeers
  | LeaseGrant
  | LeaseProgress
  | LeaseDone
  | TrackerProgress
  | TagAsk
  | TagLookup
  | TagResult
  | TagAnswer
  | PeerReport
  | PreheatOrder
  | PreheatCancel
  | PreheatReport

/** Largest control message in bytes; what is longer closes the channel. */
export const MAX_CONTROL_MESSAGE_BYTES = 1024 * 1024
/** Version of the control protocol that this code speaks. */
export const CONTROL_VERSION = 2
/** From this one on a tracker knows TrackerHoldings. */
export const HOLDINGS_VERSION = 2
