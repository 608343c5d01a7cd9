// What an operator sees of replication.
import { Counter, Gauge, type Registry } from 'prom-client'

export interface ReplicationMetrics {
  total: Counter<'target' | 'outcome'>
  bytes: Counter<'target'>
  pending: Gauge<'target'>
}

/** @param oldest - for each target, since when the oldest image has been waiting, in ms since the epoch */
export function createReplicationMetrics(
  registry: Registry,
  oldest: () => Iterable<[target: string, sinceMs: number | undefined]>,
): ReplicationMetrics {
  const registers = [registry]
  new Gauge({
    name: 'shoal_registry_replication_oldest_seconds',
    help: 'How long the oldest pushed image has been waiting for its copy to be made; 0 when none waits.',
    labelNames: ['target'],
    registers,
    collect() {
      for (const [target, sinceMs] of oldest()) {
        this.set({ target }, sinceMs === undefined ? 0 : Math.max(0, Date.now() - sinceMs) / 1_000)
      }
    },
  })
  return {
    total: new Counter({
      name: 'shoal_registry_replication_total',
      help: 'Pushed images by what became of them: sent, gone (deleted before), dropped; and tries that failed.',
      labelNames: ['target', 'outcome'],
      registers,
    }),
    bytes: new Counter({
      name: 'shoal_registry_replication_bytes_total',
      help: 'Bytes of blobs sent to a target.',
      labelNames: ['target'],
      registers,
    }),
    pending: new Gauge({
      name: 'shoal_registry_replication_pending',
      help: 'Pushed images that wait for their copy to be made.',
      labelNames: ['target'],
      registers,
    }),
  }
}
