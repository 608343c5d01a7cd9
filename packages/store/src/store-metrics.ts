// What operators see of the store.
import { Counter, Gauge, type Registry } from 'prom-client'
import type { StoreUsage } from './store.ts'

export class StoreMetrics {
  readonly #registry: Registry | undefined
  readonly #evictions: Counter | undefined
  static readonly #names = ['shoal_store_bytes', 'shoal_store_blobs', 'shoal_store_evictions_total']

  constructor(registry: Registry | undefined, usage: () => StoreUsage) {
    this.#registry = registry
    if (registry === undefined) return
    const registers = [registry]
    new Gauge({
      name: 'shoal_store_bytes',
      help: 'Bytes of content that the store takes on the disk',
      registers,
      collect() {
        this.set(usage().storedBytes)
      },
    })
    new Gauge({
      name: 'shoal_store_blobs',
      help: 'Blobs in the store, by state',
      labelNames: ['state'],
      registers,
      collect() {
        const { blobs, partialBlobs } = usage()
        this.set({ state: 'complete' }, blobs)
        this.set({ state: 'partial' }, partialBlobs)
      },
    })
    this.#evictions = new Counter({
      name: 'shoal_store_evictions_total',
      help: 'Blobs that were removed to make room',
      registers,
    })
  }

  evicted(): void {
    this.#evictions?.inc()
  }

  close(): void {
    for (const name of StoreMetrics.#names) this.#registry?.removeSingleMetric(name)
  }
}
