// What a tracker shows to a person with a browser.
import type { ControlPlane } from '@shoal/network'
import { showSize } from '@shoal/oci'
import { MAX_STATUS_ROWS, type StatusPage } from '@shoal/registry'
import type { Coordinator } from './coordinator.ts'
import type { Preheats } from './preheats.ts'
import type { TrackedSwarm } from './tracked-swarm.ts'

export interface TrackerPageParts {
  coordinator: Coordinator
  control: ControlPlane
  preheats: Preheats
  version: string
  isReady: () => boolean
}

export function trackerPage({ coordinator, control, preheats, version, isReady }: TrackerPageParts): StatusPage {
  const nodes = control.channels()
  const swarms = firstWanted(coordinator.swarms)
  return {
    title: 'Shoal tracker',
    facts: [
      ['State', isReady() ? 'ready' : 'not ready'],
      ['Version', version],
      ['Peer', control.peerId],
      ['Nodes', String(nodes.length)],
      ['Blobs', String(coordinator.swarms.size)],
      ['Tags', String(coordinator.tags.size)],
      ['Leases at once', `${coordinator.originConcurrency} for each origin host`],
    ],
    tables: [
      {
        title: 'Preheats',
        columns: ['Image', 'Action', 'Nodes', 'State'],
        rows: preheats.list().map(({ image, action, nodes, state }) => [image, action, nodes.size, state]),
        otherwise: 'None.',
      },
      {
        title: `Blobs, first those that most nodes wait for (${swarms.length} of ${coordinator.swarms.size})`,
        columns: ['Blob', 'Size', 'Origin', 'Nodes', 'Whole at', 'Left the origin', 'Leases'],
        rows: swarms.map((swarm) => [
          swarm.digest,
          showSize(swarm.sizeBytes),
          swarm.originHost,
          swarm.members.size,
          swarm.completeMembers,
          { share: swarm.chunkCount > 0 ? swarm.coveredChunks / swarm.chunkCount : 1 },
          swarm.leases.size,
        ]),
        otherwise: 'No node has told of one.',
      },
      {
        title: `Nodes (${Math.min(nodes.length, MAX_STATUS_ROWS)} of ${nodes.length})`,
        columns: ['Peer', 'Address', 'Zone', 'Version'],
        rows: nodes
          .slice(0, MAX_STATUS_ROWS)
          .map(({ peerId, hello }) => [peerId, hello.node.transfer, hello.node.zone, hello.agent]),
        otherwise: 'None is connected.',
      },
    ],
  }
}

/** What is being rolled out before what lies everywhere: there may be a million blobs, and somebody looks for a few. */
function firstWanted(swarms: Iterable<TrackedSwarm>): TrackedSwarm[] {
  const missing = ({ members, completeMembers }: TrackedSwarm) => members.size - completeMembers
  const wanted: TrackedSwarm[] = []
  const others: TrackedSwarm[] = []
  for (const swarm of swarms) {
    if (missing(swarm) > 0) wanted.push(swarm)
    else if (others.length < MAX_STATUS_ROWS) others.push(swarm)
  }
  wanted.sort((a, b) => missing(b) - missing(a))
  return [...wanted, ...others].slice(0, MAX_STATUS_ROWS)
}
