// When a tracker helps a member past what its books say. They say that a chunk is in the swarm, but whoever has it does not
// serve this member: it may fetch such chunks from the origin itself, few at first.

/** A member is starved for so long before it is helped, in milliseconds. */
const AFTER_MS = 4000
/**
 * And for so many times what a chunk usually takes from the origin. Where links or processors are slow nobody gets a chunk
 * for seconds: what a rescue brings then is a copy more, and makes all of them slower.
 */
const AFTER_CHUNKS = 4
/**
 * With each rescue after which the member is starved again, the wait is halved and the chunks are twice as many, up to so
 * often. Nodes that refuse each other (each took the other's wrong bytes for its fault, where the origin's were wrong) would
 * get a chunk in four seconds for ever.
 */
const MAX_DOUBLINGS = 4

/** Rescues in another swarm count as so many here, at most: the first help comes after a second, not after four. */
const MAX_REMEMBERED = 2

export interface Rescue {
  /** How long the member has to be starved, in milliseconds. */
  readonly starvedMs: number
  /** How long a chunk has to be in the swarm, in milliseconds: before, it may just not have reached the member. */
  readonly coveredMs: number
  /** How many chunks in a row it may fetch at most. */
  readonly chunks: number
}

/** What a tracker knows of a member that is starved. */
export interface StarvedMember {
  /** Rescues in a row, without any chunk from another member in between. */
  readonly rescues: number
  /** The same in swarms before: whom others refuse there nothing reaches here either. */
  readonly rescuedElsewhere: number
  /** Others could not get what it says it has. */
  readonly discredited: boolean
}

/**
 * What a starved member may be helped with. One that others left because it does not deliver takes the origin's time from them
 * with each chunk: while others wait, it is helped, but no faster each time.
 * @param usualChunkMs what a chunk takes from the origin, in milliseconds; 0 while unknown
 * @param othersWait whether a member that is not discredited still lacks something
 */
export function rescueOf(member: StarvedMember, usualChunkMs: number, othersWait: boolean): Rescue {
  const isHeldBack = member.discredited && othersWait
  const elsewhere = isHeldBack ? 0 : Math.min(member.rescuedElsewhere, MAX_REMEMBERED)
  const doublings = isHeldBack ? 0 : Math.min(elsewhere + member.rescues, MAX_DOUBLINGS)
  const firstMs = Math.max(AFTER_MS, AFTER_CHUNKS * usualChunkMs)
  const after = (halvings: number): number => Math.max(firstMs / 2 ** halvings, usualChunkMs)
  return { starvedMs: after(doublings), coveredMs: after(elsewhere), chunks: 2 ** doublings }
}
