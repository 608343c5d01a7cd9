// Who fetches what from the origin when no tracker can be asked: rendezvous hashing over the members that are known.
// Every node computes the same owner for a chunk as far as it knows the same members; the next in order takes over.
import type { ChunkMap } from '@shoal/store'
import type { Random, SwarmParameters } from './parameters.ts'

/** A 32-bit number that stands for a text (FNV-1a), for members and blobs. */
export function textHash(text: string): number {
  let hash = 0x811c9dc5
  for (let index = 0; index < text.length; index++) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193)
  return hash >>> 0
}

/** Weight of a member for a chunk; the highest weight owns it (Thaler and Ravishankar, 1998). */
export function rendezvousWeight(memberHash: number, blobHash: number, chunk: number): number {
  let value = memberHash ^ Math.imul(blobHash ^ Math.imul(chunk + 1, 0x9e3779b1), 0x85ebca6b)
  value = Math.imul(value ^ (value >>> 16), 0x7feb352d)
  value = Math.imul(value ^ (value >>> 15), 0x846ca68b)
  return (value ^ (value >>> 16)) >>> 0
}

/** Place of a member in the order of a chunk: 0 is the owner. `others` are the hashes of the other members. */
export function rendezvousRank(self: number, others: readonly number[], blobHash: number, chunk: number): number {
  const own = rendezvousWeight(self, blobHash, chunk)
  let rank = 0
  for (const other of others) {
    const weight = rendezvousWeight(other, blobHash, chunk)
    if (weight > own || (weight === own && other > self)) rank++
  }
  return rank
}

/** Which chunks to fetch from the origin next, and how many in a row. */
export interface OriginRun {
  first: number
  count: number
}

/**
 * Chooses what a node without a tracker takes from the origin. `candidates` are the chunks that are neither here, nor
 * on their way, nor at a neighbour, nor claimed by one. `others` are the members that may be trusted to fetch their own
 * share (those that have done nothing for a while are left out by the caller, which is how the next in order takes
 * over). A node that knows no others takes runs from the front, like a plain download.
 */
export function chooseOriginRun(
  candidates: ChunkMap,
  self: number,
  others: readonly number[],
  blobHash: number,
  parameters: Readonly<SwarmParameters>,
  random: Random,
): OriginRun | undefined {
  if (candidates.count === 0) return undefined
  if (others.length === 0) {
    const [first = 0] = candidates.indices()
    let count = 1
    while (count < parameters.leaseRunChunks && first + count < candidates.length && candidates.has(first + count))
      count++
    return { first, count }
  }
  const owned: number[] = []
  for (const chunk of candidates.indices()) if (rendezvousRank(self, others, blobHash, chunk) === 0) owned.push(chunk)
  if (owned.length === 0) return undefined
  const first = random() < 0.5 ? owned[0]! : owned[Math.floor(random() * owned.length)]!
  return { first, count: 1 }
}
