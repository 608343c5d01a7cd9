// The transfer plane: chunk bytes between agents, over TLS connections of their own. libp2p streams cost several times
// the CPU for each byte (bench/transfer-vs-libp2p.ts measures it).
import type { Logger } from 'pino'
import { Counter, Gauge, type Registry } from 'prom-client'
import type { Identity } from './identity.ts'
import { InboundMeter } from './inbound-meter.ts'
import type { NodeAddress } from './messages.ts'
import type { ChunkHandler, FetchOptions, FetchOutcome, TransferPlane } from './network.ts'
import type { Offence } from './standing.ts'
import type { SwarmKeys } from './swarm-key.ts'
import { TransferPool } from './transfer-pool.ts'
import { TransferServer } from './transfer-server.ts'

export interface TransferPlaneOptions {
  identity: Identity
  swarmKeys: SwarmKeys
  /** Answers the requests of others. Whether there is a free upload slot is for it to say (`busy`). */
  handler: ChunkHandler
  logger: Logger
  /** @default 0.0.0.0 */
  host?: string
  /** 0 takes any free port. @default 7702 */
  port?: number
  metrics?: Registry
  /** Peers that are not let in and not asked: `ControlPlane.isBanned`. */
  isBanned?: (peerId: string) => boolean
  /** Told of what proven peers do wrong: `ControlPlane.offend`. */
  onOffence?: (peerId: string, offence: Offence, why: string) => void
  limits?: Partial<TransferLimits>
}

export interface TransferLimits {
  /** For TCP, TLS and the proofs, at the end that dials. @default 3000 */
  dialTimeoutMs: number
  /** The same at the end that is dialled. @default 8000 */
  handshakeTimeoutMs: number
  /** Unused connections are closed by the end that opened them. @default 60 000 */
  idleTimeoutMs: number
  /** Connections opened by this node. @default 512 */
  maxOutboundConnections: number
  /** Connections opened by others. @default 2048 */
  maxInboundConnections: number
  /** @default 4 */
  maxInboundPerPeer: number
  /** Connections of others that have proven nothing yet. @default 128 */
  maxUnproven: number
  /** Requests of this node that one peer may have open. @default 64 */
  maxRequestsPerPeer: number
  /** Requests of this node that may be open. @default 1024 */
  maxRequests: number
  /** Requests that a peer may have open on one connection; more are answered `busy`. @default 128 */
  maxRequestsPerConnection: number
  /** Requests that are read from one peer for long, and four times as many at once; others wait. @default 2000 */
  requestsPerSecond: number
  /** Who is held back for so long is flooding. @default 30 000 */
  floodAfterMs: number
  /** A peer that takes the bytes of a chunk more slowly is cut off: others could have the upload slot. @default 4096 */
  minSendBytesPerSecond: number
  /** Bytes that are read and sent at a time. @default 1 MiB */
  blockBytes: number
  /** Blocks in memory at once, for all uploads together. @default 32 */
  maxBlocks: number
}

const MIB = 1024 * 1024
const LIMITS: TransferLimits = {
  dialTimeoutMs: 3000,
  handshakeTimeoutMs: 8000,
  idleTimeoutMs: 60_000,
  maxOutboundConnections: 512,
  maxInboundConnections: 2048,
  maxInboundPerPeer: 4,
  maxUnproven: 128,
  maxRequestsPerPeer: 64,
  maxRequests: 1024,
  maxRequestsPerConnection: 128,
  requestsPerSecond: 2000,
  floodAfterMs: 30_000,
  minSendBytesPerSecond: 4096,
  blockBytes: 1 * MIB,
  maxBlocks: 32,
}

/** A transfer plane that does not listen yet. */
export function createTransferPlane(options: TransferPlaneOptions): TransferPlane {
  return new TlsTransferPlane(options)
}

class TlsTransferPlane implements TransferPlane {
  readonly #pool: TransferPool
  readonly #server: TransferServer
  readonly #logger: Logger

