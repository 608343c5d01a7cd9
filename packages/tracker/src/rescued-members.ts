// Which nodes the others do not serve, in whatever swarm: they refuse each other for as long as a ban lasts, and that is for all
// blobs. Without this memory such a node would wait for its first chunk of each blob anew.
import { entryLimit } from '@shoal/oci'
import { DEFAULT_TIMINGS } from '@shoal/swarm'
import { LRUCache } from 'lru-cache'

const MOST_NODES = 10_000

/** Nodes that had to be rescued lately. */
export class RescuedMembers {
  readonly #rescues = new LRUCache<string, number>({ ...entryLimit(MOST_NODES), ttl: DEFAULT_TIMINGS.banMs })

  /** A node has been rescued so many times in a row: no other gave it anything in between. */
  note(peerId: string, rescues: number): void {
    this.#rescues.set(peerId, rescues)
  }

  /** Its rescues in a row; 0 for a node that had none lately. */
  of(peerId: string): number {
    return this.#rescues.get(peerId) ?? 0
  }
}
