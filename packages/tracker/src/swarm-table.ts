// All swarms that a tracker knows. Nobody proves how large a blob is before it is whole, so nodes that name different
// sizes for a digest are kept apart: who lies about a size is alone with that, and takes no part in the swarm of the others.
import type { Digest } from '@shoal/oci'
import type { TrackedSwarm } from './tracked-swarm.ts'

/** Swarms by digest and size. */
export class SwarmTable implements Iterable<TrackedSwarm> {
  readonly #swarms = new Map<Digest, TrackedSwarm[]>()
  #size = 0

  /** How many there are. */
  get size(): number {
    return this.#size
  }

  *[Symbol.iterator](): Iterator<TrackedSwarm> {
    for (const swarms of this.#swarms.values()) yield* swarms
  }

  /** The swarm of those who say that the blob has this size. */
  ofSize(digest: Digest, sizeBytes: number): TrackedSwarm | undefined {
    return this.#swarms.get(digest)?.find((swarm) => swarm.sizeBytes === sizeBytes)
  }

  /** The swarm in which a node takes part: one of a blob at most. */
  ofMember(digest: Digest, peerId: string): TrackedSwarm | undefined {
    return this.#swarms.get(digest)?.find(({ members }) => members.has(peerId))
  }

  /** The swarm with the most members, of all sizes that are named. */
  largest(digest: Digest): TrackedSwarm | undefined {
    return this.#swarms.get(digest)?.reduce((one, other) => (other.members.size > one.members.size ? other : one))
  }

  add(swarm: TrackedSwarm): void {
    const others = this.#swarms.get(swarm.digest)
    if (others === undefined) this.#swarms.set(swarm.digest, [swarm])
    else others.push(swarm)
    this.#size++
  }

  delete(swarm: TrackedSwarm): void {
    const all = this.#swarms.get(swarm.digest)
    if (all?.includes(swarm) !== true) return
    this.#size--
    if (all.length === 1) this.#swarms.delete(swarm.digest)
    else all.splice(all.indexOf(swarm), 1)
  }
}