  constructor(options: TransferPlaneOptions) {
    const { identity, swarmKeys, handler, logger, metrics } = options
    const limits = { ...LIMITS, ...options.limits }
    const credentials = { identity, swarmKeys }
    const isRefused = options.isBanned ?? (() => false)
    const onOffence = options.onOffence ?? (() => undefined)
    const requests = new InboundMeter({
      ratePerSecond: limits.requestsPerSecond,
      burst: 4 * limits.requestsPerSecond,
      floodAfterMs: limits.floodAfterMs,
      onFlood: (peerId) => onOffence(peerId, 'flood', 'more chunk requests than are read'),
    })
    const counters = metrics && transferCounters(metrics)
    this.#logger = logger
    this.#pool = new TransferPool({
      credentials,
      dialTimeoutMs: limits.dialTimeoutMs,
      idleTimeoutMs: limits.idleTimeoutMs,
      maxConnections: limits.maxOutboundConnections,
      maxRequestsPerPeer: limits.maxRequestsPerPeer,
      maxRequests: limits.maxRequests,
      isRefused,
      onHandshakeFailure: (reason) => counters?.failures.inc({ side: 'client', reason }),
      onProtocolError: (peerId, why) => onOffence(peerId, 'protocol', why),
    })
    this.#server = new TransferServer({
      credentials,
      host: options.host ?? '0.0.0.0',
      port: options.port ?? 7702,
      handler,
      logger,
      handshakeTimeoutMs: limits.handshakeTimeoutMs,
      // Longer than at the end that opened the connection, so that it is the one that closes it.
      idleTimeoutMs: limits.idleTimeoutMs * 1.5,
      maxUnproven: limits.maxUnproven,
      maxConnections: limits.maxInboundConnections,
      maxConnectionsPerPeer: limits.maxInboundPerPeer,
      maxRequestsPerConnection: limits.maxRequestsPerConnection,
      blockBytes: limits.blockBytes,
      maxBlocks: limits.maxBlocks,
      minSendBytesPerSecond: limits.minSendBytesPerSecond,
      isRefused,
      onRequest: (peerId) => requests.take(peerId, 1),
      onOffence,
      onSent: (bytes) => counters?.sent.inc(bytes),
      onAnswer: (status) => counters?.answers.inc({ status }),
      onHandshakeFailure: (reason) => counters?.failures.inc({ side: 'server', reason }),
    })
    if (metrics !== undefined) this.#registerGauge(metrics)
  }

  get port(): number {
    return this.#server.port
  }

  async start(): Promise<void> {
    await this.#server.start()
    this.#logger.info({ port: this.port }, 'transfer plane listens')
  }

  async stop(): Promise<void> {
    this.#pool.stop()
    await this.#server.stop()
  }

  async fetch(peer: NodeAddress, options: FetchOptions): Promise<FetchOutcome> {
    return await this.#pool.fetch(peer, options)
  }

  disconnect(peerId: string): void {
    this.#pool.disconnect(peerId, `${peerId} was disconnected here`)
    this.#server.disconnect(peerId)
  }

  #registerGauge(registry: Registry): void {
    const pool = this.#pool
    const server = this.#server
    new Gauge({
      name: 'shoal_transfer_connections',
      help: 'Open connections of the transfer plane, by the side that opened them',
      labelNames: ['opened_by'],
      registers: [registry],
      collect() {
        this.set({ opened_by: 'us' }, pool.size)
        this.set({ opened_by: 'them' }, server.size)
      },
    })
  }
}

function transferCounters(registry: Registry): {
  sent: Counter
  answers: Counter<'status'>
  failures: Counter<'side' | 'reason'>
} {
  return {
    sent: new Counter({
      name: 'shoal_chunk_bytes_sent_total',
      help: 'Bytes of chunks sent to other nodes',
      registers: [registry],
    }),
    answers: new Counter({
      name: 'shoal_chunk_requests_answered_total',
      help: 'Requests of other nodes for chunks, by what came of them',
      labelNames: ['status'],
      registers: [registry],
    }),
    failures: new Counter({
      name: 'shoal_transfer_handshake_failures_total',
      help: 'Connections of the transfer plane that failed before both ends were proven',
      labelNames: ['side', 'reason'],
      registers: [registry],
    }),
  }
}
