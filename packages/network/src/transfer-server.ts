// The answering end of the transfer plane: lets members in, hands their requests to the handler, and sends chunks with
// buffers that are used again.
import { once } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import { createServer, type Server, type TLSSocket } from 'node:tls'
import type { Logger } from 'pino'
import { BufferPool } from './buffer-pool.ts'
import { selfSignedCertificate } from './certificate.ts'
import { messageOf, TransferError } from './errors.ts'
import type { ChunkHandler } from './network.ts'
import type { Offence } from './standing.ts'
import { HEADER_BYTES } from './transfer-frames.ts'
import { TLS_OPTIONS, type Credentials } from './transfer-handshake.ts'
import { ServerConnection } from './transfer-answers.ts'

export interface TransferServerInit {
  credentials: Credentials
  host: string
  port: number
  handler: ChunkHandler
  logger: Logger
  /** From the TCP connection to the peer's proofs. */
  handshakeTimeoutMs: number
  /** A connection on which nothing moves is closed after so long. */
  idleTimeoutMs: number
  /** Connections whose peer has not proven anything yet; the oldest goes when there are more. */
  maxUnproven: number
  maxConnections: number
  maxConnectionsPerPeer: number
  maxRequestsPerConnection: number
  /** Bytes of a chunk that are read and sent at a time. */
  blockBytes: number
  /** Blocks that may be in memory at once, for all connections. */
  maxBlocks: number
  /** A peer that takes the bytes of a chunk more slowly is cut off. */
  minSendBytesPerSecond: number
  isRefused: (peerId: string) => boolean
  /** Told of each request; gives back for how many milliseconds nothing more is read from the peer. */
  onRequest: (peerId: string) => number
  onOffence: (peerId: string, offence: Offence, why: string) => void
  onSent: (bytes: number) => void
  onAnswer: (status: string) => void
  onHandshakeFailure: (reason: string) => void
}

export class TransferServer {
  readonly #init: TransferServerInit
  readonly #server: Server
  readonly #blocks: BufferPool
  /** By the address of their remote end, which TLS's socket shares with the TCP socket under it; oldest first. */
  readonly #unproven = new Map<string, { socket: Socket; timer: NodeJS.Timeout }>()
  readonly #sockets = new Set<Socket>()
  readonly #proven = new Map<string, Set<ServerConnection>>()

  constructor(init: TransferServerInit) {
    this.#init = init
    this.#blocks = new BufferPool(HEADER_BYTES + init.blockBytes, init.maxBlocks)
    const { key, cert } = selfSignedCertificate('shoal')
    this.#server = createServer({
      ...TLS_OPTIONS,
      ALPNProtocols: [...TLS_OPTIONS.ALPNProtocols],
      key,
      cert,
      handshakeTimeout: init.handshakeTimeoutMs,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: 15_000,
    })
    // The raw socket: what does not get through TLS must be counted and bounded too.
    this.#server.on('connection', (socket: Socket) => this.#accept(socket))
    this.#server.on('tlsClientError', (error, socket) => {
      this.#failed('tls', messageOf(error))
      socket.destroy()
    })
    this.#server.on('secureConnection', (socket) => this.#talk(socket))
    this.#server.on('error', (error) => init.logger.error({ err: error }, 'the transfer plane cannot accept'))
  }

  get port(): number {
    return (this.#server.address() as AddressInfo | null)?.port ?? this.#init.port
  }

  /** Connections of proven peers. */
  get size(): number {
    let size = 0
    for (const connections of this.#proven.values()) size += connections.size
    return size
  }

  async start(): Promise<void> {
    const { host, port } = this.#init
    this.#server.listen(port, host)
    await once(this.#server, 'listening')
  }

  async stop(): Promise<void> {
    if (!this.#server.listening) return
    const closed = once(this.#server, 'close')
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
    await closed
  }

  disconnect(peerId: string): void {
    for (const connection of this.#proven.get(peerId) ?? []) connection.destroy()
  }

  #accept(socket: Socket): void {
    const { handshakeTimeoutMs, maxUnproven, maxConnections } = this.#init
    if (this.#sockets.size >= maxConnections + maxUnproven) {
      this.#failed('too_many', 'too many connections')
      socket.destroy()
      return
    }
    const remote = remoteOf(socket)
    this.#sockets.add(socket)
    const timer = setTimeout(() => {
      this.#failed('timeout', `no proof within ${handshakeTimeoutMs} ms`)
      socket.destroy()
    }, handshakeTimeoutMs)
    this.#unproven.set(remote, { socket, timer })
    socket.on('close', () => {
      this.#sockets.delete(socket)
      if (this.#unproven.get(remote)?.socket === socket) this.#settled(remote)
    })
    socket.on('error', () => undefined)
    if (this.#unproven.size > maxUnproven) {
      const [oldest] = this.#unproven.values()
      this.#failed('too_many', 'too many unproven connections')
      oldest?.socket.destroy()
    }
  }

  /** The connection has become a member's, or has gone. */
  #settled(remote: string): void {
    clearTimeout(this.#unproven.get(remote)?.timer)
    this.#unproven.delete(remote)
  }

  #talk(socket: TLSSocket): void {
    const { credentials, handler, logger, isRefused, onSent, onAnswer, onRequest, onOffence } = this.#init
    socket.setTimeout(this.#init.idleTimeoutMs, () => socket.destroy())
    const connection = new ServerConnection({
      socket,
      credentials,
      handler,
      logger,
      blocks: this.#blocks,
      blockBytes: this.#init.blockBytes,
      maxRequests: this.#init.maxRequestsPerConnection,
      minSendBytesPerSecond: this.#init.minSendBytesPerSecond,
      onRequest,
      onOffence,
      onSent,
      onAnswer,
      onProven: (peerId) => {
        if (isRefused(peerId)) throw new TransferError('HANDSHAKE_FAILED', `${peerId} is banned here for now`)
        this.#admit(socket, connection, peerId)
      },
      onClose: (error) => this.#closed(connection, error),
    })
  }

  #admit(socket: TLSSocket, connection: ServerConnection, peerId: string): void {
    this.#settled(remoteOf(socket))
    const connections = this.#proven.get(peerId) ?? new Set()
    this.#proven.set(peerId, connections)
    connections.add(connection)
    const [oldest] = connections
    if (connections.size > this.#init.maxConnectionsPerPeer) oldest?.destroy()
  }

  #closed(connection: ServerConnection, error: TransferError | undefined): void {
    const { peerId } = connection
    if (peerId === '') this.#failed(error?.code.toLowerCase() ?? 'closed', error?.message ?? 'closed before any proof')
    const connections = this.#proven.get(peerId)
    connections?.delete(connection)
    if (connections?.size === 0) this.#proven.delete(peerId)
  }

  #failed(reason: string, why: string): void {
    this.#init.onHandshakeFailure(reason)
    this.#init.logger.debug({ reason, why }, 'a transfer connection did not get in')
  }
}

function remoteOf(socket: Socket): string {
  return `${socket.remoteAddress} ${socket.remotePort}`
}
