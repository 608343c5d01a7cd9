// The asking end of one connection of the transfer plane. Requests go out as they come; the bytes of an answer are
// copied once, out of TLS's buffer into the chunk's.
import type { OnReadOpts } from 'node:net'
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls'
import { messageOf, TransferError } from './errors.ts'
import type { FetchOptions, FetchOutcome } from './network.ts'
import {
  decodeHello,
  encodeRequest,
  frame,
  FRAME,
  HEADER_BYTES,
  LENGTH_OFFSET,
  MAX_DATA_BYTES,
  MAX_SMALL_BYTES,
  protocolError,
  readNumber,
} from './transfer-frames.ts'
import { checkHello, ownHello, TLS_OPTIONS, type Credentials } from './transfer-handshake.ts'

/** A TLS record is 16 KiB at most, and node:tls hands them over one by one. */
const READ_BUFFER_BYTES = 64 * 1024
/** After a cancel the rest of an answer may come for so long; then a new connection is cheaper. */
const CANCEL_PATIENCE_MS = 5000

interface Pending {
  /** Undefined once nobody wants the answer any more: the buffer may be in other hands then. */
  options: FetchOptions | undefined
  settle: (result: FetchOutcome | TransferError) => void
  /** Told by `ok`; -1 before. */
  lengthBytes: number
  receivedBytes: number
  expectedBytes: number
  cancelTimer: NodeJS.Timeout | undefined
}

export interface ClientConnectionInit {
  /** Who must be there. */
  peerId: string
  host: string
  port: number
  credentials: Credentials
  /** For TCP, TLS and the proofs together. */
  dialTimeoutMs: number
  /** The peer, proven, sent what the protocol does not allow. */
  onProtocolError: (why: string) => void
  /** Called once, when the connection is over. */
  onClose: () => void
}

export class ClientConnection {
  readonly peerId: string
  readonly #socket: TLSSocket
  readonly #init: ClientConnectionInit
  readonly #ready = Promise.withResolvers<void>()
  readonly #pending = new Map<number, Pending>()
  readonly #deadline: NodeJS.Timeout
  /** A header, or a small frame, that has not come in whole. */
  readonly #head = Buffer.allocUnsafe(HEADER_BYTES + MAX_SMALL_BYTES)
  #headFilled = 0
  /** Bytes of the head that are needed to go on: a header, or a header and its payload. */
  #headWanted = HEADER_BYTES
  /** The answer that a `data` frame belongs to, and what is left of the frame. */
  #body: Pending | undefined
  #bodyRequest = 0
  #bodyLeft = 0
  #nextRequest = 1
  #isSecure = false
  #isProven = false
  #closed: TransferError | undefined
  #lastUsedMs = performance.now()

