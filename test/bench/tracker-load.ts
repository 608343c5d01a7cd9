// What agents say to a tracker during a rollout, for any number of them: the messages and intervals of the swarm room,
// encoded as on the wire, laid out over time.
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { encodeControlMessage, type ControlMessage } from '@shoal/network'
import type { Digest } from '@shoal/oci'
import { progressIntervalMs } from '@shoal/swarm/policy'

/** An image of 3 GB in two layers, as in the simulator's scenarios. */
export const BLOB_BYTES = 1_500_000_000
export const BLOBS: readonly Digest[] = ['one', 'two'].map(
  (name): Digest => `sha256:${createHash('sha256').update(name).digest('hex')}`,
)
const CHUNKS = Math.ceil(BLOB_BYTES / (4 * 1024 * 1024))
/** All nodes begin within this. */
const START_WINDOW_MS = 2000
/** How long a node takes for the image: 3 GB at 300 MB/s. */
const PULL_MS = 10_000

export interface Said {
  atMs: number
  /** Number of the node. */
  node: number
  bytes: Uint8Array
}

/** Messages in order of time, in as few objects as can be: who plays them does not have their garbage to collect. */
export interface Traffic {
  atMs: Float64Array
  nodes: Uint32Array
  /** Where each message ends in `bytes`. */
  ends: Uint32Array
  bytes: Uint8Array
}

/** A bit field of which a share of the bits is set from the front; what stands where does not matter to the cost. */
export function chunksAt(share: number): Uint8Array {
  const field = new Uint8Array(Math.ceil(CHUNKS / 8))
  field.fill(255, 0, Math.floor(field.length * share))
  return field
}

/**
 * Everything that `nodes` nodes say, in order of time. Blobs are those the tracker is in charge of: with two trackers each
 * gets one of the two.
 */
function rolloutTraffic(nodes: number, blobs: readonly Digest[]): Said[] {
  const said: Said[] = []
  const say = (atMs: number, node: number, message: ControlMessage): void => {
    said.push({ atMs, node, bytes: encodeControlMessage(message) })
  }
  const intervalMs = progressIntervalMs(nodes)
  for (let node = 0; node < nodes; node++) {
    const startMs = (node / nodes) * START_WINDOW_MS
    say(startMs, node, { type: 'tag-ask', requestId: node + 1, reference: 'registry.example.com/app:v1' })
    for (const digest of blobs) {
      say(startMs + 10, node, {
        type: 'tracker-join',
        digest,
        sizeBytes: BLOB_BYTES,
        originHost: 'registry.example.com',
        chunks: new Uint8Array(),
        complete: false,
        leaseCredit: 1,
      })
      say(startMs + 600, node, { type: 'tracker-peers-wanted', digest, exclude: [] })
      const tell = (atMs: number): void => {
        const complete = atMs >= PULL_MS
        const chunks = complete ? new Uint8Array() : chunksAt(atMs / PULL_MS)
        say(startMs + atMs, node, { type: 'tracker-progress', digest, chunks, complete, leaseCredit: complete ? 0 : 1 })
      }
      for (let atMs = intervalMs; atMs < PULL_MS; atMs += intervalMs) tell(atMs)
      tell(PULL_MS)
    }
  }
  return said.sort((a, b) => a.atMs - b.atMs)
}

function packed(said: readonly Said[]): Traffic {
  const ends = new Uint32Array(said.length)
  let end = 0
  said.forEach(({ bytes }, at) => (ends[at] = end += bytes.byteLength))
  const bytes = new Uint8Array(end)
  said.forEach((each, at) => bytes.set(each.bytes, ends[at]! - each.bytes.byteLength))
  const atMs = Float64Array.from(said, (each) => each.atMs)
  return { atMs, nodes: Uint32Array.from(said, ({ node }) => node), ends, bytes }
}

/** The traffic of a rollout, laid out in a thread of its own, with all that that leaves behind. */
export async function layOut(nodes: number, blobs: readonly Digest[]): Promise<Traffic> {
  const thread = new Worker(new URL(import.meta.url), { workerData: { nodes, blobs } })
  const [traffic] = (await once(thread, 'message')) as [Traffic]
  await thread.terminate()
  return traffic
}

if (!isMainThread && parentPort !== null) {
  const { nodes, blobs } = workerData as { nodes: number; blobs: Digest[] }
  const traffic = packed(rolloutTraffic(nodes, blobs))
  const { atMs, nodes: numbers, ends, bytes } = traffic
  parentPort.postMessage(traffic, [atMs.buffer, numbers.buffer, ends.buffer, bytes.buffer] as ArrayBuffer[])
}
