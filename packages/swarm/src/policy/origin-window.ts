// Who fetches what from the origin when there is no tracker and a swarm is too large for everybody to know everybody.
// Rendezvous hashing needs the same list of members everywhere; here a node needs only a guess of how many there are.
// Each chunk has a hash for each member, and a member feels responsible for the chunks whose hash is above a bar. The bar
// starts so high that hardly anyone is, and sinks the longer a chunk stays unclaimed; the first member above it claims the
// chunk, and the claim spreads through the swarm within a few round trips, long before the bar has sunk much further.
// Only the simulator does it so far: the daemon's claims do not spread (docs/decisions/0008-without-a-tracker.md).
import type { ChunkMap } from '@shoal/store'
import type { SwarmParameters } from './parameters.ts'
import { rendezvousWeight } from './rendezvous.ts'

/** What a node without a tracker knows of one blob's swarm. */
export interface UntrackedView {
  /** Chunks that are neither here, nor on their way, nor at a neighbour, nor claimed. */
  readonly candidates: ChunkMap
  /** Chunks that are claimed by someone and at no neighbour yet: they are on their way from the origin. */
  readonly claimed: number
  /** How many members the swarm may have, this node included; a guess that may be wrong by far. */
  readonly members: number
  /** Hash of this node (`textHash` of its peer id) and of the blob. */
  readonly self: number
  readonly blobHash: number
}

/** The chunks that are due next, and since when each has been waiting. One for each download. */
export class OriginWindow {
  /** Since when each chunk has been a candidate within the window; -1 when it is not. */
  readonly #sinceMs: Float64Array

  constructor(chunkCount: number) {
    this.#sinceMs = new Float64Array(chunkCount).fill(-1)
  }

  /**
   * The chunk that this node should claim and fetch now, or -1. To be asked every few dozen milliseconds. Only so many
   * chunks are due at a time that an origin with a narrow link is not asked for everything at once.
   */
  choose(view: UntrackedView, parameters: Readonly<SwarmParameters>, nowMs: number): number {
    const { candidates, self, blobHash } = view
    let room = parameters.originWindowChunks - view.claimed
    let chosen = -1
    let margin = 0
    for (let chunk = 0; chunk < candidates.length; chunk++) {
      if (!candidates.has(chunk)) {
        this.#sinceMs[chunk] = -1
        continue
      }
      if (room-- <= 0) break
      if (this.#sinceMs[chunk]! < 0) this.#sinceMs[chunk] = nowMs
      const share = originShare(nowMs - this.#sinceMs[chunk]!, view.members, parameters)
      // The one that is most its own: members that were all busy for a while must not all take the same chunk then.
      const above = rendezvousWeight(self, blobHash, chunk) / 2 ** 32 - (1 - share)
      if (above < margin || share === 0) continue
      margin = above
      chosen = chunk
    }
    return chosen
  }
}

/**
 * Share of all chunks that a node feels responsible for after a chunk has been waiting for `waitedMs`: at first so small
 * that of ten chunks one has an owner, then twice as much every `originShareDoublingMs`. So the first owner comes at
 * about the same time whatever the guess of `members` is worth, and a second one seldom before it has heard of the first.
 */
export function originShare(waitedMs: number, members: number, parameters: Readonly<SwarmParameters>): number {
  if (members <= 1) return 1
  return Math.min(1, (0.1 / members) * 2 ** (waitedMs / parameters.originShareDoublingMs))
}
