// The download of one blob at one node: carries out what the policy decides, until the blob is whole. However many
// clients wait for the blob, there is one of these.
import { Readable } from 'node:stream'
import type { Digest } from '@shoal/oci'
import { DigestMismatchError, StoreClosedError, type PartialBlob, type ReadOptions } from '@shoal/store'
import { ChunkBoard } from './chunk-board.ts'
import { ChunkKeeper } from './chunk-keeper.ts'
import type { SwarmContext } from './context.ts'
import { Crossings } from './crossings.ts'
import { Discovery } from './discovery.ts'
import type { DownloadOptions, DownloadProgress } from './download-options.ts'
import { DownloadError } from './errors.ts'
import type { GivenUpReason } from './metrics.ts'
import { Neighbourhood } from './neighbourhood.ts'
import { OriginRuns, type RunOwner } from './origin-runs.ts'
import type { OriginSources } from './origin-sources.ts'
import { PeerRequests } from './peer-requests.ts'
import { Readers } from './readers.ts'
import { VoucherBook } from './voucher-book.ts'

/** How often a download looks for what has stalled, in milliseconds. */
const WATCH_INTERVAL_MS = 100
/** A fatal answer of the origin ends the download only after peers had so long to show up. */
const DISCOVERY_GRACE_MS = 1500

/** One blob on its way to this node. */
export class Download implements RunOwner {
  readonly context: SwarmContext
  readonly partial: PartialBlob
  readonly board: ChunkBoard
  readonly book: VoucherBook
  readonly requestId: string
  /** Only other nodes say how large the blob is. */
  sizeIsHearsay: boolean
  mediaType: string
  /** Settles when the blob is whole and stored; rejects with DownloadError. */
  readonly done: Promise<void>
  /** The other nodes in the swarm of this blob. */
  readonly neighbourhood: Neighbourhood
  /** Takes in the chunks that come, and takes back those that were wrong. */
  readonly keeper: ChunkKeeper
  readonly origins: OriginSources
  readonly #origin: OriginRuns
  readonly #requests: PeerRequests
  readonly #crossings: Crossings
  readonly #discovery: Discovery
  readonly #abort = new AbortController()
  readonly #settle = Promise.withResolvers<void>()
  readonly #readers: Readers
  readonly #unsubscribe: () => void
  readonly #watch: NodeJS.Timeout
  readonly #startedMs = performance.now()
  #state: DownloadProgress['state'] = 'active'
  #pumping = false
  #finishing = false
  #progressMs = performance.now()

