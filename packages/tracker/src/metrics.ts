// Counters of the tracker.
import { countByPeer } from '@shoal/network'
import { Counter, Gauge, type Registry } from 'prom-client'

export interface TrackerMetrics {
  messages: Counter<'type'>
  leases: Counter<'kind'>
  expired: Counter
  reports: Counter
  refused: Counter<'reason'>
  /** A node did what makes others wait, or worse: counted by its name. */
  fault: (peerId: string, reason: string) => void
}

/** Registers the tracker's metrics; the gauges read from what is passed in. */
export function createTrackerMetrics(
  registry: Registry,
  read: { swarms: () => number; nodes: () => number; members: () => number },
): TrackerMetrics {
  const registers = [registry]
  const gauge = (name: string, help: string, value: () => number) =>
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(value())
      },
    })
  gauge('shoal_tracker_swarms', 'Blobs that the tracker knows of.', read.swarms)
  gauge('shoal_tracker_nodes', 'Nodes with a control channel to the tracker.', read.nodes)
  gauge('shoal_tracker_members', 'Memberships of nodes in swarms.', read.members)
  return {
    messages: new Counter({
      name: 'shoal_tracker_messages_total',
      help: 'Messages of agents, by type.',
      labelNames: ['type'],
      registers,
    }),
    leases: new Counter({
      name: 'shoal_tracker_leases_total',
      help: 'Leases granted: regular at the origin, a second one for what is late, a rescue of a member that could not get a chunk, or into a zone.',
      labelNames: ['kind'],
      registers,
    }),
    expired: new Counter({
      name: 'shoal_tracker_leases_expired_total',
      help: 'Leases taken away because their holder made no progress.',
      registers,
    }),
    fault: countByPeer(
      registry,
      'shoal_tracker_peer_faults',
      'Leases that a node lost, what others found it at, and what it withheld, by node and reason; the last 100.',
    ),
    refused: new Counter({
      name: 'shoal_tracker_refused_total',
      help: 'Things that nodes told and that were not taken, by reason: too many blobs, a blob too large, too many reports.',
      labelNames: ['reason'],
      registers,
    }),
    reports: new Counter({
      name: 'shoal_tracker_peer_reports_total',
      help: 'Reports of peers that sent wrong bytes or wrong hashes.',
      registers,
    }),
  }
}
