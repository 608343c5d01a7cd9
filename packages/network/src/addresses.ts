// Addresses as people and peers write them, and the multiaddrs that libp2p dials.
import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import { networkInterfaces } from 'node:os'
import { multiaddr, type Multiaddr } from '@multiformats/multiaddr'
import { messageOf, NetworkError } from './errors.ts'
import type { NodeAddress } from './messages.ts'

/** Addresses of one node that are told to others: enough for every interface that leads anywhere. */
export const MAX_TOLD_ADDRESSES = 16

/** Where a control plane listens. */
export interface ControlEndpoint {
  /** IP address or name. */
  host: string
  port: number
  /** Who must answer there; empty when anybody of the cluster may. */
  peerId: string
}

/** More addresses than a node has interfaces are a mistake or an attack. */
const MAX_DIALLED_ADDRESSES = 8

/**
 * Reads `host:port`, `[ipv6]:port`, or a multiaddr `/ip4|ip6|dns|dns4|dns6/…/tcp/…` with or without `/p2p/<peer id>`.
 *
 * @throws NetworkError with the code BAD_ADDRESS
 */
export function parseEndpoint(text: string): ControlEndpoint {
  const bad = (why: string): NetworkError =>
    new NetworkError(
      'BAD_ADDRESS',
      `"${text}" is no address of a node (${why}): expected host:port, or a multiaddr like /dns4/tracker/tcp/7710`,
    )
  if (text.startsWith('/')) {
    try {
      const parts = new Map(
        multiaddr(text)
          .getComponents()
          .map(({ name, value }) => [name, value ?? '']),
      )
      const host = ['ip4', 'ip6', 'dns', 'dns4', 'dns6']
        .map((name) => parts.get(name))
        .find((value) => value !== undefined)
      const port = Number(parts.get('tcp'))
      if (host === undefined || !isPort(port)) throw bad('it needs an address or a name, and /tcp/<port>')
      return { host, port, peerId: parts.get('p2p') ?? '' }
    } catch (error) {
      throw error instanceof NetworkError ? error : bad(messageOf(error))
    }
  }
  const match = /^(?:\[([^\]]+)\]|([^:/\s]+)):(\d{1,5})$/.exec(text)
  const host = match?.[1] ?? match?.[2]
  const port = Number(match?.[3])
  if (host === undefined || !isPort(port)) throw bad('no host and port')
  if (match?.[1] !== undefined && isIP(host) !== 6) throw bad('not an IPv6 address in the brackets')
  return { host, port, peerId: '' }
}

function isPort(port: number): boolean {
  return Number.isInteger(port) && port > 0 && port <= 65535
}

/** The multiaddr of an IP address or a name. */
export function endpointMultiaddr(host: string, port: number, peerId = ''): Multiaddr {
  const family = isIP(host)
  const kind = family === 4 ? 'ip4' : family === 6 ? 'ip6' : 'dns'
  return multiaddr(`/${kind}/${host}/tcp/${port}${peerId === '' ? '' : `/p2p/${peerId}`}`)
}

/**
 * The addresses behind an endpoint. Names are looked up anew each time, because what is behind them moves.
 *
 * @throws NetworkError with the code UNREACHABLE when the name cannot be resolved
 */
export async function resolveEndpoint(endpoint: ControlEndpoint, signal: AbortSignal): Promise<Multiaddr[]> {
  const { host, port, peerId } = endpoint
  if (isIP(host) !== 0) return [endpointMultiaddr(host, port, peerId)]
  signal.throwIfAborted()
  try {
    const found = await lookup(host, { all: true })
    return [...new Set(found.map(({ address }) => address))].map((address) => endpointMultiaddr(address, port, peerId))
  } catch (error) {
    throw new NetworkError('UNREACHABLE', `Cannot resolve ${host}: ${messageOf(error)}`, { cause: error })
  }
}

/** The addresses of a peer that libp2p can dial, each with the peer id that must answer; what makes no sense is left out. */
export function dialable(peer: NodeAddress): Multiaddr[] {
  const found: Multiaddr[] = []
  for (const text of peer.multiaddrs) {
    if (found.length === MAX_DIALLED_ADDRESSES) break
    try {
      const endpoint = parseEndpoint(text)
      if (endpoint.peerId !== '' && endpoint.peerId !== peer.peerId) continue
      found.push(endpointMultiaddr(endpoint.host, endpoint.port, peer.peerId))
    } catch {
      // A peer may speak of transports that this node does not have.
    }
  }
  return found
}

const WILDCARDS = new Set(['', '0.0.0.0', '::'])

export function isWildcard(host: string): boolean {
  return WILDCARDS.has(host)
}

let interfaces: ReturnType<typeof networkInterfaces> = {}

/** As the system listed them last: without a free file descriptor it cannot. */
function knownInterfaces(): typeof interfaces {
  try {
    interfaces = networkInterfaces()
  } catch {
    // They are asked for again the next time.
  }
  return interfaces
}

/** What other nodes should call this one: the address it listens on, or the first one that is not a loopback. */
export function advertisedHost(listenHost: string): string {
  if (!isWildcard(listenHost)) return listenHost
  const all = Object.values(knownInterfaces()).flatMap((addresses) => addresses ?? [])
  const outside = all.filter(({ internal, address }) => !internal && !address.startsWith('fe80:'))
  return (outside.find(({ family }) => family === 'IPv4') ?? outside[0])?.address ?? '127.0.0.1'
}

/** `host:port`, with brackets where IPv6 needs them. */
export function hostPort(host: string, port: number): string {
  return isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`
}

export function isLoopback(address: Multiaddr): boolean {
  return /^\/(ip4\/127\.|ip6\/::1\/)/.test(address.toString())
}
