// One control channel: messages over a framed stream, once both sides have said hello.
import type { Stream } from '@libp2p/interface'
import type { Logger } from 'pino'
import { decodeControlMessage, encodeControlMessage } from './control-codec.ts'
import { InvalidMessageError, messageOf, NetworkError } from './errors.ts'
import { FramedStream, type StreamLimits } from './framed-stream.ts'
import type { ControlMessage, Hello } from './messages.ts'
import type { ControlChannel } from './network.ts'

/** Told of what goes over the channels, for metrics and for the bounds of what a peer may send. */
export interface ChannelObserver {
  sent: (message: ControlMessage, bytes: number) => void
  received: (bytes: number) => void
  /** Gives back for how many milliseconds nothing more is read from the peer. */
  meter: (peerId: string, frames: number, bytes: number) => number
  /** The peer sent what the protocol does not allow. */
  broken: (peerId: string, why: string) => void
}

/**
 * A stream between two members. Until `greet` or `hear` has brought the other's hello it is no channel yet; after that
 * messages are held back until a listener is set.
 */
export class StreamChannel implements ControlChannel {
  readonly peerId: string
  readonly closed: Promise<void>
  readonly #stream: FramedStream
  readonly #logger: Logger
  readonly #observer: ChannelObserver
  readonly #heard: PromiseWithResolvers<Hello>
  #hello: Hello | undefined
  #listener: ((message: ControlMessage) => void) | undefined
  #waiting: ControlMessage[] = []

  constructor(stream: Stream, peerId: string, limits: StreamLimits, logger: Logger, observer: ChannelObserver) {
    this.peerId = peerId
    this.#logger = logger
    this.#observer = observer
    this.#heard = Promise.withResolvers()
    // Not everybody waits for the hello.
    this.#heard.promise.catch(() => undefined)
    this.#stream = new FramedStream(stream, limits)
    this.#stream.onFrame = (frame) => this.#receive(frame)
    this.#stream.onBroken = (error) => observer.broken(peerId, error.message)
    this.#stream.meter = (frames, bytes) => observer.meter(peerId, frames, bytes)
    this.closed = this.#stream.closed.then((error) => {
      this.#heard.reject(
        new NetworkError('REFUSED', `${peerId} closed the control stream before hello`, { cause: error }),
      )
      if (error !== undefined) logger.debug({ peer: peerId, reason: error.message }, 'control channel lost')
    })
  }

  get hello(): Hello {
    if (this.#hello === undefined) throw new Error('The other side has not said hello yet')
    return this.#hello
  }

  get isOpen(): boolean {
    return this.#stream.isOpen
  }

  /** Settles when the other's hello has come. @throws NetworkError when the stream ends or `signal` fires before */
  async hear(signal: AbortSignal): Promise<Hello> {
    const onAbort = (): void => {
      this.#heard.reject(
        new NetworkError('REFUSED', `${this.peerId} did not say hello in time`, { cause: signal.reason }),
      )
    }
    if (signal.aborted) onAbort()
    signal.addEventListener('abort', onAbort)
    try {
      return await this.#heard.promise
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  get onMessage(): (message: ControlMessage) => void {
    return this.#listener ?? (() => undefined)
  }

  set onMessage(listener: (message: ControlMessage) => void) {
    this.#listener = listener
    queueMicrotask(() => this.#deliverWaiting())
  }

  /** @throws UnsendableMessageError for a message that the other side would refuse */
  send(message: ControlMessage): void {
    if (!this.isOpen) return
    const bytes = encodeControlMessage(message)
    this.#observer.sent(message, bytes.byteLength)
    this.#stream.send(bytes)
  }

  async close(): Promise<void> {
    await this.#stream.close()
  }

  /** Ends the channel at once. */
  abort(reason: string): void {
    this.#stream.abort(new Error(reason))
  }

  #receive(frame: Uint8Array): void {
    this.#observer.received(frame.byteLength)
    const message = decodeControlMessage(frame)
    if (message === undefined) return
    if (message.type === 'hello') {
      // A second one would change who the other side is in the middle of the talk.
      if (this.#hello !== undefined) throw new Error('Hello was said twice')
      if (message.version < 1) throw new Error(`No control protocol has version ${message.version}`)
      // Who it is was proven by the connection; where it listens is its own word.
      this.#hello = { ...message, node: { ...message.node, peerId: this.peerId } }
      this.#heard.resolve(this.#hello)
      this.#stream.pause()
      this.#waiting = []
      return
    }
    if (this.#hello === undefined) throw new Error(`${message.type} before hello`)
    if (this.#listener === undefined || this.#waiting.length > 0) this.#waiting.push(message)
    else this.#deliver(message)
  }

  #deliverWaiting(): void {
    try {
      while (this.#waiting.length > 0 && this.#listener !== undefined)
        this.#deliver(this.#waiting.shift() as ControlMessage)
    } catch (error) {
      this.abort(messageOf(error))
    }
    this.#stream.resume()
  }

  #deliver(message: ControlMessage): void {
    try {
      this.#listener?.(message)
    } catch (error) {
      // The message itself is at fault, as only its receiver could see.
      if (error instanceof InvalidMessageError) throw error
      // A mistake of ours in one message must not cost the channel, let alone the node.
      this.#logger.error(
        { err: error, peer: this.peerId, type: message.type },
        `control message failed: ${messageOf(error)}`,
      )
    }
  }
}
