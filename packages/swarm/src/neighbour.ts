// Another node in the swarm of one blob, as this node sees it.
import type { ChunkVoucher, ControlChannel, NodeAddress } from '@shoal/network'
import { ChunkMap } from '@shoal/store'
import type { Digest } from '@shoal/oci'
import { isToBeLeft, textHash, type NeighbourView } from './policy/index.ts'
import type { ChunkBoard } from './chunk-board.ts'
import { sendHave } from './join-message.ts'
import type { VoucherBook } from './voucher-book.ts'

/** A neighbour in one swarm. Keeps the board's availability right for what it offers. */
export class Neighbour implements NeighbourView {
  channel: ControlChannel
  readonly hash: number
  /** It is in another zone than this node. */
  readonly remote: boolean
  outstanding = 0
  notBeforeMs = 0
  freeSlots = 0
  strikes = 0
  complete = false
  /** When it last showed that it is getting chunks from the origin or elsewhere. */
  lastNewsMs: number
  /** When it last told of a chunk that it did not have before. */
  lastGainMs: number
  /** Chunks that it claims to be fetching from the origin, with the time of the claim. */
  readonly claims = new Map<number, number>()
  /** When it claimed a chunk first that it has not told to have since. */
  readonly claimedSinceMs = new Map<number, number>()
  /** It has given a chunk. */
  hasDelivered = false
  /** It has never answered a request, or answers with a byte now and then. */
  isSilent = true
  /** When it said busy first. */
  busySinceMs: number | undefined
  /** It only says busy: what it has does not count as available until it gives some of it. */
  isPutOff = false
  /** Since when it has said that it has chunks whose hashes neither it nor anybody else has told. */
  unvouchedSinceMs: number | undefined
  /** Chunks in a row that it said it has and did not have. */
  missed = 0
  /** Chunks that it has and whose hash is known here: those that can be asked for. */
  readonly chunks: ChunkMap
  /** Chunks that it says it has. */
  readonly #said: ChunkMap
  /** Chunks whose hash this neighbour has told, or was told. */
  readonly #hashTold: ChunkMap
  readonly #board: ChunkBoard
  readonly #book: VoucherBook
  /** After a failure: what it has does not count as available. */
  #suspended = false

  constructor(channel: ControlChannel, board: ChunkBoard, book: VoucherBook, nowMs: number, ownZone: string) {
    this.channel = channel
    this.hash = textHash(channel.peerId)
    this.remote = channel.hello.node.zone !== ownZone
    this.lastNewsMs = nowMs
    this.lastGainMs = nowMs
    this.#board = board
    this.#book = book
    this.chunks = new ChunkMap(board.open.length)
    this.#said = new ChunkMap(board.open.length)
    this.#hashTold = new ChunkMap(board.open.length)
  }

  get peerId(): string {
    return this.channel.peerId
  }

  get address(): NodeAddress {
    return this.channel.hello.node
  }

