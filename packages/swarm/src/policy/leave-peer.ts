// When a peer that does not deliver is left for a while.

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

/**
 * Whether what a peer failed to give is cheap to have elsewhere: others deliver meanwhile, or it is a blob of one chunk. That
 * is mostly a manifest or a configuration, which everything else waits for, and which the origin can give twice.
 */
export function isCheapElsewhere(othersDeliver: boolean, chunkCount: number): boolean {
  return othersDeliver || chunkCount === 1
}
