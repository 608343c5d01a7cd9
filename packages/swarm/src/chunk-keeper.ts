// Which bytes of an arriving blob are believed: keeps the chunks that the origin and the peers send, and takes back what
// turns out to be wrong, from the store, from the neighbours and from clients.
import { createHash } from 'node:crypto'
import { ChunkMismatchError, type PartialBlob } from '@shoal/store'
import type { ChunkBoard } from './chunk-board.ts'
import type { SwarmContext } from './context.ts'
import { Disputes } from './disputes.ts'
import { DownloadError } from './errors.ts'
import type { GivenUpReason } from './metrics.ts'
import type { Neighbourhood } from './neighbourhood.ts'
import type { Readers } from './readers.ts'
import { repair, type Repair } from './repair.ts'
import { inVouchers, type VoucherBook } from './voucher-book.ts'

const EMPTY = new Uint8Array()

export interface ChunkKeeperOptions {
  context: SwarmContext
  partial: PartialBlob
  board: ChunkBoard
  book: VoucherBook
  neighbourhood: Neighbourhood
  readers: Readers
  /** A peer does not deliver what it should. */
  giveUp: (peerId: string, reason: GivenUpReason) => void
  /** Chunks that were here are not here any more. */
  dropped: () => void
}

/** Who sent a chunk. */
export interface ChunkGiver {
  readonly peerId: string
  /** It does not have this chunk. */
  withdraws(chunk: number): void
  /** A request to it failed. Returns whether to give it up. */
  strike(nowMs: number): boolean
}

/** The chunks of one download. */
export class ChunkKeeper {
  /** Bytes that were kept, by where they came from. */
  fromPeersBytes = 0
  fromOriginBytes = 0
  readonly #options: ChunkKeeperOptions
  readonly #disputes: Disputes
  /** Chunks that were not here when a peer's copy came: of two that come at the same time one is counted. */
  readonly #missing = new Set<number>()
  /** Chunks of an earlier run: who vouched for them then is not known any more. */
  #resumed: number[]

