// One connection of a peer that asks for chunks. Small answers go out at once; chunks one after the other, in the order
// of their requests, so that a connection needs two blocks of memory at most.
import type { TLSSocket } from 'node:tls'
import type { Logger } from 'pino'
import type { BufferPool } from './buffer-pool.ts'
import { messageOf, TransferError } from './errors.ts'
import type { ChunkAnswer, ChunkHandler } from './network.ts'
import type { Offence } from './standing.ts'
import {
  decodeHello,
  decodeRequest,
  frame,
  FRAME,
  HEADER_BYTES,
  numberFrame,
  protocolError,
  SmallFrameReader,
  writeHeader,
} from './transfer-frames.ts'
import { checkHello, ownHello, type Credentials } from './transfer-handshake.ts'

export interface ServerConnectionInit {
  socket: TLSSocket
  credentials: Credentials
  handler: ChunkHandler
  logger: Logger
  blocks: BufferPool
  blockBytes: number
  maxRequests: number
  minSendBytesPerSecond: number
  /** Told of each request; gives back for how many milliseconds nothing more is read from the peer. */
  onRequest: (peerId: string) => number
  onOffence: (peerId: string, offence: Offence, why: string) => void
  /** Called when the peer has proven who it is, before it is answered. @throws TransferError to turn it away */
  onProven: (peerId: string) => void
  onSent: (bytes: number) => void
  onAnswer: (status: string) => void
  /** Called once. */
  onClose: (error: TransferError | undefined) => void
}

type OkAnswer = Extract<ChunkAnswer, { status: 'ok' }>

interface Asked {
  request: number
  isCancelled: boolean
}

/** A peer that asks without reading the answers is not read from either. */
const MAX_UNREAD_BYTES = 4 * 1024 * 1024
/** The hint for requests beyond what one connection may have open. */
const OVERLOAD_RETRY_MS = 200

export class ServerConnection {
  /** Empty until it is proven. */
  peerId = ''
  readonly #init: ServerConnectionInit
  readonly #frames = new SmallFrameReader()
  readonly #asked = new Map<number, Asked>()
  readonly #chunks: { asked: Asked; answer: OkAnswer }[] = []
  #isSending = false
  /** While it runs nothing is read: the peer has asked too much. */
  #held: NodeJS.Timeout | undefined
  #isOver = false
  #failure: TransferError | undefined

  constructor(init: ServerConnectionInit) {
    this.#init = init
    const { socket } = init
    socket.on('data', (bytes: Buffer) => this.#receive(bytes))
    socket.on('drain', () => this.#readOn())
    socket.on('error', () => undefined)
    // The peer has nothing more to ask, so it does not wait for an answer either.
    socket.on('end', () => socket.destroy())
    socket.on('close', () => this.#over())
  }

  destroy(): void {
    this.#init.socket.destroy()
  }

  #receive(bytes: Buffer): void {
    try {
      for (const { kind, request, payload } of this.#frames.read(bytes)) {
        if (this.#isOver || this.#init.socket.destroyed) return
        if (this.peerId === '') this.#takeHello(kind, payload)
        else if (kind === FRAME.request) this.#takeRequest(request, payload)
        else if (kind === FRAME.cancel) this.#takeCancel(request)
        else throw protocolError(`a frame of kind ${kind}`)
      }
    } catch (error) {
      this.#fail(error instanceof TransferError ? error : protocolError(messageOf(error)))
    }
  }

  #takeHello(kind: number, payload: Buffer): void {
    const { socket, credentials, onProven } = this.#init
    if (kind !== FRAME.hello) throw new TransferError('HANDSHAKE_FAILED', 'Something else before hello')
    const peerId = checkHello(socket, 'client', decodeHello(payload), credentials)
    onProven(peerId)
    this.peerId = peerId
    socket.write(ownHello(socket, 'server', credentials))
  }

  /** Reads again, unless the peer is held back or does not read itself. */
  #readOn(): void {
    if (this.#held === undefined && !this.#init.socket.writableNeedDrain) this.#init.socket.resume()
  }

  #hold(ms: number): void {
    if (ms <= 0) return
    clearTimeout(this.#held)
    this.#held = setTimeout(() => {
      this.#held = undefined
      this.#readOn()
    }, ms)
    this.#init.socket.pause()
  }

  #takeRequest(request: number, payload: Buffer): void {
    const { handler, maxRequests, onRequest } = this.#init
    this.#hold(onRequest(this.peerId))
    const wanted = decodeRequest(payload)
    if (this.#asked.has(request)) throw protocolError('two requests with one number')
    if (this.#asked.size >= maxRequests) {
      this.#answer('busy', numberFrame(FRAME.busy, request, OVERLOAD_RETRY_MS))
      return
    }
    const asked: Asked = { request, isCancelled: false }
    this.#asked.set(request, asked)
    const answered = (answer: ChunkAnswer): void => this.#take(asked, answer)
    const failed = (error: unknown): void => {
      this.#init.logger.error({ err: error, peer: this.peerId, digest: wanted.digest }, 'a chunk request failed')
      if (this.#asked.delete(request)) this.#answer('failed', frame(FRAME.failed, request))
    }
    try {
      const answer = handler({ ...wanted, peerId: this.peerId })
      if (answer instanceof Promise) answer.then(answered).catch(failed)
      else answered(answer)
    } catch (error) {
      failed(error)
    }
  }

  #takeCancel(request: number): void {
    const asked = this.#asked.get(request)
    if (asked === undefined || asked.isCancelled) {
      // One may have crossed the end of the answer; who sends many is a burden as with requests.
      this.#hold(this.#init.onRequest(this.peerId))
      return
    }
    asked.isCancelled = true
    const index = this.#chunks.findIndex((chunk) => chunk.asked === asked)
    if (index === -1) return
    const [chunk] = this.#chunks.splice(index, 1)
    this.#asked.delete(request)
    chunk?.answer.done(0)
    this.#answer('cancelled', frame(FRAME.cancelled, request))
  }

