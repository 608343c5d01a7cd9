// Which chunk to ask of which neighbour next: the peer first, then the rarest chunk that it has.
// Choosing the chunk first was measured worse (p99 1.09 against 1.06, docs/decisions/0002-swarm-policy.md).
import type { ChunkMap } from '@shoal/store'
import type { Random, SwarmParameters } from './parameters.ts'

/** What a node knows of a neighbour when it chooses. */
export interface NeighbourView {
  /** Chunks that the neighbour has. */
  readonly chunks: ChunkMap
  /** Requests to it that are under way. */
  readonly outstanding: number
  /** It said busy, or misbehaved: not to be asked before this time. */
  readonly notBeforeMs: number
  /** Upload slots that it said are free. */
  readonly freeSlots: number
  /** It is in another zone: asked only for what `across` names. @default false */
  readonly remote?: boolean
}

/** What a node knows of itself, for one blob. */
export interface WantView {
  /** Chunks that are neither here nor on their way. */
  readonly open: ChunkMap
  /** Chunks whose only request takes much longer than usual: they may be asked for twice (end game). */
  readonly late: ChunkMap
  /** Number of neighbours of the own zone that have each chunk. */
  readonly availability: Uint16Array
  /** First chunk that a client waits for; -1 when nobody reads along. */
  readonly front: number
  /** Chunks that neighbours of other zones may be asked for (see `chunksAcross`). @default none */
  readonly across?: ChunkMap | undefined
}

export interface ChosenRequest {
  /** Index into the neighbours that were passed in. */
  neighbour: number
  chunk: number
  /** A second request for a chunk that is on its way already. */
  duplicate: boolean
}

/**
 * Chooses the next request of a node, or none when no neighbour that may be asked has anything that is wanted. The
 * caller holds to `pipeline`.
 */
export function chooseRequest(
  want: WantView,
  neighbours: readonly NeighbourView[],
  parameters: Readonly<SwarmParameters>,
  nowMs: number,
  random: Random,
): ChosenRequest | undefined {
  const duplicate = want.open.count === 0
  const wanted = duplicate ? want.late : want.open
  if (wanted.count === 0) return undefined
  // Where all have everything nothing is rare, and nobody gains by what this node has: in order, the whole is hashed on the way.
  const chance = neighbours.every(({ chunks }) => chunks.isFull) ? NONE : random
  const candidates = candidatesFor(neighbours.length)
  let count = 0
  for (let index = 0; index < neighbours.length; index++) {
    const neighbour = neighbours[index]!
    if (neighbour.remote === true && (duplicate || want.across === undefined)) continue
    if (neighbour.outstanding < parameters.requestsPerNeighbour && neighbour.notBeforeMs <= nowMs)
      candidates[count++] = index
  }
  while (count > 0) {
    const at = mostFreeSlots(candidates, count, neighbours, random)
    const index = candidates[at]!
    const neighbour = neighbours[index]!
    const from = neighbour.remote === true ? (want.across ?? wanted) : wanted
    const chunk = chooseChunk(neighbour.chunks, from, want, parameters, chance)
    if (chunk >= 0) return { neighbour: index, chunk, duplicate }
    candidates[at] = candidates[--count]!
  }
  return undefined
}

/** No chance: always the first of equals. */
const NONE: Random = () => 0

/** The rarest wanted chunk that is offered, ties random; from the front window for a share of the requests. */
export function chooseChunk(
  offered: ChunkMap,
  wanted: ChunkMap,
  want: Pick<WantView, 'availability' | 'front'>,
  parameters: Readonly<SwarmParameters>,
  random: Random,
): number {
  if (want.front >= 0 && random() < parameters.frontShare) {
    const chunk = rarest(
      offered,
      wanted,
      want.availability,
      want.front,
      want.front + parameters.frontWindowChunks,
      random,
    )
    if (chunk >= 0) return chunk
  }
  return rarest(offered, wanted, want.availability, 0, offered.length, random)
}

/** Of the chunks in `from` up to `to` that are wanted and offered the one that the fewest neighbours have; -1 for none. */
function rarest(
  offered: ChunkMap,
  wanted: ChunkMap,
  availability: Uint16Array,
  from: number,
  to: number,
  random: Random,
): number {
  const offeredWords = offered.words
  const wantedWords = wanted.words
  const tied = scratchOf(offered.length)
  let fewest = Infinity
  let ties = 0
  for (let word = from >> 5; word < offeredWords.length && word << 5 < to; word++) {
    let bits = offeredWords[word]! & wantedWords[word]!
    while (bits !== 0) {
      const bit = bits & -bits
      bits ^= bit
      const chunk = (word << 5) + 31 - Math.clz32(bit)
      if (chunk < from || chunk >= to) continue
      const copies = availability[chunk]!
      if (copies > fewest) continue
      if (copies < fewest) {
        fewest = copies
        ties = 0
      }
      tied[ties++] = chunk
    }
  }
  return ties === 0 ? -1 : tied[indexBelow(ties, random)]!
}

/** Place among the candidates of one with the most free slots, ties random. */
function mostFreeSlots(
  candidates: Readonly<Int32Array>,
  count: number,
  neighbours: readonly NeighbourView[],
  random: Random,
): number {
  const tied = scratchOf(count)
  let most = -Infinity
  let ties = 0
  for (let at = 0; at < count; at++) {
    const slots = neighbours[candidates[at]!]!.freeSlots
    if (slots < most) continue
    if (slots > most) {
      most = slots
      ties = 0
    }
    tied[ties++] = at
  }
  return tied[indexBelow(ties, random)]!
}

function indexBelow(count: number, random: Random): number {
  return count === 1 ? 0 : Math.floor(random() * count)
}

// This is the innermost loop of a busy node: its lists are written into the same space again and again.
let candidateSpace = new Int32Array(64)
let tiedSpace = new Int32Array(1024)

function candidatesFor(length: number): Int32Array {
  if (candidateSpace.length < length) candidateSpace = new Int32Array(length * 2)
  return candidateSpace
}

/** Space for equals: filled and read by one call, free again after it. */
function scratchOf(length: number): Int32Array {
  if (tiedSpace.length < length) tiedSpace = new Int32Array(length * 2)
  return tiedSpace
}