  constructor(options: ChunkKeeperOptions) {
    const { context, partial, book } = options
    this.#options = options
    this.#disputes = new Disputes({
      book,
      self: context.control.peerId,
      blame: (peerId) => context.blame(peerId, partial.digest, 'wrong_bytes'),
      distrust: (signer) => this.#distrust(signer),
    })
    this.#resumed = [...partial.chunks.indices()]
    // They are good (the store has checked them), but nobody vouches for them any more: this node does.
    for (const chunks of inVouchers(this.#resumed)) {
      book.vouch(chunks, Buffer.concat(chunks.map((chunk) => partial.hashOf(chunk)!)))
    }
  }

  /** Keeps and vouches for a chunk of the origin. */
  async keepFromOrigin(chunk: number, data: Uint8Array): Promise<void> {
    const { context, partial, book, neighbourhood } = this.#options
    const suspect = book.hash(chunk) !== undefined
    let hash = await partial.writeChunk(chunk, data)
    // A peer's copy may have been written meanwhile. What this node vouches for must be the origin's own bytes.
    if (suspect && !createHash('sha256').update(data).digest().equals(hash)) {
      await this.#drop([chunk])
      hash = await partial.writeChunk(chunk, data)
    }
    this.#missing.delete(chunk)
    this.fromOriginBytes += data.length
    context.metrics.received.inc({ source: 'origin' }, data.length)
    const { contradicted } = book.vouch([chunk], hash)
    if (contradicted.size > 0) {
      this.#disputes.forget([chunk])
      // What was told of it before was another hash.
      neighbourhood.hashesForgotten([chunk])
    }
    this.#disputes.settle(chunk)
    neighbourhood.hashKnown(chunk)
    neighbourhood.tellSoon(chunk)
    for (const signer of contradicted) await this.#distrust(signer)
  }

  /** Checks and keeps a chunk that a peer sent. False when it was wrong: then the peer is out, or who vouched for it. */
  async keepFromPeer(giver: ChunkGiver, chunk: number, data: Uint8Array, hash: Uint8Array): Promise<boolean> {
    const { context, partial, book, giveUp } = this.#options
    // While the chunk was on its way, the word on its hash may have been withdrawn.
    const isCurrent = () => Buffer.compare(book.hash(chunk) ?? EMPTY, hash) === 0
    if (!isCurrent()) return false
    try {
      if (!partial.chunks.has(chunk)) this.#missing.add(chunk)
      await partial.writeChunk(chunk, data, hash)
      if (!isCurrent()) {
        await this.#discardStale(chunk, hash)
        return false
      }
      if (this.#missing.delete(chunk)) {
        this.fromPeersBytes += data.length
        context.metrics.received.inc({ source: 'peer' }, data.length)
      }
      return true
    } catch (error) {
      if (!(error instanceof ChunkMismatchError)) throw error
      context.metrics.rejected.inc({ reason: 'hash' })
      giver.withdraws(chunk)
      const isOpen = await this.#disputes.refuse(chunk, giver.peerId, data)
      if (isOpen && giver.strike(performance.now())) giveUp(giver.peerId, 'disputed')
      return false
    }
  }

  /** The digest of the whole has matched: whoever sent other bytes or vouched for them is to blame. */
  confirm(): void {
    const { context, partial, book } = this.#options
    for (const signer of book.judge((chunk) => partial.hashOf(chunk)))
      context.blame(signer, partial.digest, 'wrong_hash')
    this.#disputes.settleAll()
  }

  /**
   * All chunks are here, but the digest differs: chunks are taken back, to be fetched again.
   * @param fetchChunk one chunk from the origin, to compare with
   * @throws DownloadError(CORRUPT) when that cannot help
   */
  async repair(mismatch: Error, fetchChunk: Repair['fetchChunk']): Promise<void> {
    const { context, partial, book } = this.#options
    context.metrics.rejected.inc({ reason: 'digest' })
    context.logger.warn({ digest: partial.digest }, 'the blob does not match its digest: looking for what is wrong')
    await repair({
      book,
      partial,
      resumed: this.#resumed.splice(0),
      mismatch,
      self: context.control.peerId,
      fetchChunk,
      drop: (chunks) => this.#drop(chunks),
      expose: (chunk, data) => this.#expose(chunk, data),
      setAside: (signer) => this.#setAside(signer),
    })
  }

  /** The origin's bytes of a chunk are not those that somebody vouched for: the others are to look there, too. */
  async #expose(chunk: number, data: Uint8Array): Promise<void> {
    const { context, partial, book, neighbourhood } = this.#options
    await this.keepFromOrigin(chunk, data)
    const vouchers = book.vouchersFor([chunk])
    const freeSlots = context.freeSlots()
    neighbourhood.tell({ type: 'have', digest: partial.digest, indices: [], vouchers, complete: false, freeSlots })
  }

  /** A chunk was kept under a hash that does not hold any more. */
  async #discardStale(chunk: number, hash: Uint8Array): Promise<void> {
    const kept = this.#options.partial.hashOf(chunk)
    if (kept !== undefined && Buffer.compare(kept, hash) === 0) await this.#drop([chunk])
  }

  /** Takes chunks back that are here, from the store, from the neighbours and from clients. */
  async #drop(chunks: number[]): Promise<void> {
    if (chunks.length === 0) return
    const { partial, board, book, neighbourhood, readers } = this.#options
    const { digest } = partial
    await partial.discard(chunks)
    this.#options.dropped()
    for (const chunk of chunks) if (!partial.chunks.has(chunk)) board.lost(chunk)
    neighbourhood.hashesForgotten(chunks.filter((chunk) => book.hash(chunk) === undefined))
    neighbourhood.tell({ type: 'lost', digest, indices: chunks })
    // A client that has some of these bytes already must not take them for the blob.
    const first = chunks.reduce((least, chunk) => Math.min(least, chunk)) * partial.chunkSizeBytes
    readers.cut(first, new DownloadError('CORRUPT', digest, 'bytes that were sent turned out to be wrong'))
  }

  /** It is not blamed: whether it was wrong shows when the blob is right (see `confirm`). */
  async #setAside(signer: string): Promise<void> {
    const { context, partial, book } = this.#options
    context.logger.warn(
      { peer: signer, digest: partial.digest },
      'two others say that a peer vouched for what is wrong',
    )
    await this.#unlearn(signer, book.setAside(signer))
  }

  async #distrust(signer: string): Promise<void> {
    const { context, partial, book } = this.#options
    await this.#unlearn(signer, book.distrust(signer))
    context.blame(signer, partial.digest, 'wrong_hash')
  }

  /** The word of a signer on some chunks does not count any more. */
  async #unlearn(signer: string, chunks: number[]): Promise<void> {
    const { partial, neighbourhood } = this.#options
    this.#disputes.forget(chunks)
    neighbourhood.hashesForgotten(chunks)
    await this.#drop(chunks.filter((chunk) => partial.chunks.has(chunk)))
    neighbourhood.askAgain(signer)
  }
}
