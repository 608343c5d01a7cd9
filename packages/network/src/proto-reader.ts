// Reads protobuf from strangers: pbf does the decoding but trusts its input, so every length, count and wire type is
// checked here before and after it.
import { PbfReader } from 'pbf'
import { InvalidMessageError } from './errors.ts'

const VARINT = 0
const LENGTH_DELIMITED = 2

const utf8 = new TextDecoder('utf-8', { fatal: true })

/** Reads the fields of one message; nested messages narrow it to themselves for a while. */
export class ProtoReader {
  readonly #pbf: PbfReader
  /** Where the message ends that is being read now. */
  #end: number

  constructor(bytes: Uint8Array) {
    this.#pbf = new PbfReader(bytes)
    this.#end = bytes.byteLength
  }

  /** Number of the next field, 0 at the end. What the caller does not read is skipped. */
  next(): number {
    const field = this.#guard(() => this.#pbf.nextField(this.#end))
    // Field number 0 is not allowed on the wire, and would look like the end here.
    if (field === 0 && this.#pbf.pos !== this.#end) throw new InvalidMessageError('Field number 0')
    return field
  }

  /** A whole number from 0 to 2^53-1. */
  uint(max: number = Number.MAX_SAFE_INTEGER): number {
    this.#expect(VARINT)
    return this.#varint(max)
  }

  bool(): boolean {
    return this.uint() !== 0
  }

  string(maxBytes: number): string {
    const bytes = this.#slice(maxBytes)
    try {
      return utf8.decode(bytes)
    } catch {
      throw new InvalidMessageError('A text is not UTF-8')
    }
  }

  /** A copy, so that a small field does not hold on to the buffer it came in. */
  bytes(maxBytes: number): Uint8Array {
    return Uint8Array.from(this.#slice(maxBytes))
  }

  /** The bytes where they are, for who has no use for them after the message was read. */
  view(maxBytes: number): Uint8Array {
    return this.#slice(maxBytes)
  }

  /** Adds a repeated number to `into`, packed or not (the specification asks readers for both). */
  uints(into: number[], maxCount: number, max: number): void {
    if (this.#pbf.type === VARINT) {
      if (into.length >= maxCount) throw new InvalidMessageError(`More than ${maxCount} numbers in a list`)
      into.push(this.#varint(max))
      return
    }
    const end = this.#lengthDelimited(this.#end - this.#pbf.pos)
    while (this.#pbf.pos < end) {
      if (into.length >= maxCount) throw new InvalidMessageError(`More than ${maxCount} numbers in a list`)
      into.push(this.#varint(max))
    }
    if (this.#pbf.pos !== end) throw new InvalidMessageError('A list of numbers is cut off')
  }

  /** Reads a nested message. */
  message<T>(read: (reader: ProtoReader) => T): T {
    const outer = this.#end
    const end = this.#lengthDelimited(outer - this.#pbf.pos)
    this.#end = end
    const value = read(this)
    if (this.#pbf.pos !== end) throw new InvalidMessageError('A nested message is cut off')
    this.#end = outer
    return value
  }

  #varint(max: number): number {
    const value = this.#guard(() => this.#pbf.readVarint())
    if (!Number.isSafeInteger(value) || value < 0 || value > max) {
      throw new InvalidMessageError(`A number is outside 0..${max}`)
    }
    return value
  }

  #slice(maxBytes: number): Uint8Array {
    const end = this.#lengthDelimited(maxBytes)
    const start = this.#pbf.pos
    this.#pbf.pos = end
    return this.#pbf.buf.subarray(start, end)
  }

  /** Reads the length of a field and returns where it ends. */
  #lengthDelimited(maxBytes: number): number {
    this.#expect(LENGTH_DELIMITED)
    const length = this.#varint(Number.MAX_SAFE_INTEGER)
    const end = this.#pbf.pos + length
    if (end > this.#end) throw new InvalidMessageError('A field is cut off')
    if (length > maxBytes) throw new InvalidMessageError(`A field of ${length} bytes where ${maxBytes} are allowed`)
    return end
  }

  #expect(type: number): void {
    if (this.#pbf.type !== type) throw new InvalidMessageError(`Wire type ${this.#pbf.type} where ${type} is expected`)
  }

  /** pbf runs past the end without a word and throws plain errors: both become ours. */
  #guard<T>(read: () => T): T {
    let value: T
    try {
      value = read()
    } catch (error) {
      throw new InvalidMessageError('Not protobuf', { cause: error })
    }
    if (!(this.#pbf.pos <= this.#end)) throw new InvalidMessageError('A message is cut off')
    return value
  }
}
