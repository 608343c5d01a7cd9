// `shoal status`: what the agent of this node says of itself.
import { AdminClient, type AdminOptions, type AgentStatus } from '../admin-client.ts'
import { EXIT_OK } from '../exit-codes.ts'
import { plainText, shortDigest, showDuration, showSize, showTable } from '../people.ts'
import type { Output } from '../program.ts'

function percent(part: number, whole: number): string {
  return whole > 0 ? `${Math.floor((part / whole) * 100)} %` : '–'
}

/** The status as a page of text. */
export function showStatus(status: AgentStatus): string {
  const { store } = status
  const quota = store.quotaBytes > 0 ? ` of ${showSize(store.quotaBytes)}` : ''
  const partial = store.partialBlobs > 0 ? `, ${store.partialBlobs} incomplete` : ''
  const facts = [
    ['Version', status.version],
    ['Peer', status.peerId],
    ['Zone', status.zone],
    ['Up for', showDuration(status.uptimeMs)],
    ['Peers', `${status.peersConnected} connected, ${status.routingTableSize} in the routing table`],
    ['Store', `${showSize(store.storedBytes)}${quota} in ${store.blobs} blobs${partial}`],
  ]
  const lines = facts.map(([name = '', value = '']) => `${`${name}:`.padEnd(10)}${plainText(value)}`)

  if (status.trackers.length === 0) lines.push('Trackers: none, peers are found through the DHT alone')
  else {
    const rows = status.trackers.map(({ address, connected, peerId }) =>
      [address, connected ? 'connected' : 'NOT CONNECTED', peerId ?? ''].map(plainText),
    )
    lines.push('', showTable(['TRACKER', 'STATE', 'PEER'], rows))
  }
  if (status.downloads.length > 0) {
    const rows = status.downloads.map((download) => [
      shortDigest(plainText(download.digest)),
      showSize(download.sizeBytes),
      percent(download.receivedBytes, download.sizeBytes),
      showSize(download.fromPeersBytes),
      showSize(download.fromOriginBytes),
      String(download.neighbours),
      plainText(download.state),
    ])
    lines.push('', showTable(['DOWNLOAD', 'SIZE', 'DONE', 'FROM PEERS', 'FROM ORIGIN', 'NEIGHBOURS', 'STATE'], rows))
  }
  return `${lines.join('\n')}\n`
}

export async function statusCommand(options: AdminOptions & { json?: boolean }, output: Output): Promise<number> {
  const status = await new AdminClient(options).status()
  output.out(options.json ? `${JSON.stringify(status, null, 2)}\n` : showStatus(status))
  return EXIT_OK
}
