// Counters and gauges of the control plane.
import { Counter, Gauge, type Registry } from 'prom-client'

/** Registers the gauges; they read from what is passed in. */
export function registerControlGauges(
  registry: Registry,
  read: Record<'peers' | 'routingTable' | 'provided' | 'untold' | 'channels', () => number>,
): void {
  const gauge = (name: string, help: string, value: () => number): void => {
    new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(value())
      },
    })
  }
  gauge('shoal_peers_connected', 'Agents connected on the control plane', read.peers)
  gauge('shoal_dht_routing_table_peers', "Peers in the DHT's routing table", read.routingTable)
  gauge('shoal_dht_provided_blobs', 'Blobs that the DHT is told of', read.provided)
  gauge('shoal_dht_provides_pending', 'Blobs that the DHT was not told of yet', read.untold)
  gauge('shoal_control_channels', 'Open control channels', read.channels)
}

export function membershipFailures(registry: Registry): Counter<'direction' | 'reason'> {
  const failures = new Counter({
    name: 'shoal_membership_failures_total',
    help: 'Connections on the control plane that failed before membership was proven',
    labelNames: ['direction', 'reason'],
    registers: [registry],
  })
  // An alert on an increase does not see a series that begins with 1.
  for (const direction of ['inbound', 'outbound']) {
    for (const reason of ['noise', 'proof', 'closed']) failures.inc({ direction, reason }, 0)
  }
  return failures
}

export function channelCounters(registry: Registry): {
  messages: Counter<'direction' | 'type'>
  bytes: Counter<'direction'>
  held: Counter
} {
  return {
    messages: new Counter({
      name: 'shoal_control_messages_total',
      help: 'Control messages',
      labelNames: ['direction', 'type'],
      registers: [registry],
    }),
    bytes: new Counter({
      name: 'shoal_control_bytes_total',
      help: 'Bytes of control messages',
      labelNames: ['direction'],
      registers: [registry],
    }),
    held: new Counter({
      name: 'shoal_control_held_total',
      help: 'Times that a peer was read more slowly because it sent too much',
      registers: [registry],
    }),
  }
}