  /** It says it has these chunks. */
  offers(indices: Iterable<number>): void {
    for (const chunk of indices) {
      if (chunk >= this.#said.length) continue
      if (this.#said.add(chunk)) this.lastGainMs = performance.now()
      this.claims.delete(chunk)
      this.claimedSinceMs.delete(chunk)
      if (this.#book.hash(chunk) !== undefined) this.#usable(chunk)
    }
    this.#noteUnvouched()
  }

  /** It says it is fetching a chunk from the origin. */
  claim(chunk: number, nowMs: number): void {
    this.claims.set(chunk, nowMs)
    if (!this.claimedSinceMs.has(chunk)) this.claimedSinceMs.set(chunk, nowMs)
  }

  /** Replaces what it was believed to have. */
  offersExactly(map: ChunkMap): void {
    for (const chunk of [...this.#said.indices()]) if (!map.has(chunk)) this.withdraws(chunk)
    this.offers(map.indices())
  }

  /** It does not have this chunk (any more). */
  withdraws(chunk: number): void {
    if (chunk >= this.#said.length) return
    this.#said.delete(chunk)
    this.#unusable(chunk)
    this.#noteUnvouched()
  }

  /** The hash of a chunk has become known: it can be asked for now if this neighbour has it. */
  hashKnown(chunk: number): void {
    if (!this.#said.has(chunk)) return
    this.#usable(chunk)
    this.#noteUnvouched()
  }

  /** The hash of a chunk is not known any more (its signer lied). */
  hashForgotten(chunk: number): void {
    this.#hashTold.delete(chunk)
    this.#unusable(chunk)
    this.#noteUnvouched()
  }

  /** Notes which hashes it knows, so that they are not told to it again. Another hash than this node's is no such hash. */
  toldHashes(vouchers: Iterable<ChunkVoucher>): void {
    for (const voucher of vouchers) {
      voucher.indices.forEach((chunk, at) => {
        if (this.#book.agrees(chunk, voucher.hashes, at)) this.#hashTold.add(chunk)
      })
    }
  }

  /** Vouchers for these chunks that it has not seen yet; counts them as told. */
  vouchersToTell(indices: Iterable<number>): ChunkVoucher[] {
    const unknown: number[] = []
    for (const chunk of indices) if (!this.#hashTold.has(chunk)) unknown.push(chunk)
    const vouchers = this.#book.vouchersFor(unknown)
    this.toldHashes(vouchers)
    return vouchers
  }

  /** Tells it of chunks that it does not have itself: of others the news would be of no use to it. */
  tellHave(digest: Digest, chunks: readonly number[], complete: boolean, freeSlots: number): void {
    const indices = chunks.filter((chunk) => !this.#said.has(chunk))
    if (indices.length === 0 && !complete) return
    sendHave(this.channel, { digest, indices, vouchers: this.vouchersToTell(indices), complete, freeSlots })
  }

  /**
   * A request to it failed: it is left alone for a while, longer each time, and what it has is taken from others or the
   * origin meanwhile. Returns whether to give it up.
   */
  strike(nowMs: number, cheapElsewhere = false): boolean {
    this.strikes++
    if (!this.#suspended) for (const chunk of this.chunks.indices()) this.#board.offered(chunk, this.remote, -1)
    this.#suspended = true
    this.notBeforeMs = nowMs + 500 * 2 ** this.strikes
    return isToBeLeft(
      { failures: this.strikes, hasDelivered: this.hasDelivered, isSilent: this.isSilent },
      cheapElsewhere,
    )
  }

  /** It says busy and nothing else: a strike, after which it is asked, but not counted on. Returns whether to give it up. */
  putOff(nowMs: number): boolean {
    this.isPutOff = true
    // Else a node without an origin would take what nobody else has for lost, though this one may still give it.
    this.complete = false
    return this.strike(nowMs)
  }

  /** Counts it again when the wait after a failure is over. */
  resume(nowMs: number): void {
    if (!this.#suspended || this.notBeforeMs > nowMs || (this.isPutOff && !this.hasDelivered)) return
    this.#suspended = false
    for (const chunk of this.chunks.indices()) this.#board.offered(chunk, this.remote, 1)
  }

  /** Takes everything that it offers off the board. */
  leave(): void {
    for (const chunk of [...this.chunks.indices()]) this.withdraws(chunk)
  }

  /** An honest neighbour tells the hash together with the chunk, but it may believe that a forgotten one is known. */
  #noteUnvouched(): void {
    if (this.#said.count === this.chunks.count || this.#book.hasForgotten) this.unvouchedSinceMs = undefined
    else this.unvouchedSinceMs ??= performance.now()
  }

  #usable(chunk: number): void {
    if (this.chunks.add(chunk) && !this.#suspended) this.#board.offered(chunk, this.remote, 1)
  }

  #unusable(chunk: number): void {
    if (this.chunks.delete(chunk) && !this.#suspended) this.#board.offered(chunk, this.remote, -1)
  }
}