  #take(asked: Asked, answer: ChunkAnswer): void {
    const { request } = asked
    if (answer.status === 'ok' && !this.#isOver && !asked.isCancelled) {
      this.#chunks.push({ asked, answer })
      if (!this.#isSending) this.#sendChunks().catch((error: unknown) => this.#fail(protocolError(messageOf(error))))
      return
    }
    if (answer.status === 'ok') answer.done(0)
    this.#asked.delete(request)
    if (asked.isCancelled) this.#answer('cancelled', frame(FRAME.cancelled, request))
    else if (answer.status === 'busy') this.#answer('busy', numberFrame(FRAME.busy, request, answer.retryAfterMs))
    else if (answer.status === 'missing') this.#answer('missing', frame(FRAME.missing, request))
  }

  #answer(status: string, bytes: Buffer): void {
    const { socket, onAnswer } = this.#init
    onAnswer(status)
    if (!socket.writable) return
    socket.write(bytes)
    if (socket.writableLength > MAX_UNREAD_BYTES) socket.pause()
  }

  async #sendChunks(): Promise<void> {
    this.#isSending = true
    try {
      for (let next = this.#chunks.shift(); next !== undefined; next = this.#chunks.shift()) {
        const { asked, answer } = next
        let sentBytes = 0
        let status = 'ok'
        try {
          sentBytes = await this.#sendChunk(asked, answer)
          if (sentBytes < answer.lengthBytes) status = this.#isOver ? 'closed' : 'cancelled'
        } catch (error) {
          status = this.#isOver ? 'closed' : 'failed'
          if (!this.#isOver) this.#init.logger.warn({ err: error, peer: this.peerId }, 'a chunk could not be read')
        }
        this.#asked.delete(asked.request)
        answer.done(sentBytes)
        if (status === 'cancelled') this.#answer(status, frame(FRAME.cancelled, asked.request))
        else if (status === 'failed') this.#answer(status, frame(FRAME.failed, asked.request))
        else this.#init.onAnswer(status)
      }
    } finally {
      this.#isSending = false
    }
  }

  /** Sends block by block: one is on its way while the next is read. Returns early when nobody wants the rest. */
  async #sendChunk(asked: Asked, answer: OkAnswer): Promise<number> {
    const { socket, blocks, blockBytes, onSent } = this.#init
    const { lengthBytes } = answer
    let sentBytes = 0
    let readBytes = 0
    let writing: Promise<void> | undefined
    if (this.#isOver) return 0
    socket.write(numberFrame(FRAME.ok, asked.request, lengthBytes))
    try {
      while (readBytes < lengthBytes && !asked.isCancelled && !this.#isOver) {
        const block = await blocks.acquire()
        const bytes = Math.min(blockBytes, lengthBytes - readBytes)
        let isHandedOn = false
        try {
          await answer.read(readBytes, block.subarray(HEADER_BYTES, HEADER_BYTES + bytes))
          await writing
          writing = undefined
          if (asked.isCancelled || this.#isOver) break
          writeHeader(block, FRAME.data, asked.request, bytes)
          writing = this.#write(block.subarray(0, HEADER_BYTES + bytes)).then(
            () => {
              sentBytes += bytes
              onSent(bytes)
              blocks.release(block)
            },
            () => blocks.release(block),
          )
          isHandedOn = true
          readBytes += bytes
        } finally {
          if (!isHandedOn) blocks.release(block)
        }
      }
    } finally {
      await writing
    }
    return sentBytes
  }

  /** Settles when TLS is done with the bytes. A peer that takes them too slowly is cut off. */
  async #write(bytes: Buffer): Promise<void> {
    const { socket, minSendBytesPerSecond, onOffence } = this.#init
    // The same for short ones: they may queue behind others on the peer's link.
    const limitMs = (this.#init.blockBytes * 1000) / minSendBytesPerSecond
    const limit = setTimeout(() => {
      onOffence(this.peerId, 'slow_reader', `took less than ${minSendBytesPerSecond} bytes a second`)
      socket.destroy()
    }, limitMs)
    try {
      await new Promise<void>((resolve, reject) => {
        socket.write(bytes, (error) => (error == null ? resolve() : reject(error)))
      })
    } finally {
      clearTimeout(limit)
    }
  }

  #fail(error: TransferError): void {
    this.#failure ??= error
    if (error.code === 'PROTOCOL') this.#init.onOffence(this.peerId, 'protocol', error.message)
    this.#init.logger.debug({ peer: this.peerId, reason: error.message }, 'transfer connection refused')
    this.#init.socket.destroy()
  }

  #over(): void {
    if (this.#isOver) return
    this.#isOver = true
    clearTimeout(this.#held)
    for (const { asked, answer } of this.#chunks.splice(0)) {
      this.#asked.delete(asked.request)
      answer.done(0)
    }
    this.#init.onClose(this.#failure)
  }
}
