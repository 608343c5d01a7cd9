// Which nodes do not use the leases that they get, by origin: not by blob, because a node may tell of blobs that do not exist, and
// not over all origins, because one of them may be out of reach for an honest node.
import { entryLimit } from '@shoal/oci'
import { DEFAULT_TIMINGS } from '@shoal/swarm'
import { LRUCache } from 'lru-cache'

const MOST_NODES = 10_000
/** A node that lets so many leases in a row lapse gets one only where nobody else would take it. */
const LAPSES_UNTIL_UNRELIABLE = 3

/** Leases in a row that nodes let lapse, or gave back. */
export class LapsedMembers {
  readonly #lapses = new LRUCache<string, number>({ ...entryLimit(MOST_NODES), ttl: DEFAULT_TIMINGS.banMs })

  lapsed(host: string, peerId: string): void {
    const key = keyOf(host, peerId)
    this.#lapses.set(key, (this.#lapses.get(key) ?? 0) + 1)
  }

  /** A node has brought what a lease was for. */
  brought(host: string, peerId: string): void {
    this.#lapses.delete(keyOf(host, peerId))
  }

  /** Whether a node is among those who get leases of an origin first. */
  isReliable(host: string, peerId: string): boolean {
    return (this.#lapses.get(keyOf(host, peerId)) ?? 0) < LAPSES_UNTIL_UNRELIABLE
  }
}

function keyOf(host: string, peerId: string): string {
  return `${peerId} ${host}`
}
