// Fetching from the origin: runs of chunks, each under a lease of the tracker or, without one, under a claim that the
// neighbours know of. Every chunk that comes is vouched for with this node's own signature.
import type { LeaseGrant } from '@shoal/network'
import { chunkLength, freeBytes, piecesOf, StoreFailedError, StoreFullError, type PartialBlob } from '@shoal/store'
import { UpstreamError, type BlobBody } from '@shoal/upstream'
import type { ChunkBoard, PendingChunk } from './chunk-board.ts'
import type { SwarmContext } from './context.ts'
import { DownloadError } from './errors.ts'
import type { OriginSources } from './origin-sources.ts'
import { chooseOriginRun, textHash } from './policy/index.ts'
import type { VoucherBook } from './voucher-book.ts'

/** News of a lease goes to the tracker at most this often, in milliseconds. */
const LEASE_NEWS_MS = 400
/** A claim is told again so often before others would take it over. Each time is a message to every neighbour. */
const CLAIMS_PER_TAKEOVER = 2.5
const BACKOFF_MIN_MS = 250
const BACKOFF_MAX_MS = 4000
/** RFC 9110, section 15.5.17. */
const RANGE_NOT_SATISFIABLE = 416
/** Two is what a lone node has under way at once. */
const MAX_RUNS_IN_VAIN = 2

/** What a run needs of the download that it belongs to. */
export interface RunOwner {
  readonly context: SwarmContext
  readonly board: ChunkBoard
  readonly partial: PartialBlob
  readonly book: VoucherBook
  readonly signal: AbortSignal
  /** Checks (against a known hash, if the origin itself gave one), keeps and vouches for a chunk of the origin. */
  keepFromOrigin(chunk: number, data: Uint8Array): Promise<void>
  /** Members of the swarm that may be trusted to fetch their share, as rendezvous hashes. */
  activeMembers(nowMs: number): number[]
  isClaimed(chunk: number, nowMs: number): boolean
  /** Whether some node has been asked to take part and has not answered yet. */
  readonly expectsMembers: boolean
  tellClaim(indices: number[], active: boolean): void
  progressed(): void
  wake(): void
  /** The download cannot go on at this node, whatever the origin does. */
  failWith(error: unknown): void
}

interface Run {
  readonly first: number
  readonly count: number
  readonly lease: LeaseGrant | undefined
  readonly pending: Map<number, PendingChunk>
  readonly abort: AbortController
  readonly fetched: number[]
  readonly startedMs: number
  receivedBytes: number
  newsMs: number
}

/** The runs of one download. */
export class OriginRuns {
  readonly #owner: RunOwner
  readonly #source: OriginSources
  readonly #runs = new Set<Run>()
  /** A run that gets the whole blob, because the origin ignores Range: others would get all of it again. */
  #whole: Run | undefined
  /** Runs that were begun since the origin last sent a byte. */
  #runsInVain = 0
  #backoffMs = 0
  #notBeforeMs = 0
  /** Of a run that has ended, for the next one: a new one for each made work for the garbage collector. */
  #spare: Buffer | undefined
  lastError: unknown

  constructor(owner: RunOwner, source: OriginSources) {
    this.#owner = owner
    this.#source = source
  }

  get active(): number {
    return this.#runs.size
  }

  /** Whether the origin may still give something. */
  get usable(): boolean {
    return this.#source.usable
  }

  /** The origin said that it does not have it, or not for us, whoever asked. */
  get refusal(): UpstreamError | undefined {
    return this.#source.refusal
  }

  /** Whether a new run is a reason to go on waiting: not when the last ones brought nothing. */
  get hopeful(): boolean {
    return this.#runsInVain <= MAX_RUNS_IN_VAIN
  }

