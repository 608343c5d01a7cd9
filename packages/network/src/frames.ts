// Length-prefixed messages on a libp2p stream: a varint, then as many bytes.
import { InvalidMessageError } from './errors.ts'

/** Cuts a stream of bytes into frames. A frame may be a view of the bytes it came in: read it before the next turn. */
export class FrameReader {
  readonly #maxBytes: number
  /** Length being read, seven bits at a time. */
  #length = 0
  #shift = 0
  /** A frame that began in bytes of before; undefined while a length is being read. */
  #partial: Buffer | undefined
  #filled = 0

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  /** @throws InvalidMessageError when a frame is longer than allowed; the stream is of no use then */
  *read(bytes: Uint8Array): Generator<Uint8Array> {
    let at = 0
    while (at < bytes.byteLength) {
      if (this.#partial !== undefined) {
        const wanted = Math.min(this.#partial.byteLength - this.#filled, bytes.byteLength - at)
        this.#partial.set(bytes.subarray(at, at + wanted), this.#filled)
        this.#filled += wanted
        at += wanted
        if (this.#filled < this.#partial.byteLength) return
        const frame = this.#partial
        this.#partial = undefined
        yield frame
        continue
      }
      const byte = bytes[at++] as number
      this.#length += (byte & 0x7f) * 2 ** this.#shift
      if (this.#length > this.#maxBytes || this.#shift > 28) {
        throw new InvalidMessageError(`A message of more than ${this.#maxBytes} bytes`)
      }
      if (byte >= 0x80) {
        this.#shift += 7
        continue
      }
      const length = this.#length
      this.#length = 0
      this.#shift = 0
      if (at + length <= bytes.byteLength) {
        yield bytes.subarray(at, at + length)
        at += length
      } else {
        this.#partial = Buffer.allocUnsafe(length)
        this.#filled = 0
      }
    }
  }
}

/** The varint that goes before a frame. */
export function lengthPrefix(length: number): Uint8Array {
  const bytes: number[] = []
  let rest = length
  while (rest >= 0x80) {
    bytes.push((rest & 0x7f) | 0x80)
    rest = Math.floor(rest / 128)
  }
  bytes.push(rest)
  return Uint8Array.from(bytes)
}
