// Who fetches what from the origin, decided by a tracker. Nobody asks the origin for a chunk without its lease, so the
// origin's egress is what these decisions allow.
import type { ChunkMap } from '@shoal/store'
import type { Random, SwarmParameters } from './parameters.ts'

/** A member that would take a lease now. */
export interface LeaseCandidate {
  /** Chunks that it has. */
  readonly chunks: ChunkMap
  /** Leases that it was given for this blob so far. */
  readonly granted: number
  /** Leases that it holds now. */
  readonly held: number
  /** What a chunk of a lease took it so far, in milliseconds; 0 while unknown. @default 0 */
  readonly chunkMs?: number
}

/** A blob, as the tracker sees it. */
export interface LeaseView {
  /** Chunks that no member has and nobody holds a lease for. */
  readonly unleased: ChunkMap
  /** Members that are not complete. */
  readonly incompleteMembers: number
  /** What a chunk of a lease usually takes, in milliseconds; 0 while unknown. @default 0 */
  readonly usualChunkMs?: number
}

export interface LeaseDecision {
  /** Index into the candidates. */
  candidate: number
  first: number
  count: number
}

/**
 * Chooses the next lease of a blob: the candidate that was given the fewest so far (ties random), half of the time the
 * first chunk that is free and otherwise a random one. First copies spread over all nodes in either order; the front
 * serves clients that read along. Few members get runs of chunks, so that a lone node asks like a plain download.
 */
export function grantOriginLease(
  view: LeaseView,
  candidates: readonly LeaseCandidate[],
  parameters: Readonly<SwarmParameters>,
  random: Random,
): LeaseDecision | undefined {
  const limit = parameters.leasesPerNode * (view.incompleteMembers <= 1 ? 2 : 1)
  return chooseLeaseHolder(view.unleased, candidates, limit, leaseRun(view, parameters), random, view.usualChunkMs ?? 0)
}

/**
 * A holder among those with fewer than `limit` leases, and a run of up to `run` free chunks for it. Members that are known
 * to be slow come last. A run doubles with each lease that the member was given, so that an unknown slow one never sits
 * on many chunks: eight of them cost a swarm 30 % of its time (docs/decisions/0002-swarm-policy.md).
 */
function chooseLeaseHolder(
  free: ChunkMap,
  candidates: readonly LeaseCandidate[],
  limit: number,
  run: number,
  random: Random,
  usualChunkMs: number,
): LeaseDecision | undefined {
  if (free.count === 0) return undefined
  let candidate = -1
  let ties = 0
  for (let index = 0; index < candidates.length; index++) {
    const one = candidates[index]!
    if (one.held >= limit) continue
    const best = candidates[candidate]
    const rank = best === undefined ? -1 : rankOf(one, best, usualChunkMs)
    if (rank < 0) {
      candidate = index
      ties = 1
    } else if (rank === 0 && random() * ++ties < 1) candidate = index
  }
  if (candidate < 0) return undefined
  const first = chooseFreeChunk(free, random)
  const longest = Math.min(run, 2 ** Math.min(16, candidates[candidate]!.granted))
  let count = 1
  while (count < longest && first + count < free.length && free.has(first + count)) count++
  return { candidate, first, count }
}

/** Negative when the first is the better holder. */
function rankOf(one: LeaseCandidate, other: LeaseCandidate, usualChunkMs: number): number {
  const slow = (candidate: LeaseCandidate) => Number(usualChunkMs > 0 && (candidate.chunkMs ?? 0) > 3 * usualChunkMs)
  return slow(one) - slow(other) || one.granted - other.granted || one.held - other.held
}

/** Chunks of one lease: many for a lone node, one as soon as enough nodes share the blob to keep the origin busy. */
export function leaseRun(view: LeaseView, parameters: Readonly<SwarmParameters>): number {
  const share = view.unleased.length / (view.incompleteMembers <= 1 ? 2 : view.incompleteMembers * 8)
  return Math.max(1, Math.min(parameters.leaseRunChunks, Math.floor(share)))
}

