// What a node knows about the hashes of a blob's chunks, and who vouches for it. The blob's own digest is the root of
// trust: until the whole blob has matched it, every hash is the word of its signer, and the signer is who is to blame.
import type { Digest } from '@shoal/oci'
import type { ChunkVoucher, VerifySignature } from '@shoal/network'

const HASH_BYTES = 32
/** Chunks that this node vouches for with one signature. */
const CHUNKS_PER_VOUCHER = 8192
/** Chunks that a voucher may name. It is passed on as it is, so it has to fit into a message of 1 MiB, with 35 bytes for each. */
const MAX_CHUNKS = 29_900
/** Other words on one chunk that are kept, and signers of each. */
const MAX_OTHER_WORDS = 8
/** So many who say one and the same against a signer are believed for the time being; one could be the liar itself. */
const ACCUSERS = 2

export interface VoucherBookOptions {
  digest: Digest
  chunkCount: number
  /** Own peer id. */
  self: string
  sign: (bytes: Uint8Array) => Uint8Array
  verify: VerifySignature
}

/** What came of a voucher. */
export interface VoucherOutcome {
  /** Chunks whose hash is known now and was not before. */
  learned: number[]
  /** The signature does not fit, or it names chunks that do not exist, one twice, or too many. */
  invalid: boolean
}

/** The hashes of one blob's chunks with their signers. */
export class VoucherBook {
  readonly #options: VoucherBookOptions
  readonly #byChunk: (ChunkVoucher | undefined)[]
  readonly #hashes: (Uint8Array | undefined)[]
  readonly #distrusted = new Set<string>()
  /** Who has said of a chunk that it has another hash, by that hash in hex: the caught, and who contradicted the first word. */
  readonly #otherWords = new Map<number, Map<string, Set<string>>>()
  /** Chunks of whose hash others have said otherwise. */
  readonly #doubts = new Set<number>()
  /** What those said whose word counts for nothing until the blob is right. */
  readonly #setAside = new Map<string, [chunk: number, hash: Uint8Array][]>()
  /** Called when there is an accusation (see `accused`). Set only during an audit: looking for one costs time. */
  onAccused: (() => void) | undefined
  #known = 0
  #hasForgotten = false

  constructor(options: VoucherBookOptions) {
    this.#options = options
    this.#byChunk = new Array<ChunkVoucher | undefined>(options.chunkCount)
    this.#hashes = new Array<Uint8Array | undefined>(options.chunkCount)
  }

  /** Whether the hash at a place in a voucher is the one that is known of the chunk. */
  agrees(chunk: number, hashes: Uint8Array, at: number): boolean {
    const known = this.#hashes[chunk]
    const said = hashes.subarray(at * HASH_BYTES, (at + 1) * HASH_BYTES)
    return known !== undefined && Buffer.compare(known, said) === 0
  }

  /** How many chunks have a known hash. */
  get known(): number {
    return this.#known
  }

  /** Whether hashes were forgotten: then those who told them once may not know that they are missing. */
  get hasForgotten(): boolean {
    return this.#hasForgotten
  }

  hash(chunk: number): Uint8Array | undefined {
    return this.#hashes[chunk]
  }

  signer(chunk: number): string | undefined {
    return this.#byChunk[chunk]?.signer
  }

