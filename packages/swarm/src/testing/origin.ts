// An origin in memory that counts what it sends, and misbehaves on request.
import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import { digestOf, type Digest } from '@shoal/oci'
import { UpstreamError } from '@shoal/upstream'
import type { OriginSource } from '../context.ts'

const PIECE_BYTES = 64 * 1024

/** What an origin does before it answers; it may throw, wait, or never come back. */
export type OriginMood = (range: { start: number; end: number }, signal: AbortSignal) => Promise<void> | void

export class MemoryOrigin {
  readonly host = 'origin.test'
  readonly blobs = new Map<Digest, Buffer>()
  /** Bytes that were taken from it. */
  sentBytes = 0
  /** Ranges that were asked for. */
  readonly asked: { digest: Digest; start: number; end: number }[] = []
  mood: OriginMood = () => undefined
  /** Called before each piece of an answer, with its place in the answer and in the blob. */
  pace: (sentBytes: number, position: number) => Promise<void> | void = () => undefined
  ignoresRange = false

  add(content: Buffer | number): Digest {
    const bytes = typeof content === 'number' ? randomBytes(content) : content
    const digest = digestOf(bytes)
    this.blobs.set(digest, bytes)
    return digest
  }

  content(digest: Digest): Buffer {
    const bytes = this.blobs.get(digest)
    if (bytes === undefined) throw new Error(`the test has no blob ${digest}`)
    return bytes
  }

  size(digest: Digest): number {
    return this.content(digest).length
  }

  source(digest: Digest): OriginSource {
    return {
      host: this.host,
      chunkList: async () => undefined,
      open: async ({ start, end }, signal) => {
        this.asked.push({ digest, start, end })
        await this.mood({ start, end }, signal)
        const bytes = this.blobs.get(digest)
        if (bytes === undefined) throw new UpstreamError('NOT_FOUND', this.host, `${this.host} does not have ${digest}`)
        if (start >= bytes.length && start > 0 && !this.ignoresRange) {
          const message = `there is nothing from ${start} on`
          throw new UpstreamError('PROTOCOL', this.host, message, { status: 416 })
        }
        const partial = !this.ignoresRange
        const part = partial ? bytes.subarray(start, end + 1) : bytes
        const first = partial ? start : 0
        const body = Readable.from(this.#pieces(part, first, signal), { highWaterMark: 1 })
        return { start: first, sizeBytes: bytes.length, partial, body }
      },
    }
  }

  async *#pieces(bytes: Buffer, first: number, signal: AbortSignal): AsyncGenerator<Buffer> {
    for (let from = 0; from < bytes.length; from += PIECE_BYTES) {
      await this.pace(from, first + from)
      signal.throwIfAborted()
      const piece = bytes.subarray(from, from + PIECE_BYTES)
      this.sentBytes += piece.length
      // A copy: whoever changes the bytes it was given must not change the origin's.
      yield Buffer.from(piece)
    }
  }
}

/** Never answers, until the asker gives up. */
export const hanging: OriginMood = (_range, signal) =>
  new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true })
  })

export function refusing(code: 'NOT_FOUND' | 'UNAUTHORIZED' | 'DENIED' | 'SERVER_ERROR' | 'RATE_LIMITED'): OriginMood {
  return () => {
    throw new UpstreamError(code, 'origin.test', `origin.test said ${code}`)
  }
}
