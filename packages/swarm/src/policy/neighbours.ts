// Who becomes a neighbour of whom. The graph should be close to regular: members with the fewest neighbours first.
import type { Random, SwarmParameters } from './parameters.ts'

/** A member of a swarm, as the tracker sees it. */
export interface MemberView {
  readonly zone: string
  /** How often it has been named as a neighbour, or has been given some. */
  readonly degree: number
}

/** Members that are looked at for one choice: in a large swarm a sample is as good as all of them. */
const SAMPLE = 96

/**
 * Chooses up to `count` neighbours for a member of `zone` out of `members` (without itself and those it has): the ones
 * with the fewest neighbours, ties random, mostly of its own zone with a few across. Returns indices into `members`.
 */
export function chooseNeighbours(
  members: readonly MemberView[],
  zone: string,
  count: number,
  parameters: Readonly<SwarmParameters>,
  random: Random,
): number[] {
  const inZone: number[] = []
  const outside: number[] = []
  for (let index = 0; index < members.length; index++) (members[index]!.zone === zone ? inZone : outside).push(index)
  // A random order first: the sort is stable, so ties stay random. Each zone has a sample of its own: out of one for all
  // zones together a small zone would get hardly any choice, and its graph a long tail.
  const own = sampleOf(inZone, SAMPLE, random)
  const other = sampleOf(outside, SAMPLE, random)
  const byDegree = (a: number, b: number) => members[a]!.degree - members[b]!.degree
  own.sort(byDegree)
  other.sort(byDegree)
  const across = Math.min(other.length, Math.max(parameters.crossZoneNeighbours, count - own.length))
  const inside = own.slice(0, Math.max(0, count - across))
  return [...inside, ...other.slice(0, count - inside.length)]
}

/** Whether a node takes one more neighbour for a blob. */
export function acceptNeighbour(current: number, parameters: Readonly<SwarmParameters>): boolean {
  return current < parameters.acceptedNeighbours
}

/** Up to `size` of the indices, in random order. */
function sampleOf(indices: readonly number[], size: number, random: Random): number[] {
  const list: number[] = []
  if (indices.length <= size) list.push(...indices)
  else {
    const chosen = new Set<number>()
    while (chosen.size < size) chosen.add(indices[Math.floor(random() * indices.length)]!)
    list.push(...chosen)
  }
  for (let at = list.length - 1; at > 0; at--) {
    const other = Math.floor(random() * (at + 1))
    ;[list[at], list[other]] = [list[other]!, list[at]!]
  }
  return list
}

/** Longest time that news of a chunk is held back to go out with others, in milliseconds. */
const LONGEST_BATCH_MS = 250

/**
 * How long news of chunks is collected before the neighbours are told, in milliseconds: `leastMs`, or a quarter of what
 * a chunk usually takes. Each message costs both ends some 0.3 ms of CPU; 25 ms of delay cost a fast swarm nothing.
 */
export function haveBatchMs(leastMs: number, usualChunkMs: number): number {
  return Math.max(leastMs, Math.min(LONGEST_BATCH_MS, usualChunkMs / 4))
}