  constructor(init: ClientConnectionInit) {
    this.peerId = init.peerId
    this.#init = init
    this.#ready.promise.catch(() => undefined)
    // `onread` is passed on to net.Socket, which the types of node:tls do not say.
    const options: ConnectionOptions & { onread: OnReadOpts } = {
      ...TLS_OPTIONS,
      ALPNProtocols: [...TLS_OPTIONS.ALPNProtocols],
      host: init.host,
      port: init.port,
      // The certificate says nothing; the proofs do.
      rejectUnauthorized: false,
      onread: {
        buffer: Buffer.allocUnsafeSlow(READ_BUFFER_BYTES),
        callback: (bytes, buffer) => this.#receive(buffer as Buffer, bytes),
      },
    }
    this.#socket = connect(options)
    this.#socket.setNoDelay(true)
    this.#socket.setKeepAlive(true, 15_000)
    this.#socket.on('secureConnect', () => this.#prove())
    this.#socket.on('error', (error: Error) => {
      const code = this.#isSecure ? 'CLOSED' : codeOfDial(error)
      this.#end(new TransferError(code, `${this.#place}: ${messageOf(error)}`, { cause: error }))
    })
    this.#socket.on('close', () => {
      const code = this.#isProven ? 'CLOSED' : 'HANDSHAKE_FAILED'
      this.#end(new TransferError(code, `${this.#place} closed the connection`))
    })
    this.#deadline = setTimeout(() => {
      const code = this.#isSecure ? 'HANDSHAKE_FAILED' : 'UNREACHABLE'
      this.destroy(new TransferError(code, `${this.#place} did not answer within ${init.dialTimeoutMs} ms`))
    }, init.dialTimeoutMs)
  }

  get #place(): string {
    return `${this.#init.peerId} at ${this.#init.host}:${this.#init.port}`
  }

  get isOpen(): boolean {
    return this.#closed === undefined
  }

  /** Requests without an answer, cancelled ones too. */
  get pendingCount(): number {
    return this.#pending.size
  }

  /** When it was last of use, by `performance.now()`. */
  get lastUsedMs(): number {
    return this.#lastUsedMs
  }

  /** Settles when both ends have proven who they are. @throws TransferError */
  async ready(): Promise<void> {
    await this.#ready.promise
  }

  /** Sends a request. @throws TransferError */
  async fetch(options: FetchOptions): Promise<FetchOutcome> {
    if (this.#closed !== undefined) throw this.#closed
    const { digest, index, requestId, signal, into } = options
    const request = this.#nextRequest
    this.#nextRequest = request === 0xffff_ffff ? 1 : request + 1
    if (this.#pending.has(request)) throw new TransferError('OVERLOADED', 'Too many requests on one connection')
    const { promise, resolve, reject } = Promise.withResolvers<FetchOutcome>()
    const pending: Pending = {
      options,
      settle: (result) => {
        pending.options = undefined
        signal.removeEventListener('abort', onAbort)
        if (result instanceof TransferError) reject(result)
        else resolve(result)
      },
      lengthBytes: -1,
      receivedBytes: 0,
      expectedBytes: into.byteLength,
      cancelTimer: undefined,
    }
    const onAbort = (): void => this.#cancel(request, pending)
    this.#pending.set(request, pending)
    this.#lastUsedMs = performance.now()
    signal.addEventListener('abort', onAbort)
    if (signal.aborted) {
      this.#pending.delete(request)
      pending.settle(aborted(signal))
    } else {
      this.#socket.write(encodeRequest(request, { digest, index, requestId }))
    }
    return await promise
  }

  destroy(reason: TransferError): void {
    this.#end(reason)
  }

  #prove(): void {
    this.#isSecure = true
    try {
      this.#socket.write(ownHello(this.#socket, 'client', this.#init.credentials))
    } catch (error) {
      this.#end(new TransferError('HANDSHAKE_FAILED', `${this.#place}: ${messageOf(error)}`, { cause: error }))
    }
  }

  #cancel(request: number, pending: Pending): void {
    const { options } = pending
    if (options === undefined) return
    pending.settle(aborted(options.signal))
    if (this.#closed !== undefined) return
    this.#socket.write(frame(FRAME.cancel, request))
    pending.cancelTimer = setTimeout(() => {
      this.destroy(new TransferError('CLOSED', `${this.#place} went on with an answer that was cancelled`))
    }, CANCEL_PATIENCE_MS).unref()
  }

  #forget(request: number, pending: Pending): void {
    this.#pending.delete(request)
    clearTimeout(pending.cancelTimer)
    this.#lastUsedMs = performance.now()
  }

  /** Called by TLS for every piece of bytes; the buffer is TLS's again when this returns. */
  #receive(buffer: Buffer, bytes: number): boolean {
    try {
      let at = 0
      while (at < bytes && this.#closed === undefined) {
        if (this.#bodyLeft > 0) {
          const taken = Math.min(this.#bodyLeft, bytes - at)
          this.#takeBody(buffer, at, taken)
          at += taken
          continue
        }
        const taken = Math.min(this.#headWanted - this.#headFilled, bytes - at)
        buffer.copy(this.#head, this.#headFilled, at, at + taken)
        this.#headFilled += taken
        at += taken
        if (this.#headFilled === this.#headWanted) this.#takeHead()
      }
    } catch (error) {
      const failure = error instanceof TransferError ? error : protocolError(messageOf(error))
      if (this.#isProven && this.#closed === undefined && failure.code === 'PROTOCOL') {
        this.#init.onProtocolError(failure.message)
      }
      this.#end(failure)
    }
    return true
  }

  #takeHead(): void {
    const payloadBytes = this.#head.readUInt32BE(0) - LENGTH_OFFSET
    const kind = this.#head[4] as number
    const request = this.#head.readUInt32BE(5)
    if (kind === FRAME.data) {
      this.#headFilled = 0
      this.#beginBody(request, payloadBytes)
      return
    }
    if (payloadBytes < 0 || payloadBytes > MAX_SMALL_BYTES) throw protocolError(`a frame of ${payloadBytes} bytes`)
    if (this.#headFilled < HEADER_BYTES + payloadBytes) {
      this.#headWanted = HEADER_BYTES + payloadBytes
      return
    }
    this.#headFilled = 0
    this.#headWanted = HEADER_BYTES
    this.#takeFrame(kind, request, this.#head.subarray(HEADER_BYTES, HEADER_BYTES + payloadBytes))
  }

  #takeFrame(kind: number, request: number, payload: Buffer): void {
    if (!this.#isProven) {
      if (kind !== FRAME.hello) throw protocolError('something else before hello')
      this.#takeHello(payload)
      return
    }
    const pending = this.#pending.get(request)
    if (pending === undefined) throw protocolError('an answer that nobody has asked for')
    if (kind === FRAME.ok) {
      const lengthBytes = readNumber(payload)
      if (pending.lengthBytes !== -1) throw protocolError('two answers to one request')
      if (lengthBytes !== pending.expectedBytes || lengthBytes === 0) {
        throw protocolError(`a chunk of ${lengthBytes} bytes where ${pending.expectedBytes} are expected`)
      }
      pending.lengthBytes = lengthBytes
      pending.options?.onAccepted?.()
      return
    }
    const outcome = this.#outcomeOf(kind, payload, pending)
    this.#forget(request, pending)
    if (outcome !== undefined) pending.settle(outcome)
  }

  /** What a last frame says; undefined when nobody wants to know. @throws TransferError for a frame that may not come */
  #outcomeOf(kind: number, payload: Buffer, pending: Pending): FetchOutcome | TransferError | undefined {
    if (kind === FRAME.busy) return { status: 'busy', retryAfterMs: readNumber(payload) }
    if (kind === FRAME.missing) return { status: 'missing' }
    if (kind === FRAME.failed) return new TransferError('REMOTE_FAILED', `${this.#place} could not read the chunk`)
    if (kind === FRAME.cancelled && pending.options === undefined) return undefined
    throw protocolError(`a frame of kind ${kind}`)
  }

  #takeHello(payload: Buffer): void {
    const peerId = checkHello(this.#socket, 'server', decodeHello(payload), this.#init.credentials)
    if (peerId !== this.#init.peerId) {
      throw new TransferError('WRONG_PEER', `${this.#place} turned out to be ${peerId}`)
    }
    this.#isProven = true
    clearTimeout(this.#deadline)
    this.#ready.resolve()
  }

  #beginBody(request: number, bytes: number): void {
    const pending = this.#pending.get(request)
    if (pending === undefined || pending.lengthBytes === -1) throw protocolError('data that nobody has asked for')
    if (bytes <= 0 || bytes > MAX_DATA_BYTES || bytes > pending.lengthBytes - pending.receivedBytes) {
      throw protocolError(`${bytes} bytes of data, more than were announced`)
    }
    this.#body = pending
    this.#bodyRequest = request
    this.#bodyLeft = bytes
  }

  #takeBody(buffer: Buffer, at: number, bytes: number): void {
    const pending = this.#body as Pending
    const { options } = pending
    if (options !== undefined) buffer.copy(options.into, pending.receivedBytes, at, at + bytes)
    pending.receivedBytes += bytes
    this.#bodyLeft -= bytes
    // The end of the chunk is known before the caller hears of its last bytes: it may abort in answer to them.
    const isWhole = pending.receivedBytes === pending.lengthBytes
    if (isWhole) this.#forget(this.#bodyRequest, pending)
    try {
      options?.onBytes?.(bytes)
    } catch {
      // The listener's mistake; the bytes are right all the same.
    }
    if (isWhole && pending.options !== undefined) {
      pending.settle({ status: 'ok', receivedBytes: pending.receivedBytes })
    }
  }

  #end(reason: TransferError): void {
    if (this.#closed !== undefined) return
    this.#closed = reason
    clearTimeout(this.#deadline)
    this.#socket.destroy()
    this.#ready.reject(reason)
    // Of what was broken by the peer every request hears; a connection that merely went away is CLOSED for them.
    for (const [request, pending] of this.#pending) {
      this.#forget(request, pending)
      if (pending.options !== undefined)
        pending.settle(new TransferError(reason.code, reason.message, { cause: reason }))
    }
    this.#init.onClose()
  }
}

function aborted(signal: AbortSignal): TransferError {
  return new TransferError('ABORTED', 'The request was cancelled', { cause: signal.reason })
}

/** TLS alerts and resets during TLS's handshake are not the same as nobody being there. */
function codeOfDial(error: Error & { code?: string }): 'UNREACHABLE' | 'HANDSHAKE_FAILED' {
  return error.code?.startsWith('ERR_SSL') === true || error.code === 'EPROTO' ? 'HANDSHAKE_FAILED' : 'UNREACHABLE'
}