  /** How many leases this node would hold. */
  credit(nowMs: number): number {
    if (!this.usable || this.#whole !== undefined || nowMs < this.#notBeforeMs) return 0
    return this.#owner.context.parameters.leasesPerNode * 2
  }

  /** A lease of the tracker. */
  onLease(grant: LeaseGrant): void {
    const { board, context } = this.#owner
    const chunks = rangeOf(grant.first, Math.min(grant.count, board.open.length - grant.first))
    const able = this.usable && this.#whole === undefined
    if (chunks.length === 0 || !able) {
      context.trackers.send(grant.digest, leaseDone(grant, [], !able, 0))
      return
    }
    this.#start(chunks[0]!, chunks.length, grant)
  }

  /** Without a tracker: starts what this node has to fetch by itself. */
  pumpAlone(nowMs: number): void {
    const { board, context, partial } = this.#owner
    const others = this.#owner.activeMembers(nowMs)
    const limit = context.parameters.leasesPerNode * (others.length === 0 ? 2 : 1)
    // Whoever is about to answer may be at it already: no more than one chunk is risked then.
    const parameters = this.#owner.expectsMembers ? { ...context.parameters, leaseRunChunks: 1 } : context.parameters
    while (this.credit(nowMs) > 0 && this.#runs.size < limit) {
      const candidates = board.onlyAtOrigin((chunk) => this.#owner.isClaimed(chunk, nowMs))
      const self = textHash(context.control.peerId)
      const run = chooseOriginRun(candidates, self, others, textHash(partial.digest), parameters, Math.random)
      if (run === undefined) break
      this.#start(run.first, run.count, undefined)
    }
  }

  /** Chunks that are being fetched without a lease: newcomers have to know. */
  claimed(): number[] {
    return [...this.#runs].flatMap(({ lease, pending }) => (lease === undefined ? [...pending.keys()] : []))
  }

  /** The tracker is lost: its leases are void for others, so the neighbours have to know what is being fetched. */
  trackerLost(): void {
    for (const run of this.#runs) this.#owner.tellClaim(rangeOf(run.first, run.count), true)
  }

  close(): void {
    for (const run of this.#runs) run.abort.abort(new Error('the download is over'))
  }

  /** Fetches single chunks from the origin without keeping them, for the examination of a blob that does not match. */
  async fetchChunk(chunk: number, signal: AbortSignal): Promise<Buffer> {
    const { partial } = this.#owner
    const start = chunk * partial.chunkSizeBytes
    const data = Buffer.allocUnsafe(chunkLength(partial.sizeBytes, chunk))
    const body = await this.#source.open({ start, end: start + data.length - 1 }, signal)
    let position = body.start
    for await (const piece of body.body as AsyncIterable<Buffer>) {
      const from = Math.max(0, start - position)
      if (from < piece.length) piece.copy(data, Math.max(0, position - start), from)
      position += piece.length
      if (position >= start + data.length) break
    }
    if (position < start + data.length)
      throw new UpstreamError('PROTOCOL', this.#source.host, 'the origin cut the answer')
    return data
  }

  #start(first: number, count: number, lease: LeaseGrant | undefined): void {
    const { board, partial } = this.#owner
    const now = performance.now()
    const abort = new AbortController()
    const pending = new Map<number, PendingChunk>()
    const fetched: number[] = []
    for (const chunk of rangeOf(first, count)) {
      // A chunk of a run that comes from a peer meanwhile does not stop the run: hence a controller of its own.
      if (partial.chunks.has(chunk)) fetched.push(chunk)
      else pending.set(chunk, board.begin(chunk, undefined, now, new AbortController()))
    }
    const run: Run = { first, count, lease, pending, abort, fetched, startedMs: now, receivedBytes: 0, newsMs: now }
    this.#runs.add(run)
    this.#runsInVain++
    if (lease === undefined) this.#owner.tellClaim([...pending.keys()], true)
    this.#carryOut(run).then(
      () => this.#ended(run, undefined),
      (error: unknown) => this.#ended(run, error),
    )
  }

  async #carryOut(run: Run): Promise<void> {
    if (run.pending.size === 0) return
    const { partial } = this.#owner
    const wanted = [...run.pending.keys()]
    const start = wanted[0]! * partial.chunkSizeBytes
    const lastChunk = wanted[wanted.length - 1]!
    const end = lastChunk * partial.chunkSizeBytes + chunkLength(partial.sizeBytes, lastChunk) - 1
    const signal = AbortSignal.any([this.#owner.signal, run.abort.signal])
    const body = await this.#source.open({ start, end }, signal)
    try {
      if (!body.partial && wanted.length < partial.chunkCount) {
        if (this.#whole !== undefined) return
        this.#whole = run
      }
      await this.#receive(run, body, body.partial ? lastChunk : partial.chunkCount - 1, signal)
    } finally {
      body.body.destroy()
    }
  }

  async #receive(run: Run, body: BlobBody, lastChunk: number, signal: AbortSignal): Promise<void> {
    const { partial } = this.#owner
    if (body.sizeBytes !== partial.sizeBytes) {
      const message = `the origin says the blob has ${body.sizeBytes} bytes, expected ${partial.sizeBytes}`
      // Manifests of other repositories may be wrong, too: asked again, the origin would say the same.
      throw new DownloadError('WRONG_SIZE', partial.digest, message)
    }
    // Not from the pool, which bounds what is asked of peers: an origin may take long over a run.
    const buffer = this.#spare ?? Buffer.allocUnsafeSlow(partial.chunkSizeBytes)
    this.#spare = undefined
    await this.#cut(run, body, lastChunk, buffer, signal)
    // After a run that failed, a write of it may still be under way.
    this.#spare = buffer
  }

  /** Cuts the stream into chunks. An origin that ignores Range sends everything: then everything is used. */
  async #cut(run: Run, body: BlobBody, lastChunk: number, buffer: Buffer, signal: AbortSignal): Promise<void> {
    const { partial, context } = this.#owner
    let chunk = Math.floor(body.start / partial.chunkSizeBytes)
    let filled = 0
    for await (const piece of piecesOf(body.body)) {
      this.#news(run, piece.length)
      await context.limits.origin(piece.length, signal)
      let used = 0
      while (used < piece.length) {
        const length = chunkLength(partial.sizeBytes, chunk)
        const part = Math.min(length - filled, piece.length - used)
        piece.copy(buffer, filled, used, used + part)
        filled += part
        used += part
        if (filled < length) continue
        await this.#keep(run, chunk, buffer.subarray(0, length))
        filled = 0
        if (++chunk > lastChunk) return
      }
      freeBytes([piece])
    }
    throw new UpstreamError('PROTOCOL', this.#source.host, 'the origin ended the answer before its last byte')
  }

  async #keep(run: Run, chunk: number, data: Buffer): Promise<void> {
    if (!this.#owner.partial.chunks.has(chunk)) {
      await this.#owner.keepFromOrigin(chunk, data)
      this.#backoffMs = 0
    }
    run.fetched.push(chunk)
    const pending = run.pending.get(chunk)
    if (pending !== undefined) {
      run.pending.delete(chunk)
      this.#owner.board.end(pending, performance.now(), true)
    }
  }

  #news(run: Run, bytes: number): void {
    const { context } = this.#owner
    const now = performance.now()
    run.receivedBytes += bytes
    this.#runsInVain = 0
    for (const pending of run.pending.values()) pending.lastBytesMs = now
    this.#owner.progressed()
    const { lease } = run
    const intervalMs = lease === undefined ? context.timings.takeoverMs / CLAIMS_PER_TAKEOVER : LEASE_NEWS_MS
    if (now - run.newsMs < intervalMs) return
    run.newsMs = now
    if (lease === undefined) this.#owner.tellClaim([...run.pending.keys()], true)
    else {
      const { digest, leaseId } = lease
      context.trackers.send(digest, {
        type: 'lease-progress',
        digest,
        leaseId,
        receivedBytes: run.receivedBytes,
      })
    }
  }

  #ended(run: Run, error: unknown): void {
    const { board, context } = this.#owner
    const now = performance.now()
    const seconds = (now - run.startedMs) / 1000
    if (error === undefined) context.metrics.runSeconds.observe(seconds)
    this.#runs.delete(run)
    if (this.#whole === run) this.#whole = undefined
    const unfinished = [...run.pending.keys()]
    for (const pending of run.pending.values()) board.end(pending, now, false)
    if (error !== undefined && !this.#owner.signal.aborted) this.#failed(error, now)
    if (run.lease !== undefined) {
      const failed = unfinished.length > 0
      context.trackers.send(
        run.lease.digest,
        leaseDone(run.lease, run.fetched, failed, this.#hostBackoffMs(error, now)),
      )
    } else if (unfinished.length > 0) this.#owner.tellClaim(unfinished, false)
    this.#owner.wake()
  }

  /** How long nobody should ask this origin: only when it said so itself, not when this node failed to reach it. */
  #hostBackoffMs(error: unknown, nowMs: number): number {
    const saidSo = error instanceof UpstreamError && ['RATE_LIMITED', 'SERVER_ERROR'].includes(error.code)
    return saidSo ? Math.max(0, Math.ceil(this.#notBeforeMs - nowMs)) : 0
  }

  #failed(error: unknown, nowMs: number): void {
    if (error instanceof StoreFullError || error instanceof StoreFailedError || error instanceof DownloadError) {
      this.#owner.failWith(error)
      return
    }
    const upstream = error instanceof UpstreamError ? error : undefined
    const { partial } = this.#owner
    // The blob ends before the range that was asked for.
    if (upstream?.status === RANGE_NOT_SATISFIABLE) {
      this.#owner.failWith(new DownloadError('WRONG_SIZE', partial.digest, upstream.message, upstream))
      return
    }
    this.lastError = error
    this.#backoffMs = Math.min(BACKOFF_MAX_MS, Math.max(BACKOFF_MIN_MS, this.#backoffMs * 2))
    this.#notBeforeMs =
      nowMs + Math.max(this.#backoffMs * (0.5 + Math.random()), Math.min(upstream?.retryAfterMs ?? 0, 60_000))
    this.#owner.context.logger.warn({ err: error, digest: partial.digest }, 'the origin did not deliver')
  }
}

function rangeOf(first: number, count: number): number[] {
  return Array.from({ length: Math.max(0, count) }, (_, at) => first + at)
}

function leaseDone(grant: LeaseGrant, fetched: number[], failed: boolean, originBackoffMs: number) {
  const { digest, leaseId } = grant
  return { type: 'lease-done', digest, leaseId, fetched, failed, originBackoffMs } as const
}
