// A readable stream over a blob, whole or arriving. It reads a MiB at a time: measured best for serving.
import { addAbortSignal, Readable } from 'node:stream'
import { freeReadBuffer, READ_BUFFER_OFFSET_BYTES, readBuffer } from '@shoal/oci'
import type { ReadOptions } from './store.ts'

/** Largest buffer that a stream hands out, and how far it reads ahead of its consumer. */
export const STREAM_BUFFER_BYTES = 1024 * 1024

/** Buffers that a stream keeps for its next reads. */
const KEPT_BUFFERS = 3

/** What a stream reads from. */
export interface StreamSource {
  readonly sizeBytes: number
  /** How many bytes from `position` can be read now, up to `most`; 0 when they have to be waited for. */
  readable(position: number, most: number): number
  /** Calls `ready` once when more may be readable at `position`, or the source failed. Returns the cancellation. */
  wait(position: number, ready: (failure?: Error) => void): () => void
  /** Fills `into`. False when bytes of it ceased to be valid meanwhile. */
  read(into: Uint8Array, position: number): Promise<boolean>
  /** Whether the stream of an empty blob may end. */
  settled(): boolean
  /** The stream is over. Called once, and not while it reads. */
  release(): void
}

export class BlobStream extends Readable {
  /** The next byte it will read. */
  position: number
  readonly #source: StreamSource
  readonly #end: number
  #cancelWait: (() => void) | undefined
  #reading = false
  /** Buffers that came back: fresh ones for every read made the garbage collector the largest user of CPU. */
  readonly #kept: Buffer[] = []
  #destroyed: (() => void) | undefined

  /** @throws RangeError when the range does not lie within the blob; the source is released then, too */
  constructor(source: StreamSource, options: ReadOptions = {}) {
    super({ highWaterMark: STREAM_BUFFER_BYTES })
    const { start = 0, end = source.sizeBytes - 1 } = options
    const valid = Number.isSafeInteger(start) && Number.isSafeInteger(end) && start >= 0 && end < source.sizeBytes
    if (!valid || start > end + 1) {
      source.release()
      throw new RangeError(`bytes ${start}-${end} of a blob of ${source.sizeBytes} bytes`)
    }
    this.#source = source
    this.position = start
    this.#end = end + 1
    if (options.signal !== undefined) addAbortSignal(options.signal, this)
  }

  override _read(): void {
    if (this.#reading || this.#cancelWait !== undefined || this.destroyed) return
    const left = this.#end - this.position
    if (left === 0 && (this.#source.sizeBytes > 0 || this.#source.settled())) {
      this.push(null)
      return
    }
    const count = left === 0 ? 0 : this.#source.readable(this.position, Math.min(left, STREAM_BUFFER_BYTES))
    if (count === 0) {
      this.#cancelWait = this.#source.wait(this.position, (failure) => {
        this.#cancelWait = undefined
        if (failure === undefined) this._read()
        else this.destroy(failure)
      })
      return
    }
    this.#reading = true
    this.#fill(this.#buffer(left).subarray(0, count)).catch((error: unknown) => this.destroy(error as Error))
  }

  /**
   * Takes back a buffer that this stream gave out, when its bytes have left: it is filled again, or freed. Whoever does not
   * call this keeps the buffer.
   */
  recycle(piece: Buffer): void {
    const { buffer, byteOffset, byteLength } = piece
    const isLarge = buffer.byteLength === STREAM_BUFFER_BYTES + READ_BUFFER_OFFSET_BYTES
    // `read()` may have joined several pieces, in memory that belongs to others, too.
    const isOwn = byteOffset === READ_BUFFER_OFFSET_BYTES && (isLarge || buffer.byteLength === byteOffset + byteLength)
    if (!isOwn) return
    if (this.destroyed || !isLarge || this.#kept.length >= KEPT_BUFFERS) freeReadBuffer(piece)
    else this.#kept.push(Buffer.from(buffer as ArrayBuffer, READ_BUFFER_OFFSET_BYTES))
  }

  #buffer(left: number): Buffer {
    return this.#kept.pop() ?? readBuffer(Math.min(left, STREAM_BUFFER_BYTES))
  }

  async #fill(buffer: Buffer): Promise<void> {
    let valid: boolean
    try {
      valid = await this.#source.read(buffer, this.position)
    } finally {
      this.#reading = false
      this.#destroyed?.()
    }
    if (this.destroyed) return freeReadBuffer(buffer)
    if (!valid) return this._read()
    this.position += buffer.byteLength
    this.push(buffer)
    if (this.position === this.#end && this.#source.sizeBytes > 0) this.push(null)
  }

  /** Ends the stream with this error as soon as it is not reading; what it handed out already stays valid. */
  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#cancelWait?.()
    this.#cancelWait = undefined
    const finish = () => {
      for (const buffer of this.#kept.splice(0)) freeReadBuffer(buffer)
      this.#source.release()
      callback(error)
    }
    if (this.#reading) this.#destroyed = finish
    else finish()
  }
}
