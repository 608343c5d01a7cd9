// Connections to registries: one pool of them for each set of TLS settings, address policy and proxy.
import { createSecureContext, getCACertificates, type SecureContextOptions } from 'node:tls'
import type { LookupFunction } from 'node:net'
import type { Agent as AgentTypes, buildConnector, Dispatcher, Pool as PoolTypes } from 'undici'
import { guardedLookup, type AddressPolicy } from './addresses.ts'
import type { Limits, TlsSettings } from './options.ts'
import type { ProxyRules } from './proxies.ts'
import { Agent, Pool, ProxyAgent } from './undici-parts.ts'
import { UpstreamError } from './upstream.ts'

const KEEP_ALIVE_MS = 15_000

export interface ConnectionNeeds {
  registry: string
  url: URL
  tls: TlsSettings
  policy: AddressPolicy
  /** A proxy for this registry alone. */
  proxy: string | undefined
}

export class Connections {
  readonly #pools = new Map<string, Dispatcher>()
  readonly #tlsNumbers = new Map<string, number>()
  readonly #limits: Limits
  readonly #proxies: ProxyRules
  readonly #lookup: LookupFunction | undefined
  #closed = false

  constructor(limits: Limits, proxies: ProxyRules, lookup: LookupFunction | undefined) {
    this.#limits = limits
    this.#proxies = proxies
    this.#lookup = lookup
  }

  /**
   * The pool for a request. There are only so many: they follow from the configuration, not from what clients name.
   * @throws UpstreamError(UNREACHABLE) once it is closed
   */
  poolFor({ registry, url, tls, policy, proxy }: ConnectionNeeds): Dispatcher {
    if (this.#closed) {
      throw new UpstreamError('UNREACHABLE', registry, `${registry} is not asked any more: the client has been closed`)
    }
    const through = this.#proxyFor(url, proxy)
    const key = [this.#numberOf(tls), policy.allowPrivate, policy.allowLoopback, through ?? ''].join(' ')
    let pool = this.#pools.get(key)
    if (pool === undefined) {
      pool = this.#open(tls, policy, through)
      this.#pools.set(key, pool)
    }
    return pool
  }

  /** Host and port of the proxy of a request, without the login that its URL may hold; undefined: none. */
  proxyHost({ url, proxy }: Pick<ConnectionNeeds, 'url' | 'proxy'>): string | undefined {
    const through = this.#proxyFor(url, proxy)
    return through === undefined ? undefined : new URL(through).host
  }

  #proxyFor(url: URL, own: string | undefined): string | undefined {
    return own ?? this.#proxies.proxyFor(url)
  }

  /** Breaks what is under way, and opens nothing for what still waits for its turn. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#pools.values()].map(async (pool) => pool.destroy()))
    this.#pools.clear()
  }

  #open(tls: TlsSettings, policy: AddressPolicy, proxy: string | undefined): Dispatcher {
    const security = {
      rejectUnauthorized: !tls.insecureSkipVerify,
      ...(needsContext(tls) ? { secureContext: createSecureContext(contextOptions(tls)) } : {}),
    }
    const common: AgentTypes.Options = { keepAliveTimeout: KEEP_ALIVE_MS, keepAliveMaxTimeout: KEEP_ALIVE_MS }
    const timeout = this.#limits.connectTimeoutMs
    if (proxy === undefined) {
      const connect = { ...security, timeout, lookup: guardedLookup(policy, this.#lookup) }
      return new Agent({ ...common, connect: connect as buildConnector.BuildOptions })
    }
    return new ProxyAgent({
      ...common,
      uri: proxy,
      // What a proxy takes to answer CONNECT belongs to connecting, too; of its own, undici waits for five minutes.
      clientFactory: (origin, options) => endingPool(new Pool(origin, { ...options, headersTimeout: timeout })),
      requestTls: { ...security, timeout } as buildConnector.BuildOptions,
      proxyTls: { timeout } as buildConnector.BuildOptions,
      // Most proxies refuse CONNECT to anything but TLS ports.
      proxyTunnel: false,
    })
  }

  #numberOf(tls: TlsSettings): number {
    const key = JSON.stringify([tls.ca, tls.cert, tls.key, tls.insecureSkipVerify])
    const number = this.#tlsNumbers.get(key) ?? this.#tlsNumbers.size
    this.#tlsNumbers.set(key, number)
    return number
  }
}

/** Who asks a proxy for a tunnel is told when it hangs up. As it comes, undici takes that for a reason to ask again, for ever. */
function endingPool(pool: PoolTypes): PoolTypes {
  const connect: (options: Dispatcher.ConnectOptions) => Promise<Dispatcher.ConnectData> = pool.connect.bind(pool)
  return Object.assign(pool, {
    connect: async (options: Dispatcher.ConnectOptions) =>
      await connect(options).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'UND_ERR_SOCKET') throw error
        throw Object.assign(new Error('the proxy hung up', { cause: error }), { code: 'ECONNRESET' })
      }),
  })
}

function needsContext(tls: TlsSettings): boolean {
  return tls.ca !== undefined || tls.cert !== undefined
}

function contextOptions(tls: TlsSettings): SecureContextOptions {
  const options: SecureContextOptions = {}
  // An own list replaces the system's, but an operator means it to come on top.
  if (tls.ca !== undefined) options.ca = [...getCACertificates('default'), tls.ca]
  if (tls.cert !== undefined && tls.key !== undefined) {
    options.cert = tls.cert
    options.key = tls.key
  }
  return options
}
