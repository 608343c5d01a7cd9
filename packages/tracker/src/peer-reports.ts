// Who has reported whom as a liar lately.
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'

/** Peers that one node may report within that time: who reports more is not believed. */
const REPORTS_PER_NODE = 8
const MOST_NODES = 10_000

export class PeerReports {
  readonly #byReporter: LRUCache<string, Set<string>>
  readonly #byReported: LRUCache<string, Set<string>>

  /** @param ttlMs how long a report counts, in milliseconds */
  constructor(ttlMs: number) {
    this.#byReporter = new LRUCache({ ...entryLimit(MOST_NODES), ttl: ttlMs })
    this.#byReported = new LRUCache({ ...entryLimit(MOST_NODES), ttl: ttlMs })
  }

  /** Whether a node may report a peer: not when it has reported so many others. */
  mayReport(reporter: string, peerId: string): boolean {
    const reported = this.#byReporter.get(reporter) ?? new Set()
    this.#byReporter.set(reporter, reported)
    if (reported.size < REPORTS_PER_NODE) reported.add(peerId)
    return reported.has(peerId)
  }

  /** Returns how many nodes have reported the peer, this one included. */
  note(reporter: string, peerId: string): number {
    let reporters = this.#byReported.get(peerId)
    if (reporters === undefined) {
      reporters = new Set()
      this.#byReported.set(peerId, reporters)
    }
    reporters.add(reporter)
    return reporters.size
  }
}
