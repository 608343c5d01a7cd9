// A set of chunk indices as a bit field: what a node has, wants, or knows of another node.

/**
 * Which chunks of a blob are there. On the wire and on the disk bit 0 of byte 0 is chunk 0, and bits past the last chunk are
 * zero. In memory it is words of 32 bits: whoever chooses chunks looks at four bytes at once, and the words of a blob of up
 * to 512 chunks lie in V8's heap, where they cost the collector little.
 */
export class ChunkMap {
  readonly length: number
  readonly #words: Int32Array
  #count = 0

  constructor(length: number) {
    this.length = length
    this.#words = new Int32Array(Math.ceil(length / 32))
  }

  static full(length: number): ChunkMap {
    const map = new ChunkMap(length)
    map.#words.fill(-1)
    if (length % 32 !== 0) map.#words[map.#words.length - 1] = 2 ** (length % 32) - 1
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
    for (let at = 0; at < bytes.length; at++) {
      const byte = bytes[at]!
      map.#words[at >> 2]! |= byte << ((at & 3) * 8)
      map.#count += BITS[byte]!
    }
    return map
  }

  /** How many chunks are in the map. */
  get count(): number {
    return this.#count
  }

  /** The bit field itself, chunk 0 in the lowest bit of word 0, for loops that must be fast. Read only: changing it breaks `count`. */
  get words(): Readonly<Int32Array> {
    return this.#words
  }

  get isFull(): boolean {
    return this.#count === this.length
  }

  has(index: number): boolean {
    return ((this.#words[index >> 5] ?? 0) & (1 << (index & 31))) !== 0
  }

  /** Puts a chunk in; false when it was there. @throws RangeError for an index outside the blob */
  add(index: number): boolean {
    this.#check(index)
    if (this.has(index)) return false
    this.#words[index >> 5]! |= 1 << (index & 31)
    this.#count++
    return true
  }

  /** Takes a chunk out; false when it was not there. @throws RangeError for an index outside the blob */
  delete(index: number): boolean {
    this.#check(index)
    if (!this.has(index)) return false
    this.#words[index >> 5]! &= ~(1 << (index & 31))
    this.#count--
    return true
  }

  /** First chunk at or after `from` that is not in the map; `length` when there is none. */
  firstMissing(from = 0): number {
    for (let index = from; index < this.length; index++) {
      if ((index & 31) === 0 && this.#words[index >> 5] === -1) index += 31
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
    map.#words.set(this.#words)
    map.#count = this.#count
    return map
  }

  /** The bit field as it goes over the wire and into the index. */
  toBytes(): Uint8Array {
    const bytes = new Uint8Array(Math.ceil(this.length / 8))
    for (let at = 0; at < bytes.length; at++) bytes[at] = this.#words[at >> 2]! >> ((at & 3) * 8)
    return bytes
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