/** Of the chunks that are free, half of the time the first and otherwise a random one; -1 for none. */
export function chooseFreeChunk(free: ChunkMap, random: Random): number {
  if (random() < 0.5) return nextIn(free, 0)
  const at = nextIn(free, Math.floor(random() * free.length))
  return at < 0 ? nextIn(free, 0) : at
}

function nextIn(map: ChunkMap, from: number): number {
  for (let index = from; index < map.length; index++) {
    if ((index & 31) === 0 && map.words[index >> 5] === 0) index += 31
    else if (map.has(index)) return index
  }
  return -1
}

/**
 * How many leases may be outstanding at an origin. More of them keep a fast origin busy between two chunks; at a slow one
 * they only share the same bytes, so that first copies come later. `usualChunkMs` is the moving average of the time from
 * a grant to the chunk, 0 while unknown. Never under `leasesPerSlowOrigin`: an origin that is slow for each connection
 * must not be made slower by fewer of them.
 */
export function originLeaseLimit(usualChunkMs: number, parameters: Readonly<SwarmParameters>): number {
  const { leasesPerOrigin, leasesPerSlowOrigin, fastLeaseMs } = parameters
  if (usualChunkMs <= 0) return Math.min(leasesPerOrigin, leasesPerSlowOrigin)
  const fitting = Math.floor(leasesPerOrigin * Math.min(1, fastLeaseMs / usualChunkMs))
  return Math.min(leasesPerOrigin, Math.max(leasesPerSlowOrigin, fitting))
}

/**
 * Leases that one node holds at an origin while another waits for one, all its blobs together: a node may tell of blobs that do
 * not exist, and hold what it got for them. Something is left for others wherever more than one lease may be out.
 * @param limit leases that may be outstanding at the origin
 */
export function originLeasesPerNode(limit: number): number {
  return Math.max(1, Math.min(limit - 1, Math.max(2, Math.floor(limit / 4))))
}

/** Members' word keeps all from an origin for so long at most, in milliseconds. */
const MAX_PAUSE_MS = 10_000
/** The word of one member alone, which may be a lie. */
const LONE_PAUSE_MS = 1000

/**
 * For how long nobody is sent to an origin that asked a member for less, in milliseconds. Two members that say so are believed. The
 * word of one holds for a second, and not again while nobody else agrees: it could keep all from the origin for ever. In a
 * real outage the next one that is sent there agrees.
 * @param before who said so last, lately; undefined for nobody
 */
export function pauseOf(backoffMs: number, before: string | undefined, saidBy: string): number {
  if (before === saidBy) return 0
  return Math.min(backoffMs, before === undefined ? LONE_PAUSE_MS : MAX_PAUSE_MS)
}

/**
 * Whether the holder of a lease has brought all of it. Whatever else it says: who hands leases back at once would be taken for the
 * fastest member, and be given each of them again.
 */
export function isBrought(
  lease: { readonly first: number; readonly count: number },
  fetched: readonly number[],
): boolean {
  const there = new Set(fetched)
  for (let chunk = lease.first; chunk < lease.first + lease.count; chunk++) if (!there.has(chunk)) return false
  return true
}

/**
 * Whether a lease is late, so that its chunks may be given to a second member where nothing else is left to fetch. Whatever
 * its holder says of progress, the swarm does not wait for it alone; what a link can do shows in `usualChunkMs`.
 */
export function isLeaseLate(
  lease: { readonly grantedMs: number; readonly count: number },
  usualChunkMs: number,
  parameters: Readonly<SwarmParameters>,
  nowMs: number,
): boolean {
  const { lateLeaseFactor, lateLeaseMinMs } = parameters
  // While it is unknown, a chunk too many is better than all waiting for the first holder.
  const usualMs = usualChunkMs > 0 ? usualChunkMs : lateLeaseMinMs
  return nowMs - lease.grantedMs > Math.max(lateLeaseMinMs, usualMs * lease.count * lateLeaseFactor)
}
