// A libp2p stream that carries frames in both directions for a long time: writes of one turn go out together, a peer
// that does not read is cut off, and one that says nothing at all is taken for dead.
import { setInterval as every } from 'node:timers'
import type { Stream, StreamMessageEvent } from '@libp2p/interface'
import { FrameReader, lengthPrefix } from './frames.ts'
import { quietWindowUpdates } from './quiet-windows.ts'

/** Bounds of a stream; the defaults are meant for production, tests have less patience. */
export interface StreamLimits {
  /** Largest frame in bytes. */
  maxFrameBytes: number
  /** What may wait for a peer that reads slowly. @default 8 MiB */
  maxQueuedBytes: number
  /** How long a peer may take nothing at all while something waits for it. @default 30 s */
  drainTimeoutMs: number
  /** An empty frame is sent after so long a silence of our own. @default 15 s */
  heartbeatMs: number
  /** Silence of the other side after which it is taken for dead. @default 60 s */
  silenceTimeoutMs: number
}

/** Yamux cuts at 64 KiB anyway; bigger batches would only be copied once more. */
const BATCH_BYTES = 64 * 1024
/** How long a close may wait for what is still queued. */
const CLOSE_TIMEOUT_MS = 1000
const HEARTBEAT = new Uint8Array()

export class FramedStream {
  /** Called for every frame but empty ones. What it throws ends the stream. */
  onFrame: (frame: Uint8Array) => void = () => undefined
  /** Called before the stream is ended because of what has come: no frames, or what `onFrame` threw. */
  onBroken: (error: Error) => void = () => undefined
  /** Told of all that comes in, signs of life too; gives back for how many milliseconds nothing more is read. */
  meter: (frames: number, bytes: number) => number = () => 0
  /** Settles when the stream is over; never rejects. The error says why, where it was not closed in good order. */
  readonly closed: Promise<Error | undefined>

  readonly #stream: Stream
  readonly #limits: StreamLimits
  readonly #reader: FrameReader
  readonly #settle: (error: Error | undefined) => void
  readonly #heartbeat: NodeJS.Timeout
  #queue: Uint8Array[] = []
  #queuedBytes = 0
  #flushScheduled = false
  #drainTimer: NodeJS.Timeout | undefined
  #lastSentMs = performance.now()
  #lastReceivedMs = performance.now()
  #lastBeatMs = performance.now()
  #isOpen = true
  #closing = false
  /** Who wants the stream to be paused: the owner, and what `meter` said. */
  #paused = false
  #held: NodeJS.Timeout | undefined
  #resuming = false
  #emptied: () => void = () => undefined

