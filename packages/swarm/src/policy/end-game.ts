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

/** However long chunks usually take, one that has begun may pause for at most so many times `stallTimeoutMs`. */
const LONGEST_PAUSE_FACTOR = 3

/**
 * Whether a request has stalled: no bytes for `stallTimeoutMs`, or for as long as a whole chunk usually takes, where that is longer:
 * then links or processors are short everywhere, and what has come already would come again. A chunk that is still moving is never
 * stalled, however slow. The first byte may queue behind what the peer is sending to others, so it has twice the usual time.
 */
export function isStalled(request: RequestView, usualMs: number, stallTimeoutMs: number, nowMs: number): boolean {
  const silentMs = nowMs - request.lastBytesMs
  const started = request.lastBytesMs > request.startedMs
  const pauseMs = started ? Math.min(usualMs, stallTimeoutMs * LONGEST_PAUSE_FACTOR) : usualMs * 2
  return silentMs > Math.max(stallTimeoutMs, pauseMs)
}

/** Below this rate, in bytes a second, a chunk is not coming but held up: no link that pulls images is so slow. */
const TRICKLE_BYTES_PER_SECOND = 2048
/** No peer is judged by its speed before, in milliseconds. */
const TRICKLE_AFTER_MS = 3000

/**
 * Whether a request gets a few bytes now and then, so that it is neither stalled nor ever over. A slow link alone is no
 * reason: what counts as usual follows from what this node gets from others.
 */
export function isTrickling(request: RequestView & { receivedBytes: number }, usualMs: number, nowMs: number): boolean {
  const tookMs = nowMs - request.startedMs
  if (request.lastBytesMs === request.startedMs || tookMs < Math.max(TRICKLE_AFTER_MS, usualMs * 4)) return false
  return request.receivedBytes * 1000 < TRICKLE_BYTES_PER_SECOND * tookMs
}

/**
 * The moving average of what a chunk takes from a peer, in milliseconds. A single slow peer hardly moves it: a time counts
 * as at most half as long again as the average, so that waits and second requests follow the many, not the few.
 */
export function usualTime(usualMs: number, tookMs: number): number {
  return usualMs <= 0 ? tookMs : usualMs * 0.8 + Math.min(tookMs, usualMs * 1.5) * 0.2
}
