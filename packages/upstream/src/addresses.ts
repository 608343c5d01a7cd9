// Where a connection may go. A registry's name comes from clients and redirects come from registries, so each could
// point an agent at the cloud's metadata service or at its own node. Names are checked again at the moment of
// connecting, on the addresses that are really used, so that a name which changes its address gains nothing.
import { lookup as dnsLookup, type LookupAddress } from 'node:dns'
import { isIP, type LookupFunction } from 'node:net'
import ipaddr from 'ipaddr.js'

export type AddressKind = 'public' | 'private' | 'loopback' | 'forbidden'

/** What of the reachable world is open to a request. */
export interface AddressPolicy {
  allowPrivate: boolean
  allowLoopback: boolean
}

/** Services that hand out a machine's credentials or configuration, at addresses that are not link-local. */
const METADATA_ADDRESSES = new Set([
  '100.100.100.200', // Alibaba Cloud
  '168.63.129.16', // Azure
  '192.0.0.192', // Oracle Cloud, old
  'fd00:ec2::254', // AWS
  'fd00:ec2::23', // AWS, for pods
  'fd00:42::42', // Scaleway
  'fd20:ce::254', // Google Cloud
])
const METADATA_NAMES = new Set([
  'metadata',
  'metadata.google.internal',
  'metadata.goog',
  'metadata.azure.internal',
  'instance-data',
  'instance-data.ec2.internal',
])

/** A host is at an address that must not be reached; `host` has no secret. */
export class BlockedAddressError extends Error {
  override readonly name = 'BlockedAddressError'
  readonly code = 'ERR_SHOAL_BLOCKED_ADDRESS'
  readonly host: string

  constructor(host: string, reason: string) {
    super(`${host} ${reason}`)
    this.host = host
  }
}

/** What an IP address is; an IPv4 address inside an IPv6 one (mapped, NAT64, 6to4) counts as what it is. */
export function addressKind(address: string): AddressKind {
  if (!ipaddr.isValid(address)) return 'forbidden'
  const ip = ipaddr.process(address)
  if (METADATA_ADDRESSES.has(ip.toString())) return 'forbidden'
  if (ip instanceof ipaddr.IPv6) {
    const inner = embeddedIPv4(ip)
    if (inner !== undefined) return addressKind(inner)
  }
  switch (ip.range() as string) {
    case 'loopback':
      return 'loopback'
    case 'private':
    case 'uniqueLocal':
    case 'carrierGradeNat':
    case 'deprecatedSiteLocal':
    case 'reserved':
    case 'benchmarking':
      return 'private'
    case 'linkLocal':
    case 'unspecified':
    case 'broadcast':
    case 'multicast':
    case 'discard':
    case 'teredo':
      return 'forbidden'
    default:
      return 'public'
  }
}

function embeddedIPv4(ip: ipaddr.IPv6): string | undefined {
  const bytes = ip.toByteArray()
  const range = ip.range() as string
  if (range === 'rfc6052' || range === 'rfc6145') return bytes.slice(12).join('.')
  if (range === '6to4') return bytes.slice(2, 6).join('.')
  // ::a.b.c.d, deprecated, but still understood by some.
  if (bytes.slice(0, 12).every((byte) => byte === 0) && bytes[12] !== 0) return bytes.slice(12).join('.')
  return undefined
}

/** Whether a host is the node itself by its very name: `localhost`, `127.0.0.1`, `[::1]`. */
export function isLoopbackHost(host: string): boolean {
  const bare = bareHost(host)
  if (isIP(bare) !== 0) return addressKind(bare) === 'loopback'
  return bare === 'localhost' || bare.endsWith('.localhost')
}

/** @throws BlockedAddressError when the host, as it is written, must not be reached */
export function checkHost(host: string, policy: AddressPolicy): void {
  const bare = bareHost(host)
  if (isIP(bare) !== 0) {
    checkAddress(bare, bare, policy)
    return
  }
  if (METADATA_NAMES.has(bare)) throw new BlockedAddressError(bare, 'is a metadata service')
  if (!policy.allowLoopback && isLoopbackHost(bare)) throw new BlockedAddressError(bare, 'is this node itself')
}

function checkAddress(host: string, address: string, policy: AddressPolicy): void {
  const kind = addressKind(address)
  const at = host === address ? 'is' : `is at ${address},`
  if (kind === 'forbidden') {
    throw new BlockedAddressError(host, `${at} a link-local, metadata or otherwise special address`)
  }
  const advice = 'name the registry in the configuration if it is trusted'
  if (kind === 'loopback' && !policy.allowLoopback) {
    throw new BlockedAddressError(host, `${at} a loopback address; ${advice}`)
  }
  if (kind === 'private' && !policy.allowPrivate) {
    throw new BlockedAddressError(host, `${at} a private address; ${advice}`)
  }
}

function bareHost(host: string): string {
  // The URL parser turns every spelling of an IPv4 address (decimal, hex, octal) into the usual one.
  const url = URL.canParse(`http://${host}/`) ? new URL(`http://${host}/`).hostname : host.toLowerCase()
  return url.replace(/^\[|\]$/g, '').replace(/\.$/, '')
}

/** A host in the one spelling by which it is compared, with an IPv4 address inside an IPv6 one as what it is. */
export function plainHost(host: string): string {
  const bare = bareHost(host)
  if (isIP(bare) === 0) return bare
  const ip = ipaddr.process(bare)
  return (ip instanceof ipaddr.IPv6 ? embeddedIPv4(ip) : undefined) ?? ip.toString()
}

/** A lookup for sockets that gives only addresses which the policy allows. */
export function guardedLookup(policy: AddressPolicy, lookup: LookupFunction = dnsLookup): LookupFunction {
  return (hostname, options, callback) => {
    lookup(hostname, { ...options, all: true }, (error, found: string | LookupAddress[], family) => {
      const none = options.all === true ? [] : ''
      if (error !== null) {
        callback(error, none)
        return
      }
      const addresses = typeof found === 'string' ? [{ address: found, family: family ?? isIP(found) }] : found
      let blocked: unknown
      const allowed = addresses.filter(({ address }) => {
        try {
          checkAddress(hostname, address, policy)
          return true
        } catch (reason) {
          blocked = reason
          return false
        }
      })
      const first = allowed[0]
      if (first === undefined) {
        callback((blocked as Error | undefined) ?? new BlockedAddressError(hostname, 'has no address'), none)
      } else if (options.all === true) callback(null, allowed)
      else callback(null, first.address, first.family)
    })
  }
}
