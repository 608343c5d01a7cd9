// What crosses the border of a zone. Borders are narrow and shared, so each chunk comes into a zone once: one member
// fetches it, chosen by a zone lease or, without one, by rendezvous hashing, from a member of another zone that has it;
// the origin is asked only for what no zone has (docs/decisions/0002-swarm-policy.md has what other rules cost).
import { ChunkMap } from '@shoal/store'
import { chooseLeaseHolder, type LeaseCandidate, type LeaseDecision } from './leases.ts'
import type { Random, SwarmParameters } from './parameters.ts'
import { rendezvousRank } from './rendezvous.ts'

/** A blob in one zone, as the tracker sees it. */
export interface ZoneView {
  /** Chunks that another zone has, this one has not, and nobody of this one holds a lease for (of either kind). */
  readonly wanted: ChunkMap
  /** Members of the zone that are not complete. */
  readonly incompleteMembers: number
}

/** A member of another zone that has a chunk. */
export interface ZoneSource {
  /** Chunks that it sends across the border now, as far as the tracker has arranged it. */
  readonly crossings: number
}

/**
 * Chooses the next zone lease: a member of the zone and one chunk. The caller holds to `leasesPerZone` outstanding ones;
 * `candidates` are members of the zone.
 */
export function grantZoneLease(
  view: ZoneView,
  candidates: readonly LeaseCandidate[],
  parameters: Readonly<SwarmParameters>,
  random: Random,
): LeaseDecision | undefined {
  const limit = zoneLeasesPerNode(view.incompleteMembers, parameters)
  return chooseLeaseHolder(view.wanted, candidates, limit, 1, random)
}

/** Leases that one member of a zone may hold: few members have to carry what many would share. */
export function zoneLeasesPerNode(members: number, parameters: Readonly<SwarmParameters>): number {
  const share = Math.ceil(parameters.leasesPerZone / Math.max(1, members))
  return Math.max(parameters.leasesPerNode, Math.min(parameters.pipeline, share))
}

/** Which member of another zone a chunk is fetched from: the one that sends the least across, ties random. */
export function chooseZoneSource(sources: readonly ZoneSource[], random: Random): number {
  let best = -1
  let ties = 0
  for (let index = 0; index < sources.length; index++) {
    const crossings = sources[index]!.crossings
    if (best < 0 || crossings < sources[best]!.crossings) {
      best = index
      ties = 1
    } else if (crossings === sources[best]!.crossings && random() * ++ties < 1) best = index
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
 * has, the ones it has to bring; and all of them when nothing has come for `crossZoneAfterMs`, whoever should have brought it.
 */
export function chunksAcross(
  view: CrossingView,
  toBring: ChunkMap,
  starvedMs: number,
  parameters: Readonly<SwarmParameters>,
): ChunkMap {
  const starved = starvedMs >= parameters.crossZoneAfterMs
  const across = new ChunkMap(view.open.length)
  for (const chunk of view.open.indices()) {
    if (view.availability[chunk] === 0 && (starved || toBring.has(chunk))) across.add(chunk)
  }
  return across
}
