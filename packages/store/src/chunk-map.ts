// A set of chunk indices as a bit field: what a node has, wants, or knows of another node.

/** Which chunks of a blob are there. Bit 0 of byte 0 is chunk 0; bits past the last chunk are zero. */
export class ChunkMap {
  readonly length: number
  readonly #bytes: Uint8Array
  #count = 0

  constructor(length: number) {
    this.length = length
    this.#bytes = new Uint8Array(Math.ceil(length / 8))
  }

  static full(length: number): ChunkMap {
    const map = new ChunkMap(length)
    map.#bytes.fill(0xff)
    if (length % 8 !== 0) map.#bytes[map.#bytes.length - 1] = (1 << (length % 8)) - 1
    map.#count = length
    return map
  }

  /**
   * Reads a map from bytes of any origin.
   * @throws RangeError when the bytes do not fit `length`, or name chunks past the end
   */
  static fromBytes(length: number, bytes: Uint8Array): ChunkMap {
    // Before anything is allocated: the length may be anybody's claim.
    if (!Number.isSafeInteger(length) || length < 0 || bytes.length !== Math.ceil(length / 8)) {
      throw new RangeError(`chunk map of ${bytes.length} bytes for ${length} chunks`)
    }
    if (length % 8 !== 0 && (bytes[bytes.length - 1] ?? 0) >> (length % 8) !== 0) {
      throw new RangeError(`chunk map names chunks past the last of ${length}`)
    }
    const map = new ChunkMap(length)
    map.#bytes.set(bytes)
    for (const byte of bytes) map.#count += BITS[byte] ?? 0
    return map
  }

  /** How many chunks are in the map. */
  get count(): number {
    return this.#count
  }

  /** The bit field itself, for loops that must be fast. Read only: changing it breaks `count`. */
  get bytes(): Readonly<Uint8Array> {
    return this.#bytes
  }

  get isFull(): boolean {
    return this.#count === this.length
  }

  has(index: number): boolean {
    return ((this.#bytes[index >> 3] ?? 0) & (1 << (index & 7))) !== 0
  }

  /** Puts a chunk in; false when it was there. @throws RangeError for an index outside the blob */
  add(index: number): boolean {
    this.#check(index)
    if (this.has(index)) return false
    this.#bytes[index >> 3]! |= 1 << (index & 7)
    this.#count++
    return true
  }

  /** Takes a chunk out; false when it was not there. @throws RangeError for an index outside the blob */
  delete(index: number): boolean {
    this.#check(index)
    if (!this.has(index)) return false
    this.#bytes[index >> 3]! &= ~(1 << (index & 7))
    this.#count--
    return true
  }

  /** First chunk at or after `from` that is not in the map; `length` when there is none. */
  firstMissing(from = 0): number {
    for (let index = from; index < this.length; index++) {
      if ((index & 7) === 0 && this.#bytes[index >> 3] === 0xff) index += 7
      else if (!this.has(index)) return index
    }
    return this.length
  }

  /** The chunks in the map, in ascending order. */
  *indices(): Generator<number> {
    for (let index = 0; index < this.length; index++) if (this.has(index)) yield index
  }

  clone(): ChunkMap {
    const map = new ChunkMap(this.length)
    map.#bytes.set(this.#bytes)
    map.#count = this.#count
    return map
  }

  /** A copy of the bit field, as it goes over the wire and into the index. */
  toBytes(): Uint8Array {
    return this.#bytes.slice()
  }

  #check(index: number): void {
    if (!Number.isInteger(index) || index < 0 || index >= this.length) {
      throw new RangeError(`chunk ${index} of a blob with ${this.length} chunks`)
    }
  }
}

const BITS = Uint8Array.from({ length: 256 }, (_, byte) => {
  let bits = 0
  for (let rest = byte; rest > 0; rest >>= 1) bits += rest & 1
  return bits
})
