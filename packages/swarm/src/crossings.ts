// Chunks that the tracker has this node bring into its zone: each is fetched from the member of another zone that the lease
// names. That member is usually no neighbour; so its word on the chunk's hash is asked for first.
import { setTimeout as delay } from 'node:timers/promises'
import type { LeaseGrant, NodeAddress } from '@shoal/network'
import { chunkLength } from '@shoal/store'
import { Superseded, type PendingChunk } from './chunk-board.ts'
import type { ChunkGiver } from './chunk-keeper.ts'
import type { Download } from './download.ts'
import { busyWaitMs } from './policy/index.ts'

/** News of a lease goes to the tracker at most this often, in milliseconds. */
const NEWS_INTERVAL_MS = 400
/**
 * Given up after so many times the lease's idle limit without a byte: the tracker waits as long for the first one. A stall
 * is judged more slowly than between neighbours, for here both channels may have to be opened first.
 */
const PATIENCE_FACTOR = 3

interface Question {
  readonly peerId: string
  readonly answered: () => void
}

/** The zone leases of one download. */
export class Crossings {
  readonly #download: Download
  /** Chunks that are being brought, with the question that is open about each. */
  readonly #active = new Map<number, Question | undefined>()

  constructor(download: Download) {
    this.#download = download
  }

  /** Chunks that are being brought. */
  get active(): number {
    return this.#active.size
  }

  /** A zone lease of the tracker. */
  onLease(grant: LeaseGrant, source: NodeAddress): void {
    const { context, partial } = this.#download
    const { first: chunk } = grant
    const isAble =
      chunk < partial.chunkCount && !this.#active.has(chunk) && this.#active.size < context.parameters.pipeline
    if (!isAble || context.isBanned(source.peerId)) {
      this.#done(grant, true)
      return
    }
    this.#active.set(chunk, undefined)
    this.#bring(grant, source)
      // Only what no other peer can mend comes here: the disk is full, …
      .catch((error: unknown) => this.#download.failWith(error))
      .finally(() => {
        this.#active.delete(chunk)
        if (!this.#download.isOver) this.#done(grant, !partial.chunks.has(chunk))
        this.#download.wake()
      })
  }

  /** Whether this peer was asked for hashes and has not answered yet. */
  isAsked(peerId: string): boolean {
    for (const question of this.#active.values()) if (question?.peerId === peerId) return true
    return false
  }

  /** A peer has said which of these chunks it has, or has not, and what it knows of their hashes. */
  heard(peerId: string, indices: readonly number[]): void {
    for (const chunk of indices) {
      const question = this.#active.get(chunk)
      if (question?.peerId === peerId) question.answered()
    }
  }

  #done(grant: LeaseGrant, failed: boolean): void {
    const { digest, leaseId, first } = grant
    const fetched = failed ? [] : [first]
    const { trackers } = this.#download.context
    trackers.send(digest, { type: 'lease-done', digest, leaseId, fetched, failed, originBackoffMs: 0 })
  }

  async #bring(grant: LeaseGrant, source: NodeAddress): Promise<void> {
    const { board, context, keeper, neighbourhood, partial } = this.#download
    const { first: chunk } = grant
    const buffer = partial.chunks.has(chunk) ? undefined : context.pool.take(partial.chunkSizeBytes)
    if (buffer === undefined) return
    const abort = new AbortController()
    const request = board.begin(chunk, undefined, performance.now(), abort)
    const into = buffer.subarray(0, chunkLength(partial.sizeBytes, chunk))
    let kept = false
    try {
      const hash = await this.#receive(grant, source, request, into)
      if (hash === undefined || this.#download.isOver) return
      kept = await keeper.keepFromPeer(neighbourhood.get(source.peerId) ?? stranger(source.peerId), chunk, into, hash)
      if (kept) context.metrics.crossed.inc(into.length)
    } finally {
      context.pool.give(buffer)
      board.end(request, performance.now(), kept)
    }
  }

  /** Fetches the chunk into the buffer. Undefined when that was not possible, else the hash that it should have. */
  async #receive(
    grant: LeaseGrant,
    source: NodeAddress,
    request: PendingChunk,
    into: Buffer,
  ): Promise<Uint8Array | undefined> {
    const { context, signal } = this.#download
    const { chunk, abort } = request
    const patience = new AbortController()
    const watch = setTimeout(
      () => patience.abort(new Error('nothing has come for too long')),
      grant.idleLimitMs * PATIENCE_FACTOR,
    )
    try {
      const bounded = AbortSignal.any([signal, abort.signal, patience.signal])
      const hash = await this.#hashOf(chunk, source, bounded)
      if (hash === undefined || !(await this.#fetch(grant, source, request, into, bounded, watch))) return undefined
      request.isReceived = true
      await context.limits.download(into.length, abort.signal)
      return hash
    } catch (error) {
      if (!(abort.signal.reason instanceof Superseded))
        context.logger.debug({ err: error, chunk, peer: source.peerId }, 'a chunk was not brought across the border')
      return undefined
    } finally {
      clearTimeout(watch)
    }
  }

  /** The hash of a chunk, by the word of the source if nobody else has given his; undefined when it has none to give. */
  async #hashOf(chunk: number, source: NodeAddress, signal: AbortSignal): Promise<Uint8Array | undefined> {
    const { book, context, digest } = this.#download
    const known = book.hash(chunk)
    if (known !== undefined) return known
    const channel = await context.control.channel(source, signal)
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const onAbort = () => reject(signal.reason as Error)
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
    this.#active.set(chunk, { peerId: source.peerId, answered: resolve })
    try {
      channel.send({ type: 'hash-query', digest, indices: [chunk] })
      await promise
    } finally {
      signal.removeEventListener('abort', onAbort)
      this.#active.set(chunk, undefined)
    }
    return book.hash(chunk)
  }

  /** Asks for the chunk, and comes back to it as long as the source is busy. Every byte starts the `watch` anew. */
  async #fetch(
    grant: LeaseGrant,
    source: NodeAddress,
    request: PendingChunk,
    into: Buffer,
    signal: AbortSignal,
    watch: NodeJS.Timeout,
  ): Promise<boolean> {
    const { board, context, digest } = this.#download
    let newsMs = performance.now()
    const onBytes = (bytes: number) => {
      const now = performance.now()
      request.receivedBytes += bytes
      request.lastBytesMs = now
      watch.refresh()
      this.#download.progressed()
      if (now - newsMs < NEWS_INTERVAL_MS) return
      newsMs = now
      const { leaseId } = grant
      context.trackers.send(digest, { type: 'lease-progress', digest, leaseId, receivedBytes: request.receivedBytes })
    }
    for (;;) {
      const { requestId } = this.#download
      const options = { digest, index: request.chunk, into, requestId, signal, onBytes }
      const outcome = await context.transfer.fetch(source, options)
      if (outcome.status !== 'busy') return outcome.status === 'ok'
      context.metrics.busy.inc({ side: 'received' })
      const waitMs = busyWaitMs(outcome.retryAfterMs, context.parameters, Math.random, board.usualMs)
      await delay(waitMs, undefined, { signal })
    }
  }
}

/** A member of another zone that is no neighbour: there is nothing to note of it here, the tracker hears how it went. */
function stranger(peerId: string): ChunkGiver {
  return { peerId, withdraws: () => undefined, strike: () => false }
}
