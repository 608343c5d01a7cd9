// What the network room promises to the rooms that use it.
import type { Digest } from '@shoal/oci'
import type { ControlMessage, Hello, NodeAddress } from './messages.ts'
import type { BanReason, Offence } from './standing.ts'

/** One long-lived stream of control messages to another node; both planes of it belong to the same peer id. */
export interface ControlChannel {
  readonly peerId: string
  /** What the other side said of itself. */
  readonly hello: Hello
  readonly isOpen: boolean
  /**
   * Queues a message; messages keep their order. A peer that does not read is cut off when its queue passes the limit
   * (then `closed` settles), so a caller never has to wait.
   */
  send(message: ControlMessage): void
  /**
   * Called for every message after hello, in order. One listener; set it in the same turn as the channel is given. An
   * InvalidMessageError that it throws ends the channel, as bytes that are no message do.
   */
  onMessage: (message: ControlMessage) => void
  /** Settles when the channel is over, for whatever reason; never rejects. */
  readonly closed: Promise<void>
  close(): Promise<void>
}

/** The control plane: libp2p, its DHT and the control channels over it. */
export interface ControlPlane {
  readonly peerId: string
  /** Own address as it is told to others. */
  readonly address: NodeAddress
  /** Own zone; empty without one. */
  readonly zone: string
  /**
   * The channel to a peer: the open one, or a new one. Of the address only `peerId` is needed while a libp2p
   * connection is open. @throws NetworkError when it cannot be reached
   */
  channel(peer: Pick<NodeAddress, 'peerId' | 'multiaddrs'>, signal: AbortSignal): Promise<ControlChannel>
  /**
   * A channel to a node of which only a place is known (`host:port` or multiaddr, with or without `/p2p/<id>`), as
   * trackers are configured. @throws NetworkError
   */
  channelTo(address: string, signal: AbortSignal): Promise<ControlChannel>
  /** The open channel to a peer, if there is one. */
  openChannel(peerId: string): ControlChannel | undefined
  /** All open channels to agents. */
  channels(): ControlChannel[]
  /** Called for every channel that opens, from either side. Set before start(). */
  onChannel: (channel: ControlChannel) => void
  /** Peer ids of the nodes with an open libp2p connection (agents and trackers), self left out. */
  connectedPeers(): string[]
  /** Called after a libp2p connection to a node that had none was opened, from either side. Set before start(). */
  onPeerConnected: (peerId: string) => void
  /** Called when a peer was banned, for whatever reason, after the control plane has cut it off. */
  onBan: (peerId: string, reason: BanReason) => void
  /** Number of peers in the DHT's routing table. */
  routingTableSize(): number
  /**
   * Tells the DHT that this node has the blob, and goes on telling until `stopProviding`. Slow (seconds, and as long as
   * the DHT is empty): never on the way of a request. The signal ends the waiting only. sha512 is not provided.
   */
  provide(digest: Digest, signal: AbortSignal): Promise<void>
  /** Takes back what `provide` said, as far as the DHT allows. */
  stopProviding(digest: Digest): Promise<void>
  /**
   * Nodes that said they have the blob, self left out, as they are found; ends when the DHT knows no more or the signal
   * fires, without an error. The DHT knows neither `transfer` nor `zone` (both empty here): the hello of a channel does.
   */
  findProviders(digest: Digest, signal: AbortSignal): AsyncIterable<NodeAddress>
  /** Signs bytes with the identity of this node (Ed25519). */
  sign(bytes: Uint8Array): Uint8Array
  /** Cuts a peer off and refuses it for a while. */
  ban(peerId: string, durationMs: number, reason: BanReason): void
  /** Notes that a peer did something wrong on either plane; too much of it is a ban. */
  offend(peerId: string, offence: Offence, why: string): void
  isBanned(peerId: string): boolean
  start(): Promise<void>
  stop(): Promise<void>
}

/** Whether `signature` over `bytes` was made by the identity `peerId`. False for anything malformed. */
export type VerifySignature = (peerId: string, bytes: Uint8Array, signature: Uint8Array) => boolean

// ---- transfer plane -------------------------------------------------------------------------------------------

export interface ChunkRequest {
  digest: Digest
  index: number
  /** Follows a pull through the nodes' logs. */
  requestId: string
  /** The node that asks: proven, not claimed. */
  peerId: string
}

/** What a node answers to a request for a chunk. */
export type ChunkAnswer =
  | {
      status: 'ok'
      lengthBytes: number
      /** Fills `into` with the chunk's bytes from `offset`. */
      read(offset: number, into: Uint8Array): Promise<void>
      /** Called once when the answer has been sent or has failed. */
      done(sentBytes: number): void
    }
  | { status: 'busy'; retryAfterMs: number }
  | { status: 'missing' }

export type ChunkHandler = (request: ChunkRequest) => ChunkAnswer | Promise<ChunkAnswer>

/** What came of a request. With `ok` the buffer holds exactly the chunk. */
export type FetchOutcome =
  { status: 'ok'; receivedBytes: number } | { status: 'busy'; retryAfterMs: number } | { status: 'missing' }

export interface FetchOptions {
  digest: Digest
  index: number
  /** The chunk's bytes land here; its length is the length that is expected, another one is a protocol error. */
  into: Uint8Array
  requestId: string
  signal: AbortSignal
  /** Called when the peer has said that the chunk comes. */
  onAccepted?: () => void
  /** Called as bytes arrive. A stall is the absence of this call. */
  onBytes?: (bytes: number) => void
}

/** Carries chunk bytes between agents over TLS 1.3 with mutual proof of membership and identity. */
export interface TransferPlane {
  /** Port it listens on. */
  readonly port: number
  /** Asks a peer for a chunk over a connection that is opened when needed and kept. @throws TransferError */
  fetch(peer: NodeAddress, options: FetchOptions): Promise<FetchOutcome>
  /** Closes connections with a peer in both directions. */
  disconnect(peerId: string): void
  start(): Promise<void>
  stop(): Promise<void>
}
