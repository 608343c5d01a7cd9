// The bytes of an upload on their way out: cut to the part that is asked for, and checked. The last byte of a blob
// leaves only after the digest of the whole has matched, so that a registry never gets to keep a wrong one.
import { Readable } from 'node:stream'
import { createDigestHash, type DigestHash } from '@shoal/oci'
import { BlobSourceError, type BlobSource } from './push.ts'
import { UpstreamError } from './upstream.ts'

const BUFFER_BYTES = 256 * 1024

export class UploadSource {
  readonly #source: BlobSource
  readonly #hash: DigestHash
  readonly #onProgress: ((sentBytes: number) => void) | undefined
  /** How far the hash has come; a resumed upload may begin before this, never after. */
  #hashedBytes = 0
  #failure: Error | undefined

  constructor(source: BlobSource, onProgress?: (sentBytes: number) => void) {
    this.#source = source
    this.#hash = createDigestHash(source.digest)
    this.#onProgress = onProgress
  }

  /** Most that a registry can have of it. */
  get handedOverBytes(): number {
    return this.#hashedBytes
  }

  /** Why reading failed, if it did: an upload then broke because of that, whatever else was seen of it. */
  takeFailure(): Error | undefined {
    const failure = this.#failure
    this.#failure = undefined
    return failure
  }

  /** The bytes from `start` up to `end`, which is not included. */
  async open(start: number, end: number): Promise<Readable> {
    if (start > this.#hashedBytes) throw new Error('an upload cannot be resumed after what was sent')
    let input: Readable
    try {
      input = await this.#source.open(start)
    } catch (error) {
      throw this.#failed(error)
    }
    let givenUp = false
    const part = this.#part(input, start, end, () => givenUp)
    const output = Readable.from(part, { objectMode: false, highWaterMark: BUFFER_BYTES })
    const endPart = output._destroy.bind(output)
    // The generator cannot be ended while it waits for the next bytes, which may never come.
    output._destroy = (error, callback) => {
      givenUp = true
      input.destroy()
      endPart(error, callback)
    }
    output.on('error', () => undefined)
    return output
  }

  async *#part(input: Readable, start: number, end: number, isGivenUp: () => boolean): AsyncGenerator<Buffer> {
    const { sizeBytes } = this.#source
    let position = start
    try {
      for await (const chunk of input as AsyncIterable<Buffer>) {
        if (position + chunk.length > sizeBytes) throw new Error(`its source has more than ${sizeBytes} bytes`)
        const wanted = chunk.subarray(0, end - position)
        this.#check(wanted, position)
        position += wanted.length
        this.#onProgress?.(position)
        yield wanted
        if (position === end && end < sizeBytes) return
      }
      if (position < end) throw new Error(`its source ended after ${position} of ${sizeBytes} bytes`)
    } catch (error) {
      // Input that was destroyed because nobody wants it any more has not failed.
      throw isGivenUp() ? error : this.#failed(error)
    }
  }

  #check(bytes: Buffer, position: number): void {
    const { digest, sizeBytes } = this.#source
    if (position + bytes.length <= this.#hashedBytes) return
    this.#hash.update(bytes.subarray(this.#hashedBytes - position))
    this.#hashedBytes = position + bytes.length
    if (this.#hashedBytes < sizeBytes) return
    const actual = this.#hash.digest()
    if (actual !== digest) throw new Error(`its bytes have the digest ${actual}`)
  }

  #failed(error: unknown): Error {
    const { message } = error as Error
    this.#failure ??=
      error instanceof UpstreamError ? error : new BlobSourceError(this.#source.digest, message, { cause: error })
    return this.#failure
  }
}
