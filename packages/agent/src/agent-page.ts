// What an agent shows to a person with a browser.
import type { ControlPlane } from '@shoal/network'
import { showDuration, showSize } from '@shoal/oci'
import type { StatusPage } from '@shoal/registry'
import type { Store } from '@shoal/store'
import type { Swarm } from '@shoal/swarm'

export interface AgentPageParts {
  control: ControlPlane
  swarm: Swarm
  store: Store
  version: string
  zone: string
  uptimeMs: number
  isReady: () => boolean
}

export function agentPage({ control, swarm, store, version, zone, uptimeMs, isReady }: AgentPageParts): StatusPage {
  const { storedBytes, quotaBytes, blobs, partialBlobs } = store.usage()
  const quota = Number.isFinite(quotaBytes) ? ` of ${showSize(quotaBytes)}` : ', without a quota'
  const peers = `${control.channels().length} connected, ${control.routingTableSize()} in the routing table of the DHT`
  return {
    title: 'Shoal agent',
    facts: [
      ['State', isReady() ? 'ready' : 'not ready'],
      ['Version', version],
      ['Peer', control.peerId],
      ['Zone', zone],
      ['Up for', showDuration(uptimeMs)],
      ['Peers', peers],
      ['Store', `${showSize(storedBytes)}${quota}, ${blobs} blobs, ${partialBlobs} incomplete`],
    ],
    tables: [
      {
        title: 'Trackers',
        columns: ['Address', 'State', 'Peer'],
        rows: swarm.trackers
          .status()
          .map(({ address, connected, peerId = '' }) => [address, connected ? 'connected' : 'NOT CONNECTED', peerId]),
        otherwise: 'None: peers are found through the DHT alone.',
      },
      {
        title: 'Downloads',
        columns: ['Blob', 'Size', 'Done', 'From peers', 'From the origin', 'Neighbours', 'State'],
        rows: swarm.downloads().map((download) => {
          const { digest, sizeBytes, receivedBytes, fromPeersBytes, fromOriginBytes, neighbours, state } =
            download.progress()
          const share = { share: sizeBytes > 0 ? receivedBytes / sizeBytes : 1 }
          return [
            digest,
            showSize(sizeBytes),
            share,
            showSize(fromPeersBytes),
            showSize(fromOriginBytes),
            neighbours,
            state,
          ]
        }),
        otherwise: 'Nothing is arriving.',
      },
      {
        title: 'Refused peers',
        columns: ['Peer', 'Caught at'],
        rows: swarm.banned(),
        otherwise: 'Nobody was caught.',
      },
    ],
  }
}
