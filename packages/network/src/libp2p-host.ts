// The libp2p node under the control plane, set up for a cluster on private addresses. Most of what is set here differs
// from the defaults because those are made for the open internet; each difference was found by running it.
import { identify } from '@libp2p/identify'
import type { Connection, Libp2p } from '@libp2p/interface'
import { kadDHT, passthroughMapper, type KadDHT } from '@libp2p/kad-dht'
import { ping, type Ping } from '@libp2p/ping'
import { yamux } from '@libp2p/yamux'
import type { Multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { isLoopback } from './addresses.ts'
import { DhtDatastore } from './dht-datastore.ts'
import type { Identity } from './identity.ts'
import { membershipEncrypter, type MembershipInit } from './membership.ts'
import { RedialPace } from './redial-pace.ts'
import { steadyTcp } from './steady-listener.ts'

const MIB = 1024 * 1024
export const DHT_PROTOCOL = '/shoal/kad/1.0.0'
/** How long others keep a provider record, as the libp2p specification of Kademlia has it. */
const PROVIDER_VALIDITY_MS = 48 * 3600_000
/**
 * How long a peer and its addresses are remembered after the last word of it. Longer than records: kad-dht answers with nothing at all
 * when it does not know a provider any more, and leaves out one whose addresses it has forgotten. By default libp2p forgets peers after
 * six hours, and addresses an hour after they were heard first, however often they are heard again.
 */
const PEER_MEMORY_MS = PROVIDER_VALIDITY_MS + 3600_000
/** With 8 instead of 20 an announcement costs a quarter, and a lookup one hop more in a big cluster. */
const BUCKET_SIZE = 8
/** TCP and the encrypted handshake on a cluster network; what takes longer is not there. */
const DIAL_TIMEOUT_MS = 5000
const ADDRESS_DIAL_TIMEOUT_MS = 3000
/** Two when both ends dial at once, some that are dead without this node knowing it yet; the rest is a flood. */
const CONNECTIONS_PER_PEER = 8

export type Host = Libp2p<{ dht: KadDHT; identify: unknown; ping: Ping }>

/** The part of the DHT that its own types leave out. */
interface RoutingTable {
  readonly size: number
  addEventListener: (event: 'peer:add', listener: () => void) => void
}

export function routingTableOf(host: Host): RoutingTable {
  return (host.services.dht as unknown as { routingTable: RoutingTable }).routingTable
}

export interface HostInit {
  identity: Identity
  membership: Omit<MembershipInit, 'peerId'>
  listen: Multiaddr
  /** What others are told instead of the addresses listened on. */
  announce: Multiaddr[]
  maxConnections: number
  isRefused: (peerId: string) => boolean
}

export interface CreatedHost {
  /** Not started yet. */
  host: Host
  /** @throws what the system said, such as EADDRINUSE with address and port, when it cannot listen */
  start: () => Promise<void>
  /** Holds libp2p's own dialling back; who has a pace of his own allows his. */
  redials: RedialPace
}

export async function createHost(init: HostInit): Promise<CreatedHost> {
  const datastore = new DhtDatastore()
  const isRefused = (peerId: { toString(): string }): boolean => init.isRefused(peerId.toString())
  const redials = new RedialPace()
  let refusal: unknown
  const host: Host = await createLibp2p({
    start: false,
    privateKey: init.identity.privateKey,
    datastore,
    peerStore: { maxPeerAge: PEER_MEMORY_MS, maxAddressAge: PEER_MEMORY_MS },
    addresses: {
      listen: [init.listen.toString()],
      announce: init.announce.map((address) => address.toString()),
      // Told to others, a loopback address leads them to themselves.
      announceFilter: (addresses) => {
        const outside = addresses.filter((address) => !isLoopback(address))
        return outside.length > 0 ? outside : addresses
      },
    },
    transports: [steadyTcp((error) => (refusal = error))],
    connectionEncrypters: [membershipEncrypter({ ...init.membership, peerId: init.identity.peerId })],
    streamMuxers: [
      yamux({
        // A remote that dials and opens several protocols at once gets there before our upgrade has ended.
        maxEarlyStreams: 128,
        streamOptions: {
          // A window above the read buffer breaks a stream that is paused.
          maxStreamWindowSize: 1 * MIB,
          maxReadBufferLength: 4 * MIB,
          maxWriteBufferLength: 16 * MIB,
        },
      }),
    ],
    connectionManager: {
      maxConnections: init.maxConnections,
      // A rack behind one address, or a whole test cluster on one machine, dials at once.
      inboundConnectionThreshold: 1000,
      maxIncomingPendingConnections: 500,
      dialTimeout: DIAL_TIMEOUT_MS,
      addressDialTimeout: ADDRESS_DIAL_TIMEOUT_MS,
    },
    // The monitor takes a busy connection for a dead one. Control channels notice the dead by themselves.
    connectionMonitor: { abortConnectionOnPingFailure: false, pingInterval: 60_000 },
    connectionGater: {
      // The default refuses to dial private addresses in some environments: a cluster has no others.
      denyDialMultiaddr: () => false,
      denyDialPeer: (peerId) => isRefused(peerId) || redials.mustWait(peerId.toString(), performance.now()),
      denyInboundEncryptedConnection: (peerId) =>
        isRefused(peerId) || host.getConnections(peerId).length >= CONNECTIONS_PER_PEER,
      denyOutboundEncryptedConnection: isRefused,
    },
    services: {
      identify: identify(),
      ping: ping(),
      dht: kadDHT({
        protocol: DHT_PROTOCOL,
        // By default a node without a public address takes no part, and private addresses are left out.
        clientMode: false,
        peerInfoMapper: passthroughMapper,
        kBucketSize: BUCKET_SIZE,
        alpha: 3,
        disjointPaths: 1,
        // By default every first query waits for a second.
        initialQuerySelfInterval: 50,
        // Own records are repeated by Providing, which knows which blobs are still there. This expires others'.
        reprovide: { validity: PROVIDER_VALIDITY_MS, threshold: 1, interval: 10 * 60_000, concurrency: 1 },
      }),
    },
  })
  keepPace(host, redials)
  // Its own error has no code, and advises a setting of libp2p that nobody can make here.
  const start = async (): Promise<void> => {
    try {
      await host.start()
    } catch (error) {
      throw refusal ?? error
    }
  }
  return { host, start, redials }
}

/** Tells `pace` of the connections that this host has dialled. */
function keepPace(host: Host, pace: RedialPace): void {
  // Not from the times that the connection gives: those are of a clock that can be set.
  const openedMs = new WeakMap<Connection, number>()
  host.addEventListener('connection:open', ({ detail: connection }) => {
    if (connection.direction === 'outbound') openedMs.set(connection, performance.now())
  })
  host.addEventListener('connection:close', ({ detail: connection }) => {
    const opened = openedMs.get(connection)
    if (opened === undefined || host.getConnections(connection.remotePeer).length > 0) return
    pace.closed(connection.remotePeer.toString(), opened, performance.now())
  })
}
