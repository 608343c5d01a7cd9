// When a peer that does not deliver is left for a while.
import { SMALL_CHUNK_BYTES } from './admit-upload.ts'

/** What a node knows of a peer of which a request has just failed. */
export interface PeerRecord {
  /** Requests in a row that brought nothing, with the last one. */
  readonly failures: number
  /** It has given a chunk of this blob before. */
  readonly hasDelivered: boolean
  /** It has never answered a request, not even that it is busy, or it sends a byte now and then. */
  readonly isSilent: boolean
}

/** Failures in a row that a peer may have before it is left. */
const FAILURES_UNTIL_LEFT = 3

/**
 * Whether to leave a peer for a while. One that has delivered before, or that fails when nobody delivers, may have been held
 * up and has three tries; so has one that accepted the request, for its bytes may queue behind those for others. One that is
 * silent from the beginning has one try where the chunk is cheap to have elsewhere: what only a dead or hostile peer has,
 * the swarm has to fetch anew, and until then it waits (docs/decisions/0014-liars.md).
 */
export function isToBeLeft({ failures, hasDelivered, isSilent }: PeerRecord, cheapElsewhere: boolean): boolean {
  return failures >= (cheapElsewhere && isSilent && !hasDelivered ? 1 : FAILURES_UNTIL_LEFT)
}

/** So long a peer may say busy while nothing comes from anywhere, in milliseconds, or so many times what a chunk takes. */
const BUSY_PATIENCE_MS = 2000
const BUSY_PATIENCE_FACTOR = 4
/** The same for a small blob. */
const BUSY_PATIENCE_SMALL_MS = 500

/** What a node knows of a peer that has just said busy. */
export interface BusyRecord {
  readonly hasDelivered: boolean
  /** For how long it has said so, without having given anything. */
  readonly busyForMs: number
  /** For how long this node has got nothing, from any peer or the origin. */
  readonly silentMs: number
  /** What a chunk usually takes from a peer; 0 while unknown. */
  readonly usualMs: number
  /** Of the whole blob. */
  readonly sizeBytes: number
}

/**
 * Whether a `busy` counts as a failure, and whether the peer is left for it. An honest peer that many ask says it often, but then
 * those whom it serves have something to give. One that gives nothing while nothing comes from anywhere may be busy for ever,
 * and what it says it has keeps everybody from the origin. A small blob (a manifest or a configuration) is sent in no time,
 * there are more slots for it, and everything else waits for it.
 */
export function judgeBusy(record: BusyRecord): 'in order' | 'in vain' | 'to be left' {
  const { hasDelivered, busyForMs, silentMs, usualMs, sizeBytes } = record
  if (hasDelivered) return 'in order'
  const waitedMs = Math.min(busyForMs, silentMs)
  if (sizeBytes <= SMALL_CHUNK_BYTES) return waitedMs >= BUSY_PATIENCE_SMALL_MS ? 'to be left' : 'in order'
  return waitedMs >= Math.max(BUSY_PATIENCE_MS, usualMs * BUSY_PATIENCE_FACTOR) ? 'in vain' : 'in order'
}

/**
 * Whether what a peer failed to give is cheap to have elsewhere: others deliver meanwhile, or it is a blob of one chunk. That
 * is mostly a manifest or a configuration, which everything else waits for, and which the origin can give twice.
 */
export function isCheapElsewhere(othersDeliver: boolean, chunkCount: number): boolean {
  return othersDeliver || chunkCount === 1
}