  constructor(context: SwarmContext, options: DownloadOptions) {
    this.context = context
    this.partial = options.partial
    this.mediaType = options.mediaType
    this.requestId = options.requestId
    this.sizeIsHearsay = options.sizeIsHearsay
    this.board = new ChunkBoard(this.partial.chunks)
    this.book = new VoucherBook({
      digest: this.digest,
      chunkCount: this.partial.chunkCount,
      self: context.control.peerId,
      sign: (bytes) => context.control.sign(bytes),
      verify: context.verify,
    })
    this.#readers = new Readers(this.partial, context.timings.lingerMs, () => {
      this.#fail(new DownloadError('STOPPED', this.digest, 'nobody waits for the blob any more'))
    })
    this.done = this.#settle.promise
    // Whoever waits gets the error by its own await; nobody waiting is not a crash.
    this.done.catch(() => undefined)
    this.origins = options.origins
    this.#origin = new OriginRuns(this, this.origins)
    this.#requests = new PeerRequests(this)
    this.#crossings = new Crossings(this)
    this.#discovery = new Discovery(this, this.#origin, this.#crossings, this.origins.host)
    this.neighbourhood = new Neighbourhood({
      context,
      partial: this.partial,
      board: this.board,
      book: this.book,
      mediaType: this.mediaType,
      claimed: () => this.#origin.claimed(),
      answered: (peerId) => this.#discovery.answered(peerId),
      candidate: (address) => this.#discovery.candidate(address),
      crossings: this.#crossings,
      dropped: (peerId) => this.#requests.abortPeer(peerId),
      changed: () => this.wake(),
    })
    this.keeper = new ChunkKeeper({
      context,
      partial: this.partial,
      board: this.board,
      book: this.book,
      neighbourhood: this.neighbourhood,
      readers: this.#readers,
      giveUp: (peerId, reason) => this.giveUp(peerId, reason),
      dropped: () => this.#discovery.tellNow(),
    })
    this.#unsubscribe = this.partial.onChunk((chunk) => this.#chunkKept(chunk))
    context.budget.join(this)
    context.metrics.active.inc()
    this.#watch = setInterval(() => this.#look(), WATCH_INTERVAL_MS)
    if (this.partial.chunks.isFull) this.#finishOrGoOn()
    else {
      this.#discovery.start()
      this.wake()
    }
  }

  get digest(): Digest {
    return this.partial.digest
  }

  get signal(): AbortSignal {
    return this.#abort.signal
  }

  get isOver(): boolean {
    return this.#state !== 'active'
  }

  get fromPeersBytes(): number {
    return this.keeper.fromPeersBytes
  }

  get fromOriginBytes(): number {
    return this.keeper.fromOriginBytes
  }

  progress(): DownloadProgress {
    const { chunks, chunkSizeBytes, sizeBytes } = this.partial
    return {
      digest: this.digest,
      sizeBytes,
      receivedBytes: Math.min(sizeBytes, chunks.count * chunkSizeBytes),
      fromPeersBytes: this.fromPeersBytes,
      fromOriginBytes: this.fromOriginBytes,
      neighbours: this.neighbourhood.size,
      state: this.#state,
    }
  }

  // ---- who waits for it -----------------------------------------------------------------------------------------

  /** Keeps the download going until the returned function is called. */
  hold(): () => void {
    return this.#readers.hold()
  }

  /** Streams the blob to a client while it arrives; the last chunk only after the whole digest has matched. */
  createReadStream(options: ReadOptions): Readable {
    try {
      const stream = this.#readers.open(options)
      this.wake()
      return stream
    } catch (error) {
      if (!(error instanceof StoreClosedError) || this.#state !== 'complete') throw error
      return Readable.from(this.#stored(options, error), { objectMode: false })
    }
  }

  /** For a client that comes when the blob is whole and its last stream has ended. */
  async *#stored(options: ReadOptions, tooLate: Error): AsyncGenerator<Buffer> {
    const stored = await this.context.store.open(this.digest)
    if (stored === undefined) throw tooLate
    const stream = stored.createReadStream(options)
    stored.release()
    yield* stream as AsyncIterable<Buffer>
  }

  /** Ends the download; what has come stays on the disk. */
  async close(reason: Error): Promise<void> {
    this.#fail(new DownloadError('STOPPED', this.digest, reason.message, reason))
    await this.partial.close(reason)
  }

  // ---- RunOwner -------------------------------------------------------------------------------------------------

  async keepFromOrigin(chunk: number, data: Uint8Array): Promise<void> {
    await this.keeper.keepFromOrigin(chunk, data)
    this.#finishOrGoOn()
  }

  get expectsMembers(): boolean {
    return this.#discovery.connecting > 0
  }

  activeMembers(nowMs: number): number[] {
    return this.neighbourhood.activeMembers(nowMs)
  }

  isClaimed(chunk: number, nowMs: number): boolean {
    return this.neighbourhood.isClaimed(chunk, nowMs)
  }

  tellClaim(indices: number[], active: boolean): void {
    if (indices.length > 0 && !this.isOver)
      this.neighbourhood.tell({ type: 'claim', digest: this.digest, indices, active })
  }

  progressed(): void {
    this.#progressMs = performance.now()
  }

  /** Whether a tracker says who fetches what. */
  isTracked(nowMs: number): boolean {
    return this.#discovery.isTracked(nowMs)
  }

  /** How long nothing has come. */
  silentMs(nowMs: number): number {
    return nowMs - this.#progressMs
  }

  /** Something has changed: decide again, once for all that happens in this turn. */
  wake(): void {
    if (this.#pumping || this.isOver) return
    this.#pumping = true
    queueMicrotask(() => {
      this.#pumping = false
      if (!this.isOver && !this.#finishing) this.#pump()
    })
  }

  /** A peer does not deliver: it is left for a while, and the tracker is told, which counts on what it says it has. */
  giveUp(peerId: string, reason: GivenUpReason): void {
    const { context, digest } = this
    context.metrics.givenUp(peerId, reason)
    context.logger.warn({ peer: peerId, digest, reason }, 'peer given up for a while')
    this.neighbourhood.giveUp(peerId, performance.now())
    context.trackers.send(digest, { type: 'peer-report', digest, peerId, reason: 'undelivered' })
  }

  /** Something that no other peer can mend (the disk is full, …): the download is over. */
  failWith(error: unknown): void {
    this.#fail(error instanceof Error ? error : new DownloadError('NO_SOURCE', this.digest, String(error)))
  }

  // ---- private --------------------------------------------------------------------------------------------------

  #pump(): void {
    const now = performance.now()
    this.board.front = this.#readers.front()
    this.#requests.pump(now)
    if (this.#discovery.alone(now) || this.#discovery.isForsaken(now)) this.#origin.pumpAlone(now)
  }

  /** Regular look at what takes too long. */
  #look(): void {
    if (this.isOver || this.#finishing) return
    const now = performance.now()
    this.neighbourhood.resume(now)
    for (const peerId of this.neighbourhood.unvouched(now)) this.giveUp(peerId, 'unvouched')
    this.#requests.abortStalled(now)
    this.#discovery.look(now)
    const silentMs = this.silentMs(now)
    if (silentMs > this.context.timings.noProgressTimeoutMs) {
      const message = `nothing has come for ${Math.round(silentMs / 1000)} s, from ${this.neighbourhood.size} peers or the origin`
      this.#fail(new DownloadError('NO_PROGRESS', this.digest, message, this.#origin.lastError))
    } else if (!this.#origin.usable && this.#nobodyCanGive(now)) {
      const cause = this.#origin.refusal
      const message =
        cause === undefined ? 'no peer has it and no origin is known' : `no peer has it, and ${cause.message}`
      this.#fail(new DownloadError('NO_SOURCE', this.digest, message, cause))
    } else this.wake()
  }

  /** Without an origin: whether some chunk is at no neighbour, and everyone who might know more has had time to say so. */
  #nobodyCanGive(nowMs: number): boolean {
    if (nowMs - this.#startedMs < DISCOVERY_GRACE_MS || this.#discovery.connecting > 0) return false
    if (this.neighbourhood.hasIncomplete || this.#crossings.active > 0) return false
    return this.board.onlyAtOrigin(() => false).count > 0
  }

  #chunkKept(chunk: number): void {
    this.progressed()
    this.board.arrived(chunk)
    // A chunk of the origin is told of once it is vouched for: without its hash it would be of no use to anybody.
    if (this.book.hash(chunk) !== undefined) this.neighbourhood.tellSoon(chunk)
    this.#finishOrGoOn()
  }

  /** The last chunk is here when it is vouched for, too: should the digest differ, it must be known whose word it is. */
  #finishOrGoOn(): void {
    if (!this.partial.chunks.isFull || this.book.known < this.partial.chunkCount) return this.wake()
    if (this.#finishing || this.isOver) return
    this.#finishing = true
    this.#complete().then(
      () => undefined,
      (error: unknown) => this.#fail(error instanceof Error ? error : new Error(String(error))),
    )
  }

  async #complete(): Promise<void> {
    try {
      await this.partial.complete(this.mediaType === '' ? undefined : this.mediaType)
    } catch (error) {
      if (!(error instanceof DigestMismatchError)) throw error
      await this.#repair(error)
      return
    }
    this.#state = 'complete'
    try {
      this.keeper.confirm()
      this.neighbourhood.tellComplete()
      this.#discovery.completed()
    } catch (error) {
      // The blob is whole, and whoever waits for it gets it, whatever becomes of telling others.
      this.context.logger.error({ err: error, digest: this.digest }, 'others could not be told of a whole blob')
    }
    this.#close('complete')
    // Streams go on; without this the blob could never be evicted.
    await this.partial.close()
    this.#settle.resolve()
  }

  async #repair(mismatch: Error): Promise<void> {
    await this.keeper.repair(mismatch, (chunk, signal) =>
      this.#origin.fetchChunk(chunk, AbortSignal.any([this.signal, signal])),
    )
    this.#finishing = false
    this.progressed()
    this.#finishOrGoOn()
  }

  #fail(error: Error): void {
    if (this.isOver) return
    this.#state = 'failed'
    this.context.logger.warn({ err: error, digest: this.digest, requestId: this.requestId }, 'download failed')
    this.neighbourhood.tell({ type: 'swarm-leave', digest: this.digest })
    this.#discovery.left()
    this.#close('failed')
    this.#settle.reject(error)
    this.partial.close(error).catch((closing: unknown) => {
      this.context.logger.error({ err: closing, digest: this.digest }, 'the partial blob could not be closed')
    })
  }

  #close(outcome: 'complete' | 'failed'): void {
    this.#abort.abort(new DownloadError('STOPPED', this.digest, 'the download is over'))
    this.#origin.close()
    this.#unsubscribe()
    clearInterval(this.#watch)
    this.#readers.close()
    this.#requests.close()
    this.neighbourhood.close()
    this.context.budget.leave(this)
    this.context.metrics.active.dec()
    this.context.metrics.downloadSeconds.observe({ outcome }, (performance.now() - this.#startedMs) / 1000)
  }
}
