// Asking the DHT who has a blob.
import type { Digest } from '@shoal/oci'
import type { Logger } from 'pino'
import { MAX_TOLD_ADDRESSES } from './addresses.ts'
import { contentIdOf } from './content-id.ts'
import { messageOf } from './errors.ts'
import { routingTableOf, type Host } from './libp2p-host.ts'
import type { NodeAddress } from './messages.ts'

/** Providers that one peer's answer may name: more than a blob needs, too few to keep a node busy with dead addresses. */
const MAX_PROVIDERS_PER_ANSWER = 20

interface FindProvidersOptions {
  /** Peers that are not to be named. */
  isRefused: (peerId: string) => boolean
  logger: Logger
}

/** Each provider once, as they are found, without the node itself. Ends when the DHT knows no more, or when `signal` fires. */
export async function* findProviders(
  host: Host,
  digest: Digest,
  { isRefused, logger }: FindProvidersOptions,
  signal: AbortSignal,
): AsyncIterable<NodeAddress> {
  const id = contentIdOf(digest)
  // Without anybody to ask, libp2p would wait for somebody until the signal fires.
  if (id === undefined || routingTableOf(host).size === 0) return
  const seen = new Set<string>([host.peerId.toString()])
  try {
    for await (const event of host.services.dht.findProviders(id, { signal })) {
      if (event.name !== 'PROVIDER') continue
      for (const provider of event.providers.slice(0, MAX_PROVIDERS_PER_ANSWER)) {
        const peerId = provider.id.toString()
        if (seen.has(peerId) || isRefused(peerId)) continue
        seen.add(peerId)
        const multiaddrs = [...new Set(provider.multiaddrs.map((address) => address.toString()))]
        yield { peerId, multiaddrs: multiaddrs.slice(0, MAX_TOLD_ADDRESSES), transfer: '', zone: '' }
      }
    }
  } catch (error) {
    // Whoever fires the signal knows; that a query failed half way is nothing a caller could act upon.
    if (!signal.aborted) logger.debug({ digest, reason: messageOf(error) }, 'the DHT query ended early')
  }
}
