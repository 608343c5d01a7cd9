// When a tracker does not count on a member any more that fetches from the origin and gives nobody what it has fetched. Else
// its leases are chunks that all others wait for in the end, each until it has been rescued.

/** First copies that have to wait for a second one, and as many that others have spread meanwhile, before anybody is judged. */
const LEAST_COPIES = 3
/** So long a first copy may be the only one, in milliseconds, or so many times what is usual. */
const PATIENCE_MS = 2000
const PATIENCE_FACTOR = 4

/** What became of chunks that one member, or some, were the first to bring from the origin. */
export interface SpreadRecord {
  /** Another member has them by now. */
  readonly spread: number
  /** Nobody else has them yet, after `spreadPatienceMs`. */
  readonly alone: number
}

/**
 * How long a first copy may be the only one, in milliseconds.
 * @param usualChunkMs what a chunk takes from the origin; 0 while unknown
 * @param usualSpreadMs from a first copy to the second one in this swarm; 0 while unknown
 */
export function spreadPatienceMs(usualChunkMs: number, usualSpreadMs: number): number {
  return Math.max(PATIENCE_MS, PATIENCE_FACTOR * Math.max(usualChunkMs, usualSpreadMs))
}

/**
 * Whether a member withholds what it fetches: nothing of it has ever spread, while most of what the others brought has. Where
 * links or processors are slow, or members cannot reach each other, what others brought does not spread either. It may be
 * wrong where only those are slow who would take it: so the first chunk of it that spreads clears the member again.
 */
export function withholds(member: SpreadRecord, others: SpreadRecord): boolean {
  if (member.spread > 0 || member.alone < LEAST_COPIES) return false
  return others.spread >= LEAST_COPIES && others.spread > 2 * others.alone
}
