// Where each chunk of a download stands: here, on its way, or open; and how many neighbours could give it.
import { ChunkMap } from '@shoal/store'
import { isLate, usualTime, type WantView } from './policy/index.ts'

/** A request for one chunk that is under way. */
export interface PendingChunk {
  readonly chunk: number
  readonly startedMs: number
  lastBytesMs: number
  receivedBytes: number
  /** All its bytes are here: it waits for this node's own rate or disk, not for the peer. */
  isReceived: boolean
  /** Peer id, or undefined for the origin. */
  readonly peerId: string | undefined
  readonly abort: AbortController
}

/** The state of all chunks of one blob at one node. */
export class ChunkBoard implements WantView {
  readonly open: ChunkMap
  readonly late: ChunkMap
  /** Neighbours of the own zone that have each chunk. */
  readonly availability: Uint16Array
  /** Neighbours of any zone that have each chunk. */
  readonly reach: Uint16Array
  /** Chunks that neighbours of other zones may be asked for. */
  across: ChunkMap | undefined
  front = -1
  readonly #have: ChunkMap
  readonly #pending = new Map<number, PendingChunk[]>()
  /** Moving average of the time that a chunk takes from a peer, in milliseconds. */
  #usualMs = 0

  /** @param have the live map of chunks that are here */
  constructor(have: ChunkMap) {
    this.#have = have
    this.open = ChunkMap.full(have.length)
    this.late = new ChunkMap(have.length)
    this.availability = new Uint16Array(have.length)
    this.reach = new Uint16Array(have.length)
    for (const chunk of have.indices()) this.open.delete(chunk)
  }

  /** Usual time of a chunk from a peer in milliseconds; 0 while unknown. */
  get usualMs(): number {
    return this.#usualMs
  }

  /** Requests that are under way. */
  *pending(): Generator<PendingChunk> {
    for (const list of this.#pending.values()) yield* list
  }

  isPending(chunk: number): boolean {
    return this.#pending.has(chunk)
  }

  /** A neighbour more (`by` 1) or less (`by` -1) can give the chunk. */
  offered(chunk: number, remote: boolean, by: 1 | -1): void {
    this.reach[chunk]! += by
    if (!remote) this.availability[chunk]! += by
  }

  /** A request for the chunk begins. */
  begin(chunk: number, peerId: string | undefined, nowMs: number, abort: AbortController): PendingChunk {
    const times = { startedMs: nowMs, lastBytesMs: nowMs }
    const request: PendingChunk = { chunk, peerId, ...times, receivedBytes: 0, isReceived: false, abort }
    const list = this.#pending.get(chunk)
    if (list === undefined) this.#pending.set(chunk, [request])
    else list.push(request)
    this.open.delete(chunk)
    this.late.delete(chunk)
    return request
  }

  /** The request is over; the chunk is open again when nobody else is at it and it is not here. */
  end(request: PendingChunk, nowMs: number, success: boolean): void {
    const list = (this.#pending.get(request.chunk) ?? []).filter((other) => other !== request)
    if (list.length > 0) this.#pending.set(request.chunk, list)
    else {
      this.#pending.delete(request.chunk)
      this.late.delete(request.chunk)
      if (!this.#have.has(request.chunk)) this.open.add(request.chunk)
    }
    if (success && request.peerId !== undefined) {
      this.#usualMs = usualTime(this.#usualMs, nowMs - request.startedMs)
    }
  }

  /** The chunk is here now: other requests for it are not needed any more. */
  arrived(chunk: number): void {
    this.open.delete(chunk)
    this.late.delete(chunk)
    for (const request of this.#pending.get(chunk) ?? []) request.abort.abort(new Superseded())
  }

  /** The chunk turned out to be wrong and is not here any more. */
  lost(chunk: number): void {
    if (!this.#pending.has(chunk)) this.open.add(chunk)
  }

  /** Marks the chunks that may be asked for twice. */
  markLate(nowMs: number): void {
    for (const [chunk, list] of this.#pending) {
      if (list.length === 1 && !list[0]!.isReceived && isLate(list[0]!, this.#usualMs, nowMs)) this.late.add(chunk)
    }
  }

  /** Chunks that nobody in reach has and that are not on their way: only the origin can give them. */
  onlyAtOrigin(isClaimed: (chunk: number) => boolean): ChunkMap {
    const map = new ChunkMap(this.open.length)
    for (const chunk of this.open.indices()) {
      if (this.reach[chunk] === 0 && !isClaimed(chunk)) map.add(chunk)
    }
    return map
  }
}

/** The chunk has come from elsewhere: the request that is aborted by this is nobody's fault. */
export class Superseded extends Error {
  override readonly name = 'Superseded'
  constructor() {
    super('the chunk has come from elsewhere')
  }
}
