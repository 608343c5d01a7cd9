// The requests of one download to its neighbours: what the policy chose is asked for, watched, checked and kept.
import { TransferError } from '@shoal/network'
import { chunkLength, type ChunkMap } from '@shoal/store'
import { Superseded } from './chunk-board.ts'
import type { Download } from './download.ts'
import type { Neighbour } from './neighbour.ts'
import {
  busyWaitMs,
  chooseRequest,
  chunksAcross,
  chunksToBring,
  isCheapElsewhere,
  isStalled,
  isTrickling,
  judgeBusy,
  textHash,
} from './policy/index.ts'

/** Chunks in a row that a neighbour said it has and did not have, until it is left. */
const MAX_MISSED = 4

class Stalled extends Error {
  override readonly name = 'Stalled'
  readonly isTrickling: boolean
  constructor(isTrickling: boolean) {
    super('the peer has sent nothing, or next to nothing, for too long')
    this.isTrickling = isTrickling
  }
}

class PeerLeft extends Error {
  override readonly name = 'PeerLeft'
  constructor() {
    super('the peer has left the swarm')
  }
}

/** Requests for chunks that are under way at neighbours. */
export class PeerRequests {
  readonly #download: Download
  #retry: NodeJS.Timeout | undefined
  #retryAtMs = Infinity
  /** When a peer last gave a chunk. */
  #deliveredMs = -Infinity
  /** What this node has to bring into its zone, and the members of the zone for which that holds. */
  #toBring: { mates: string; chunks: ChunkMap } | undefined

  constructor(download: Download) {
    this.#download = download
  }

