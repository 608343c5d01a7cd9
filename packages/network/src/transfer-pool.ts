// The connections that this node has opened to others: one for each peer, dialled when needed, kept for a while, never
// more than so many.
import type { Registry } from 'prom-client'
import { parseEndpoint } from './addresses.ts'
import { messageOf, TransferError } from './errors.ts'
import type { NodeAddress } from './messages.ts'
import type { FetchOptions, FetchOutcome } from './network.ts'
import { ClientConnection } from './transfer-client.ts'
import type { Credentials } from './transfer-handshake.ts'

export interface PoolInit {
  credentials: Credentials
  dialTimeoutMs: number
  /** An unused connection is closed after so long. */
  idleTimeoutMs: number
  maxConnections: number
  maxRequestsPerPeer: number
  maxRequests: number
  isRefused: (peerId: string) => boolean
  onHandshakeFailure: (reason: string) => void
  /** A proven peer sent what the protocol does not allow. */
  onProtocolError: (peerId: string, why: string) => void
  metrics?: Registry
}

export class TransferPool {
  readonly #init: PoolInit
  readonly #connections = new Map<string, ClientConnection>()
  readonly #requests = new Map<string, number>()
  #requestCount = 0
  readonly #sweep: NodeJS.Timeout
  #isStopped = false

  constructor(init: PoolInit) {
    this.#init = init
    this.#sweep = setInterval(() => this.#closeIdle(), Math.max(10, init.idleTimeoutMs / 4)).unref()
  }

  get size(): number {
    return this.#connections.size
  }

  /** @throws TransferError */
  async fetch(peer: NodeAddress, options: FetchOptions): Promise<FetchOutcome> {
    const { peerId } = peer
    const { maxRequests, maxRequestsPerPeer } = this.#init
    if (options.signal.aborted) throw aborted(options.signal)
    if (options.into.byteLength === 0) throw new TransferError('PROTOCOL', 'A chunk of no bytes cannot be asked for')
    const before = this.#requests.get(peerId) ?? 0
    if (before >= maxRequestsPerPeer || this.#requestCount >= maxRequests) {
      throw new TransferError('OVERLOADED', `${this.#requestCount} requests are open, ${before} of them to ${peerId}`)
    }
    this.#requests.set(peerId, before + 1)
    this.#requestCount += 1
    try {
      const known = this.#connections.get(peerId)
      try {
        return await this.#fetchOver(this.#connection(peer), options)
      } catch (error) {
        // The peer may have closed a connection that had been idle at the moment it was used again.
        const wasStale = known !== undefined && error instanceof TransferError && error.code === 'CLOSED'
        if (!wasStale || options.signal.aborted || this.#connections.get(peerId) === known) throw error
        return await this.#fetchOver(this.#connection(peer), options)
      }
    } finally {
      this.#requestCount -= 1
      const left = (this.#requests.get(peerId) ?? 1) - 1
      if (left === 0) this.#requests.delete(peerId)
      else this.#requests.set(peerId, left)
    }
  }

  disconnect(peerId: string, why: string): void {
    this.#connections.get(peerId)?.destroy(new TransferError('CLOSED', why))
  }

  stop(): void {
    this.#isStopped = true
    clearInterval(this.#sweep)
    for (const peerId of [...this.#connections.keys()]) this.disconnect(peerId, 'The transfer plane is stopping')
  }

  async #fetchOver(connection: ClientConnection, options: FetchOptions): Promise<FetchOutcome> {
    const { promise, reject } = Promise.withResolvers<never>()
    const onAbort = (): void => reject(aborted(options.signal))
    options.signal.addEventListener('abort', onAbort)
    try {
      await Promise.race([connection.ready(), promise])
    } finally {
      options.signal.removeEventListener('abort', onAbort)
    }
    return await connection.fetch(options)
  }

  #connection(peer: NodeAddress): ClientConnection {
    const { peerId, transfer } = peer
    if (this.#isStopped) throw new TransferError('CLOSED', 'The transfer plane is not running')
    if (this.#init.isRefused(peerId)) throw new TransferError('UNREACHABLE', `${peerId} is banned here for now`)
    const existing = this.#connections.get(peerId)
    if (existing?.isOpen === true) return existing
    let host: string
    let port: number
    try {
      ;({ host, port } = parseEndpoint(transfer))
    } catch (error) {
      throw new TransferError('UNREACHABLE', `${peerId} has no transfer address: ${messageOf(error)}`, { cause: error })
    }
    this.#makeRoom()
    const connection = new ClientConnection({
      peerId,
      host,
      port,
      credentials: this.#init.credentials,
      dialTimeoutMs: this.#init.dialTimeoutMs,
      onProtocolError: (why) => this.#init.onProtocolError(peerId, why),
      onClose: () => {
        if (this.#connections.get(peerId) === connection) this.#connections.delete(peerId)
      },
    })
    connection.ready().catch((error: unknown) => {
      const code = error instanceof TransferError ? error.code : 'CLOSED'
      if (code === 'HANDSHAKE_FAILED' || code === 'WRONG_PEER' || code === 'PROTOCOL') {
        this.#init.onHandshakeFailure(code.toLowerCase())
      }
    })
    this.#connections.set(peerId, connection)
    return connection
  }

  /** Closes the connection that was idle for longest when all places are taken. */
  #makeRoom(): void {
    if (this.#connections.size < this.#init.maxConnections) return
    const idle = [...this.#connections.values()].filter(({ pendingCount, peerId }) => {
      return pendingCount === 0 && !this.#requests.has(peerId)
    })
    const [oldest] = idle.sort((a, b) => a.lastUsedMs - b.lastUsedMs)
    if (oldest === undefined) throw new TransferError('OVERLOADED', `${this.#connections.size} connections are in use`)
    oldest.destroy(new TransferError('CLOSED', 'Closed to make room'))
  }

  #closeIdle(): void {
    const limit = performance.now() - this.#init.idleTimeoutMs
    for (const connection of [...this.#connections.values()]) {
      if (connection.pendingCount === 0 && !this.#requests.has(connection.peerId) && connection.lastUsedMs < limit) {
        connection.destroy(new TransferError('CLOSED', 'Idle for long enough'))
      }
    }
  }
}

function aborted(signal: AbortSignal): TransferError {
  return new TransferError('ABORTED', 'The request was cancelled', { cause: signal.reason })
}
