// Who becomes a neighbour of whom. The graph should be close to regular: members with the fewest neighbours first.
import type { MemberPool } from './member-pool.ts'
import type { Random, SwarmParameters } from './parameters.ts'

/**
 * Members that are looked at for each that is to be chosen, and for all of them at least: in a large swarm a sample is as good as
 * all (docs/decisions/0002-swarm-policy.md).
 */
const SAMPLE_FACTOR = 6
const LEAST_SAMPLE = 24

/**
 * Chooses up to `count` neighbours for a member of `zone`: the ones with the fewest neighbours, ties random, mostly of its
 * own zone with a few across. `excluded` are the member itself and those it has.
 */
export function chooseNeighbours<M extends { readonly zone: string }>(
  members: MemberPool<M>,
  zone: string,
  count: number,
  excluded: ReadonlySet<M>,
  parameters: Readonly<SwarmParameters>,
  random: Random,
): M[] {
  // Each zone has a sample of its own: out of one for all zones together a small zone would get hardly any choice, and its
  // graph a long tail.
  const sample = Math.max(LEAST_SAMPLE, SAMPLE_FACTOR * count)
  const own = members.leastConnected(zone, sample, count, excluded, random)
  // The first of a zone are not given a full set of others: the places are for those of their own zone who are to come.
  const missing = Math.min(count - own.length, parameters.acceptedRemoteNeighbours >> 1)
  const few = Math.min(parameters.crossZoneNeighbours, count - 1)
  const other = members.leastConnectedOutside(zone, sample, Math.max(0, few, missing), excluded, random)
  return [...own.slice(0, Math.max(0, count - other.length)), ...other]
}

/** The neighbours of a node for one blob, when it decides on one more. */
export interface NeighbourCounts {
  /** All that it has. */
  readonly all: number
  /** Of these, how many are of other zones. */
  readonly remote: number
}

/**
 * Whether a node takes one more neighbour for a blob. Neighbours of other zones are hardly ever asked for anything, so they
 * get few of the places.
 */
export function acceptNeighbour(
  current: NeighbourCounts,
  isRemote: boolean,
  parameters: Readonly<SwarmParameters>,
): boolean {
  if (isRemote && current.remote >= parameters.acceptedRemoteNeighbours) return false
  return current.all < parameters.acceptedNeighbours
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

/** A tracker hears of everybody's chunks this often, in milliseconds, in a swarm of up to `FULL_RATE_MEMBERS`. */
const PROGRESS_INTERVAL_MS = 1000
const LONGEST_PROGRESS_INTERVAL_MS = 10_000
const FULL_RATE_MEMBERS = 2000

/**
 * How often a member tells its tracker what it has. First copies are told with their leases, so this only confirms them:
 * in a large swarm it may be rarer, and the tracker hears the same number of messages a second.
 */
export function progressIntervalMs(members: number): number {
  const share = members / FULL_RATE_MEMBERS
  return Math.min(LONGEST_PROGRESS_INTERVAL_MS, Math.max(PROGRESS_INTERVAL_MS, PROGRESS_INTERVAL_MS * share))
}
