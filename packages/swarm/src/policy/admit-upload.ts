// Whether a node sends a chunk now or says busy. There is no queue: a queue of one already cost 10 % in the study,
// because the asker could have been served elsewhere meanwhile.
import type { Random, SwarmParameters } from './parameters.ts'

export interface UploadLoad {
  /** Chunks that are being sent now, to all peers. */
  active: number
  /** Of these, to the peer that asks. */
  activeToPeer: number
  /** Length of the chunk that is asked for, in bytes. @default a large one */
  lengthBytes?: number
  /** How long the chunk would have to wait for what was sent before it, by the node's upload rate. @default 0 */
  waitMs?: number
}

/** Who waits longer before the first byte of a chunk, in milliseconds, takes the peer for dead. */
const LONGEST_WAIT_MS = 500

/** Up to this length a chunk is over before it could be in anybody's way, in bytes: manifests and image configs. */
export const SMALL_CHUNK_BYTES = 64 * 1024
/** Small chunks may take as many times the slots: a pull must not wait for its manifest behind the layers of others. */
const SMALL_CHUNK_FACTOR = 4

/** Whether a request for a chunk is served at once. One peer never takes more than half of the slots (at least one). */
export function admitUpload(load: UploadLoad, parameters: Readonly<SwarmParameters>): boolean {
  if ((load.waitMs ?? 0) > LONGEST_WAIT_MS) return false
  if ((load.lengthBytes ?? Infinity) <= SMALL_CHUNK_BYTES)
    return load.active < parameters.uploadSlots * SMALL_CHUNK_FACTOR
  if (load.active >= parameters.uploadSlots) return false
  return load.activeToPeer < Math.max(1, parameters.uploadSlots >> 1)
}

/** Time of a chunk, in milliseconds, up to which the bounds of the wait after a `busy` hold as they are. */
const USUAL_CHUNK_MS = 100

/**
 * How long after a `busy` the asker leaves this neighbour alone, in milliseconds. `usualChunkMs` is what a chunk usually
 * takes from a peer (0 while unknown): where that is long, a slot does not become free any sooner by asking often.
 */
export function busyRetryMs(parameters: Readonly<SwarmParameters>, random: Random, usualChunkMs = 0): number {
  const { busyRetryMinMs, busyRetryMaxMs } = parameters
  return (busyRetryMinMs + random() * (busyRetryMaxMs - busyRetryMinMs)) * Math.max(1, usualChunkMs / USUAL_CHUNK_MS)
}

/** No peer is left alone for longer because it asks for it, in milliseconds: it could be for ever. */
const LONGEST_HINT_MS = 2000

/** The same for a peer that has told when it wants to be asked again. */
export function busyWaitMs(
  hintMs: number,
  parameters: Readonly<SwarmParameters>,
  random: Random,
  usualChunkMs: number,
): number {
  return Math.max(Math.min(hintMs, LONGEST_HINT_MS), busyRetryMs(parameters, random, usualChunkMs))
}
