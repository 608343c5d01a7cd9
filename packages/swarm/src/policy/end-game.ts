// When a request takes so long that the chunk is asked for a second time, or the peer is given up.

/** A chunk request that is under way. */
export interface RequestView {
  readonly startedMs: number
  /** When bytes came last; `startedMs` while none have come. */
  readonly lastBytesMs: number
}

/** Whether a chunk may be asked for twice: its request runs for more than twice the usual time (and 200 ms at least). */
export function isLate(request: RequestView, usualMs: number, nowMs: number): boolean {
  return nowMs - request.startedMs > Math.max(200, usualMs * 2)
}

/**
 * Whether a request has stalled: no bytes for `stallTimeoutMs`. A chunk that is still moving is never stalled, however
 * slow. The first byte may queue behind what the peer is sending to others, so it has twice the usual time for a chunk.
 */
export function isStalled(request: RequestView, usualMs: number, stallTimeoutMs: number, nowMs: number): boolean {
  const silentMs = nowMs - request.lastBytesMs
  const started = request.lastBytesMs > request.startedMs
  return silentMs > (started ? stallTimeoutMs : Math.max(stallTimeoutMs, usualMs * 2))
}

/**
 * The moving average of what a chunk takes from a peer, in milliseconds. A single slow peer hardly moves it: a time counts
 * as at most half as long again as the average, so that waits and second requests follow the many, not the few.
 */
export function usualTime(usualMs: number, tookMs: number): number {
  return usualMs <= 0 ? tookMs : usualMs * 0.8 + Math.min(tookMs, usualMs * 1.5) * 0.2
}