  constructor(stream: Stream, limits: StreamLimits) {
    this.#stream = stream
    quietWindowUpdates(stream)
    this.#limits = limits
    this.#reader = new FrameReader(limits.maxFrameBytes)
    const { promise, resolve } = Promise.withResolvers<Error | undefined>()
    this.closed = promise
    this.#settle = resolve
    this.#heartbeat = every(() => this.#beat(), Math.min(limits.heartbeatMs, limits.silenceTimeoutMs) / 2).unref()
    stream.addEventListener('message', (event) => this.#receive(event))
    stream.addEventListener('drain', () => this.#drained())
    stream.addEventListener('remoteCloseWrite', () => this.#finish())
    stream.addEventListener('close', (event) => this.#over(event.error))
    if (stream.status !== 'open') this.#over(new Error('The stream was closed before it was used'))
  }

  get isOpen(): boolean {
    return this.#isOpen && !this.#closing
  }

  /** Bytes that wait here for the peer to read. */
  get queuedBytes(): number {
    return this.#queuedBytes + this.#stream.writeBufferLength
  }

  /** Queues a frame. Nothing happens on a stream that is over. */
  send(frame: Uint8Array): void {
    if (!this.isOpen) return
    this.#queue.push(lengthPrefix(frame.byteLength), frame)
    this.#queuedBytes += frame.byteLength + 1
    if (this.queuedBytes > this.#limits.maxQueuedBytes) {
      this.abort(new Error(`The peer does not read: ${this.queuedBytes} bytes wait for it`))
      return
    }
    if (this.#flushScheduled) return
    this.#flushScheduled = true
    setImmediate(() => {
      this.#flushScheduled = false
      this.#flush()
    })
  }

  /** Stops frames from coming in until `resume`; the sender is held back by flow control. */
  pause(): void {
    this.#paused = true
    this.#applyPause()
  }

  resume(): void {
    this.#paused = false
    this.#applyPause()
  }

  /** Sends what is queued, then closes. Settles when the stream is over. */
  async close(): Promise<void> {
    this.#finish()
    await this.closed
  }

  /** Ends the stream at once, also for the other side. */
  abort(error: Error): void {
    if (!this.#isOpen) return
    this.#stream.abort(error)
    this.#over(error)
  }

  #receive(event: StreamMessageEvent): void {
    this.#lastReceivedMs = performance.now()
    let frames = 0
    try {
      for (const bytes of event.data instanceof Uint8Array ? [event.data] : event.data) {
        for (const frame of this.#reader.read(bytes)) {
          frames++
          if (frame.byteLength > 0 && this.#isOpen) this.onFrame(frame)
        }
      }
    } catch (error) {
      const broken = error instanceof Error ? error : new Error(String(error))
      if (this.#isOpen) this.onBroken(broken)
      this.abort(broken)
      return
    }
    this.#hold(this.meter(frames, event.data.byteLength))
  }

  /** Reads nothing for a while: flow control holds the sender back. */
  #hold(ms: number): void {
    if (ms <= 0 || !this.#isOpen) return
    clearTimeout(this.#held)
    this.#held = setTimeout(() => {
      this.#held = undefined
      // That nothing came meanwhile was not the peer's doing.
      this.#lastReceivedMs = performance.now()
      this.#applyPause()
    }, ms)
    this.#applyPause()
  }

  #applyPause(): void {
    // libp2p's resume delivers what has been held, then tells the sender to go on: a pause in between would be forgotten.
    if (!this.#isOpen || this.#resuming) return
    const pause = this.#paused || this.#held !== undefined
    if (pause && this.#stream.readStatus === 'readable') this.#stream.pause()
    if (pause || this.#stream.readStatus !== 'paused') return
    this.#resuming = true
    try {
      this.#stream.resume()
    } catch (error) {
      // What was delivered may have ended the connection under it, or it went away meanwhile.
      this.abort(error instanceof Error ? error : new Error(String(error)))
    } finally {
      this.#resuming = false
    }
    this.#applyPause()
  }

  #flush(): void {
    try {
      while (this.#isOpen && this.#queue.length > 0 && !this.#stream.writableNeedsDrain) {
        const batch: Uint8Array[] = []
        let bytes = 0
        while (batch.length < this.#queue.length && bytes < BATCH_BYTES) {
          const part = this.#queue[batch.length] as Uint8Array
          batch.push(part)
          bytes += part.byteLength
        }
        this.#queue.splice(0, batch.length)
        this.#queuedBytes = this.#queue.length === 0 ? 0 : Math.max(0, this.#queuedBytes - bytes)
        this.#lastSentMs = performance.now()
        this.#stream.send(Buffer.concat(batch, bytes))
      }
    } catch (error) {
      this.abort(error instanceof Error ? error : new Error(String(error)))
      return
    }
    if (this.#isOpen && this.#stream.writableNeedsDrain) {
      this.#drainTimer ??= setTimeout(() => {
        this.abort(new Error(`The peer has read nothing for ${this.#limits.drainTimeoutMs} ms`))
      }, this.#limits.drainTimeoutMs).unref()
    }
    if (this.#queue.length === 0) this.#emptied()
  }

  #drained(): void {
    clearTimeout(this.#drainTimer)
    this.#drainTimer = undefined
    // libp2p's own listener sends what it has buffered first.
    setImmediate(() => this.#flush())
  }

  /** Half of a close: everything queued is sent, then our end is closed; the other end does the same. */
  #finish(): void {
    if (this.#closing || !this.#isOpen) return
    this.#flush()
    this.#closing = true
    const deadline = AbortSignal.timeout(CLOSE_TIMEOUT_MS)
    deadline.addEventListener('abort', () => this.abort(new Error('The peer did not close its end')))
    const finish = async (): Promise<void> => {
      if (this.#queue.length > 0) await new Promise<void>((resolve) => (this.#emptied = resolve))
      await this.#stream.close({ signal: deadline })
    }
    finish().catch((error: unknown) => this.abort(error instanceof Error ? error : new Error(String(error))))
  }

  #beat(): void {
    const now = performance.now()
    const late = now - this.#lastBeatMs > 2 * this.#limits.heartbeatMs
    this.#lastBeatMs = now
    // This process itself stood still: what the peer has sent meanwhile may not have been read yet.
    if (late || this.#held !== undefined) this.#lastReceivedMs = now
    if (now - this.#lastReceivedMs > this.#limits.silenceTimeoutMs) {
      this.abort(new Error(`Nothing heard for ${this.#limits.silenceTimeoutMs} ms`))
    } else if (now - this.#lastSentMs >= this.#limits.heartbeatMs / 2) {
      this.send(HEARTBEAT)
    }
  }

  #over(error: Error | undefined): void {
    if (!this.#isOpen) return
    this.#isOpen = false
    clearInterval(this.#heartbeat)
    clearTimeout(this.#held)
    clearTimeout(this.#drainTimer)
    this.#queue = []
    this.#queuedBytes = 0
    this.#settle(error)
  }
}
