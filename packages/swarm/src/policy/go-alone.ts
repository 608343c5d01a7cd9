// When a node asks the origin without a lease, though a tracker is in charge: pulls end, whatever keeps leases from it.

/** A chunk may take so many times what it usually does before nothing counts as coming. */
const AFTER_CHUNKS = 4
/** Whatever neighbours say that they get: what does not come here after so many times the wait will not come. */
const WORD_FACTOR = 2

/** What a node knows of its waiting for one blob. */
export interface Waiting {
  /** For how long neither bytes nor a lease have come here, in milliseconds. */
  readonly silentMs: number
  /** For how long no neighbour has got a chunk, in milliseconds. */
  readonly neighboursSilentMs: number
  /** What a chunk usually takes from a peer, in milliseconds; 0 while unknown. */
  readonly usualChunkMs: number
}

/**
 * Whether a node that wants something has been left alone with that. In a busy rollout a node may get nothing for long while its
 * neighbours do: then its turn comes, and asking the origin would only cost a copy more.
 * @param patienceMs how long it waits at least; not the same for all, so that not all ask the origin at once
 */
export function isForsaken(waiting: Waiting, patienceMs: number): boolean {
  const { silentMs, neighboursSilentMs, usualChunkMs } = waiting
  const waitMs = Math.max(patienceMs, AFTER_CHUNKS * usualChunkMs)
  return silentMs >= waitMs && (neighboursSilentMs >= waitMs || silentMs >= WORD_FACTOR * waitMs)
}