  /** Makes as many requests as there are slots, buffers and neighbours that have something. */
  pump(nowMs: number): void {
    const { board, context, neighbourhood, partial } = this.#download
    if (board.open.count === 0) board.markLate(nowMs)
    const views = neighbourhood.all()
    board.across = this.#across(views, nowMs)
    while (context.budget.canTake(this.#download)) {
      const choice = chooseRequest(board, views, context.parameters, nowMs, Math.random)
      if (choice === undefined) break
      const buffer = context.pool.take(partial.chunkSizeBytes)
      if (buffer === undefined) break
      context.budget.take(this.#download)
      const neighbour = views[choice.neighbour]!
      neighbour.outstanding++
      this.#request(neighbour, choice.chunk, buffer, nowMs).catch((error: unknown) => this.#download.failWith(error))
    }
    this.#armRetry(views, nowMs)
  }

  /** Gives up requests that have stalled. */
  abortStalled(nowMs: number): void {
    const { board, context } = this.#download
    for (const request of board.pending()) {
      if (request.peerId === undefined || request.isReceived) continue
      const stalled = isStalled(request, board.usualMs, context.timings.stallTimeoutMs, nowMs)
      const trickling = isTrickling(request, board.usualMs, nowMs)
      if (stalled || trickling) request.abort.abort(new Stalled(trickling))
    }
  }

  abortPeer(peerId: string): void {
    for (const request of this.#download.board.pending()) {
      if (request.peerId === peerId && !request.isReceived) request.abort.abort(new PeerLeft())
    }
  }

  close(): void {
    clearTimeout(this.#retry)
    for (const request of this.#download.board.pending()) request.abort.abort(new Superseded())
  }

  /** Rejects only with what ends the whole download, such as a full disk. */
  async #request(neighbour: Neighbour, chunk: number, buffer: Buffer, startedMs: number): Promise<void> {
    const { board, book, context, partial, digest } = this.#download
    const request = board.begin(chunk, neighbour.peerId, startedMs, new AbortController())
    const { signal } = request.abort
    const hash = book.hash(chunk)!
    const into = buffer.subarray(0, chunkLength(partial.sizeBytes, chunk))
    let kept = false
    let isAnswered = false
    // Checking and writing take as long as the bytes took: meanwhile the peer is asked for the next chunk.
    const answered = () => {
      if (!isAnswered) neighbour.outstanding--
      isAnswered = true
    }
    try {
      const outcome = await context.transfer.fetch(neighbour.address, {
        digest,
        index: chunk,
        into,
        requestId: this.#download.requestId,
        signal,
        onAccepted: () => (neighbour.isSilent = false),
        onBytes: (bytes) => {
          request.receivedBytes += bytes
          request.lastBytesMs = performance.now()
          this.#download.progressed()
        },
      })
      const now = performance.now()
      neighbour.isSilent = false
      if (outcome.status === 'busy') {
        context.metrics.busy.inc({ side: 'received' })
        neighbour.freeSlots = 0
        neighbour.notBeforeMs = now + busyWaitMs(outcome.retryAfterMs, context.parameters, Math.random, board.usualMs)
        this.#judgeBusy(neighbour, now)
      } else if (outcome.status === 'missing') {
        neighbour.withdraws(chunk)
        neighbour.missed++
        context.metrics.failed.inc({ reason: 'missing' })
        if (neighbour.missed >= MAX_MISSED) this.#download.giveUp(neighbour.peerId, 'missing')
      } else {
        request.isReceived = true
        answered()
        this.#download.wake()
        await context.limits.download(into.length, signal)
        if (!this.#download.isOver) kept = await this.#download.keeper.keepFromPeer(neighbour, chunk, into, hash)
        if (kept) {
          neighbour.strikes = 0
          neighbour.hasDelivered = true
          this.#deliveredMs = performance.now()
          if (neighbour.remote) context.metrics.crossed.inc(into.length)
          neighbour.missed = 0
          context.metrics.chunkSeconds.observe((performance.now() - startedMs) / 1000)
        }
      }
    } catch (error) {
      if (!signal.aborted && !(error instanceof TransferError)) throw error
      this.#failed(neighbour, startedMs, signal.aborted ? signal.reason : error)
    } finally {
      answered()
      context.pool.give(buffer)
      board.end(request, performance.now(), kept)
      context.budget.give(this.#download)
      this.#download.wake()
    }
  }

  /** Who only ever says busy must not keep this node from the origin, or the tracker from granting leases. */
  #judgeBusy(neighbour: Neighbour, nowMs: number): void {
    neighbour.busySinceMs ??= nowMs
    const { hasDelivered, busySinceMs, peerId } = neighbour
    const { board, context, digest, partial } = this.#download
    const record = { hasDelivered, busyForMs: nowMs - busySinceMs, silentMs: this.#download.silentMs(nowMs) }
    const verdict = judgeBusy({ ...record, usualMs: board.usualMs, sizeBytes: partial.sizeBytes })
    if (verdict === 'in order') return
    const isTracked = this.#download.isTracked(nowMs)
    // Without a tracker it is enough that its chunks do not count: there is nobody to tell, and it may be all there is.
    if (neighbour.isPutOff && !isTracked) return
    if (!neighbour.isPutOff) {
      context.metrics.givenUp(peerId, 'busy')
      context.logger.warn({ peer: peerId, digest }, 'a peer that only says busy is not counted on')
    }
    const isLeft = neighbour.putOff(nowMs) || (verdict === 'to be left' && isTracked)
    if (isLeft) this.#download.giveUp(peerId, 'undelivered')
  }

  #failed(neighbour: Neighbour, startedMs: number, error: unknown): void {
    const { context, digest, partial } = this.#download
    if (error instanceof Superseded || error instanceof PeerLeft || this.#download.isOver) return
    const reason =
      error instanceof Stalled ? 'stalled' : error instanceof TransferError ? error.code.toLowerCase() : 'other'
    context.metrics.failed.inc({ reason })
    if (error instanceof Stalled && error.isTrickling) neighbour.isSilent = true
    context.logger.debug({ err: error, peer: neighbour.peerId, digest }, 'a peer did not deliver')
    // A peer that never delivered cannot be the one that did meanwhile.
    const othersDeliver = this.#deliveredMs > startedMs
    const cheapElsewhere = isCheapElsewhere(othersDeliver, partial.chunkCount)
    if (neighbour.strike(performance.now(), cheapElsewhere)) this.#download.giveUp(neighbour.peerId, 'undelivered')
  }

  /** Chunks that neighbours of other zones may be asked for; undefined for none. */
  #across(views: readonly Neighbour[], nowMs: number): ChunkMap | undefined {
    if (!views.some(({ remote }) => remote)) return undefined
    const { board, context } = this.#download
    const toBring = this.#download.isTracked(nowMs) ? undefined : this.#ownShare(views)
    return chunksAcross(board, toBring, this.#download.silentMs(nowMs), context.parameters)
  }

  /** What falls to this node to bring into its zone while no tracker says so. */
  #ownShare(views: readonly Neighbour[]): ChunkMap {
    const { context, digest, partial } = this.#download
    const hashes = views.filter(({ remote, complete }) => !remote && !complete).map(({ hash }) => hash)
    const mates = hashes.join(' ')
    if (this.#toBring?.mates !== mates) {
      const self = textHash(context.control.peerId)
      this.#toBring = { mates, chunks: chunksToBring(self, hashes, textHash(digest), partial.chunkCount) }
    }
    return this.#toBring.chunks
  }

  /** Comes back when the first of the neighbours that were busy may be asked again. */
  #armRetry(views: readonly Neighbour[], nowMs: number): void {
    let atMs = Infinity
    for (const { notBeforeMs } of views) if (notBeforeMs > nowMs) atMs = Math.min(atMs, notBeforeMs)
    if (atMs === Infinity || (atMs >= this.#retryAtMs && this.#retryAtMs > nowMs)) return
    clearTimeout(this.#retry)
    this.#retryAtMs = atMs
    this.#retry = setTimeout(
      () => {
        this.#retryAtMs = Infinity
        this.#download.wake()
      },
      Math.ceil(atMs - nowMs),
    )
  }
}
