// What crosses the border of a zone. Borders are narrow and shared, so each chunk comes into a zone once: one member fetches
// it, from a member of another zone that has it. A tracker says who by zone leases; without one it is decided by rendezvous
// hashing, which is as good only where all members of a zone know each other. The origin is asked only for what no zone has
// (docs/decisions/0010-zones-by-leases.md has what other rules cost).
import { ChunkMap } from '@shoal/store'
import { chooseFreeChunk } from './leases.ts'
import type { Random, SwarmParameters } from './parameters.ts'
import { rendezvousRank } from './rendezvous.ts'

/** A blob in one zone, as the tracker sees it. */
export interface ZoneView {
  /** Chunks to bring in (`ZoneBooks.wanted`). */
  readonly wanted: ChunkMap
  /** Members of the zone that are not complete. */
  readonly incompleteMembers: number
}

/** A member of a zone that could bring a chunk in. */
export interface ZoneCandidate {
  /** Leases of either kind that it was given for this blob so far. */
  readonly granted: number
  /** Zone leases that it holds now. */
  readonly bringing: number
}

/** A member of another zone that has a chunk. */
export interface ZoneSource {
  /** Chunks that it sends across the border now, as far as the tracker has arranged it. */
  readonly crossings: number
}

export interface ZoneLeaseDecision {
  /** Index into the candidates. */
  candidate: number
  chunk: number
}

/**
 * Chooses the next zone lease: the member of the zone that was given the fewest leases so far (ties random) and one chunk.
 * The caller holds to `leasesPerZone` outstanding ones; `candidates` are members of the zone.
 */
export function grantZoneLease(
  view: ZoneView,
  candidates: readonly ZoneCandidate[],
  parameters: Readonly<SwarmParameters>,
  random: Random,
): ZoneLeaseDecision | undefined {
  if (view.wanted.count === 0) return undefined
  const limit = zoneLeasesPerNode(view.incompleteMembers, parameters)
  const load = ({ granted, bringing }: ZoneCandidate) => (bringing < limit ? granted : Infinity)
  const candidate = leastLoaded(candidates, load, random)
  return candidate < 0 ? undefined : { candidate, chunk: chooseFreeChunk(view.wanted, random) }
}

/** Leases that one member of a zone may hold: few members have to carry what many would share. */
export function zoneLeasesPerNode(members: number, parameters: Readonly<SwarmParameters>): number {
  const share = Math.ceil(parameters.leasesPerZone / Math.max(1, members))
  return Math.max(parameters.leasesPerNode, Math.min(parameters.pipeline, share))
}

/** Which member of another zone a chunk is fetched from: the one that sends the least across, ties random. */
export function chooseZoneSource(sources: readonly ZoneSource[], random: Random): number {
  return leastLoaded(sources, ({ crossings }) => crossings, random)
}

/** Index of an item with the smallest finite load, ties random; -1 for none. */
function leastLoaded<T>(items: readonly T[], loadOf: (item: T) => number, random: Random): number {
  let best = -1
  let least = Infinity
  let ties = 0
  for (const [index, item] of items.entries()) {
    const load = loadOf(item)
    if (load < least) {
      best = index
      least = load
      ties = 1
    } else if (load === least && load !== Infinity && random() * ++ties < 1) best = index
  }
  return best
}

/** What a node knows of a blob when it decides what to bring into its zone. */
export interface CrossingView {
  /** Chunks that are neither here nor on their way. */
  readonly open: ChunkMap
  /** Number of neighbours of the own zone that have each chunk. */
  readonly availability: Uint16Array
}

/**
 * Chunks that it falls to a node to bring into its zone, by rendezvous hashing over the members of the zone that it knows
 * and that lack something, too. In a zone of which all know each other that is one node for each chunk.
 */
export function chunksToBring(
  self: number,
  zoneMates: readonly number[],
  blobHash: number,
  chunkCount: number,
): ChunkMap {
  const own = new ChunkMap(chunkCount)
  for (let chunk = 0; chunk < chunkCount; chunk++) {
    if (rendezvousRank(self, zoneMates, blobHash, chunk) === 0) own.add(chunk)
  }
  return own
}

/**
 * Chunks that a node without a zone lease may ask neighbours of other zones for: of those that no neighbour of its own zone
 * has, the ones it has to bring; and all of them when nothing has come for `crossZoneAfterMs`, whoever should have brought
 * it.
 * @param toBring `chunksToBring`, or undefined while a tracker grants leases
 */
export function chunksAcross(
  view: CrossingView,
  toBring: ChunkMap | undefined,
  starvedMs: number,
  parameters: Readonly<SwarmParameters>,
): ChunkMap | undefined {
  const starved = starvedMs >= parameters.crossZoneAfterMs
  if (!starved && toBring === undefined) return undefined
  const across = new ChunkMap(view.open.length)
  for (const chunk of view.open.indices()) {
    if (view.availability[chunk] === 0 && (starved || toBring?.has(chunk) === true)) across.add(chunk)
  }
  return across
}
