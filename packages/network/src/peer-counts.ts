// Counts that name peers. Each name is a time series, so only the last few are kept.
import { LRUCache } from 'lru-cache'
import { Gauge, type Registry } from 'prom-client'

/** Pairs of peer and reason that one metric names. */
const MAX_NAMED = 100

/**
 * Registers a metric that says how often each peer did something, by peer and reason: the last 100 of them.
 * @returns what to call each time
 */
export function countByPeer(registry: Registry, name: string, help: string): (peer: string, reason: string) => void {
  const gauge = new Gauge({ name, help, labelNames: ['peer', 'reason'], registers: [registry] })
  const named = new LRUCache<string, { peer: string; reason: string }>({
    max: MAX_NAMED,
    dispose: (labels) => gauge.remove(labels),
  })
  return (peer, reason) => {
    const key = `${reason} ${peer}`
    if (named.get(key) === undefined) named.set(key, { peer, reason })
    gauge.inc({ peer, reason })
  }
}