  /** Takes the word of another node. The first word on a chunk stands until its signer is distrusted. */
  add(voucher: ChunkVoucher): VoucherOutcome {
    const { indices, hashes, signer } = voucher
    const fits =
      indices.length > 0 &&
      indices.length <= MAX_CHUNKS &&
      hashes.length === indices.length * HASH_BYTES &&
      indices.every((index) => index < this.#options.chunkCount) &&
      new Set(indices).size === indices.length
    if (!fits) return { learned: [], invalid: true }
    if (this.#distrusted.has(signer)) return { learned: [], invalid: false }
    const contradicted: [chunk: number, hash: Uint8Array][] = []
    indices.forEach((index, at) => {
      if (this.#hashes[index] === undefined || this.agrees(index, hashes, at)) return
      contradicted.push([index, hashes.subarray(at * HASH_BYTES, (at + 1) * HASH_BYTES)])
    })
    const isNews =
      indices.some((index) => this.#hashes[index] === undefined) ||
      contradicted.some(([index, hash]) => this.#isNews(index, hash, signer))
    // Nothing new in it: no need to check a signature (the usual case, every neighbour tells the same).
    if (
      isNews &&
      !this.#options.verify(signer, signedBytes(this.#options.digest, indices, hashes), voucher.signature)
    ) {
      return { learned: [], invalid: true }
    }
    for (const [index, hash] of contradicted) {
      if (isNews) this.#noteOtherWord(index, hash, signer)
      // What was not checked now counts only where it was before.
      else if (!this.#hasSaid(index, hash, signer)) continue
      this.#doubts.add(index)
    }
    if (this.onAccused !== undefined && contradicted.some(([index]) => this.#isAccused(index))) this.onAccused()
    return { learned: this.#enter(voucher, false), invalid: false }
  }

  /** Whether a word against the known hash of a chunk would change anything: who repeats it must not cost a check each time. */
  #isNews(index: number, hash: Uint8Array, signer: string): boolean {
    if (this.#hasSaid(index, hash, signer)) return false
    return !this.#doubts.has(index) || this.#hasRoomFor(index, Buffer.from(hash).toString('hex'))
  }

  #hasSaid(index: number, hash: Uint8Array, signer: string): boolean {
    return this.#otherWords.get(index)?.get(Buffer.from(hash).toString('hex'))?.has(signer) === true
  }

  /** Whether one more signer of this word on a chunk would be kept. */
  #hasRoomFor(index: number, sha256: string): boolean {
    const words = this.#otherWords.get(index)
    return (words?.size ?? 0) < MAX_OTHER_WORDS && (words?.get(sha256)?.size ?? 0) < MAX_OTHER_WORDS
  }

  /**
   * Vouches for chunks that came from the origin itself. Own knowledge replaces the word of others; returns the signers
   * that had said otherwise.
   */
  vouch(indices: number[], hashes: Uint8Array): { voucher: ChunkVoucher; contradicted: Set<string> } {
    const contradicted = new Set<string>()
    indices.forEach((index, at) => {
      const before = this.#hashes[index]
      const now = hashes.subarray(at * HASH_BYTES, (at + 1) * HASH_BYTES)
      const signer = this.signer(index)
      if (before !== undefined && signer !== undefined && Buffer.compare(before, now) !== 0) contradicted.add(signer)
    })
    contradicted.delete(this.#options.self)
    const voucher: ChunkVoucher = {
      indices,
      hashes,
      signer: this.#options.self,
      signature: this.#options.sign(signedBytes(this.#options.digest, indices, hashes)),
    }
    this.#enter(voucher, true)
    return { voucher, contradicted }
  }

  /** The vouchers that say the hashes of these chunks, each once. */
  vouchersFor(indices: Iterable<number>): ChunkVoucher[] {
    const vouchers = new Set<ChunkVoucher>()
    for (const index of indices) {
      const voucher = this.#byChunk[index]
      if (voucher !== undefined) vouchers.add(voucher)
    }
    return [...vouchers]
  }

  /** Whether a signer's word does not count any more. */
  distrusts(signer: string): boolean {
    return this.#distrusted.has(signer)
  }

  /** Forgets all that a signer said, for good. Returns the chunks whose hash is unknown now. */
  distrust(signer: string): number[] {
    this.#distrusted.add(signer)
    this.#hasForgotten = true
    const chunks: number[] = []
    this.#byChunk.forEach((voucher, index) => {
      if (voucher?.signer === signer) chunks.push(index)
    })
    for (const index of chunks) {
      this.#noteOtherWord(index, this.#hashes[index]!, signer)
      this.#forget(index)
    }
    return chunks
  }

  /**
   * Whose voice it is when a peer sends bytes with another hash (in hex) than the known one: its own, or that of the signer
   * whose word it believed. Undefined when that one was caught.
   */
  voiceOf(index: number, sha256: string, sender: string): string | undefined {
    const signers = this.#otherWords.get(index)?.get(sha256)
    if (signers === undefined || signers.has(sender)) return sender
    return [...signers].find((signer) => !this.#distrusted.has(signer))
  }

  #noteOtherWord(index: number, hash: Uint8Array, signer: string): void {
    const words = this.#otherWords.get(index) ?? new Map<string, Set<string>>()
    this.#otherWords.set(index, words)
    const sha256 = Buffer.from(hash).toString('hex')
    if (this.#hasRoomFor(index, sha256)) words.set(sha256, (words.get(sha256) ?? new Set<string>()).add(signer))
  }

  /** Forgets the hashes of some chunks, whoever said them. */
  forget(indices: Iterable<number>): void {
    this.#hasForgotten = true
    for (const index of indices) this.#forget(index)
  }

  #forget(index: number): void {
    if (this.#hashes[index] === undefined) return
    this.#doubts.delete(index)
    this.#hashes[index] = undefined
    this.#byChunk[index] = undefined
    this.#known--
  }

  /** Chunks of whose hash two nodes have said different things, and it is not known yet who is right. */
  doubts(): number[] {
    return [...this.#doubts].filter((index) => this.signer(index) !== this.#options.self)
  }

  /** The chunk was compared with the origin. */
  settleDoubt(index: number): void {
    this.#doubts.delete(index)
  }

  /** Signers of whose word on a chunk two others have said the same other thing. */
  accused(): string[] {
    const accused = this.doubts().flatMap((index) => (this.#isAccused(index) ? [this.signer(index)!] : []))
    return [...new Set(accused)]
  }

  /** Whether the word of its signer on a chunk is one that two others contradict alike. */
  #isAccused(index: number): boolean {
    const signer = this.signer(index)
    if (signer === undefined || signer === this.#options.self) return false
    const isCounted = (other: string) => other !== signer && !this.#distrusted.has(other)
    return [...(this.#otherWords.get(index)?.values() ?? [])].some(
      (accusers) => [...accusers].filter(isCounted).length >= ACCUSERS,
    )
  }

  /** Forgets what a signer said until `judge` tells whether it was wrong. Returns the chunks whose hash is unknown now. */
  setAside(signer: string): number[] {
    const chunks = this.signers().get(signer) ?? []
    this.#setAside.set(
      signer,
      chunks.map((chunk) => [chunk, this.#hashes[chunk]!]),
    )
    return this.distrust(signer)
  }

  /** The whole blob is right: those who were set aside, and had said something else. */
  judge(hashOf: (chunk: number) => Uint8Array | undefined): string[] {
    const isWrong = ([chunk, said]: [number, Uint8Array]) => Buffer.compare(said, hashOf(chunk) ?? said) !== 0
    return [...this.#setAside].flatMap(([signer, words]) => (words.some(isWrong) ? [signer] : []))
  }

  /** All signers but this node, with the chunks they vouch for. */
  signers(): Map<string, number[]> {
    const signers = new Map<string, number[]>()
    this.#byChunk.forEach((voucher, index) => {
      if (voucher === undefined || voucher.signer === this.#options.self) return
      const chunks = signers.get(voucher.signer)
      if (chunks === undefined) signers.set(voucher.signer, [index])
      else chunks.push(index)
    })
    return signers
  }

  #enter(voucher: ChunkVoucher, replace: boolean): number[] {
    const learned: number[] = []
    voucher.indices.forEach((index, at) => {
      if (this.#hashes[index] !== undefined) {
        if (!replace) return
      } else {
        this.#known++
        learned.push(index)
      }
      this.#hashes[index] = voucher.hashes.subarray(at * HASH_BYTES, (at + 1) * HASH_BYTES)
      this.#byChunk[index] = voucher
    })
    return learned
  }
}

/** Vouchers for a whole blob that this node has verified: one, but for the largest of blobs. */
export function vouchForBlob(
  digest: Digest,
  hashes: Uint8Array,
  signer: string,
  sign: (bytes: Uint8Array) => Uint8Array,
): ChunkVoucher[] {
  const all = Array.from({ length: hashes.length / HASH_BYTES }, (_, index) => index)
  return inVouchers(all).map((indices) => {
    const first = indices[0]! * HASH_BYTES
    const part = hashes.subarray(first, first + indices.length * HASH_BYTES)
    return { indices, hashes: part, signer, signature: sign(signedBytes(digest, indices, part)) }
  })
}

/** Chunks in as many parts as they take vouchers. */
export function inVouchers(chunks: readonly number[]): number[][] {
  const parts: number[][] = []
  for (let from = 0; from < chunks.length; from += CHUNKS_PER_VOUCHER) {
    parts.push(chunks.slice(from, from + CHUNKS_PER_VOUCHER))
  }
  return parts
}

/** What a voucher's signature covers; docs/protocol.md, "Vouchers". */
function signedBytes(digest: Digest, indices: readonly number[], hashes: Uint8Array): Uint8Array {
  const head = Buffer.from(`shoal-voucher-v1\0${digest}\0`)
  const numbers = Buffer.alloc(indices.length * 4)
  indices.forEach((index, at) => numbers.writeUInt32BE(index, at * 4))
  return Buffer.concat([head, numbers, hashes])
}
