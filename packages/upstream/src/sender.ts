// One HTTP request, with the redirects that follow from it. Every hop is checked: who may be asked, at what address,
// and what may be told there.
import { performance } from 'node:perf_hooks'
import { Readable } from 'node:stream'
import { BlockedAddressError, checkHost, isLoopbackHost, type AddressPolicy } from './addresses.ts'
import { CheckedBody, readStart } from './body.ts'
import type { Connections } from './connections.ts'
import { failureOf } from './failures.ts'
import type { Lane, Lanes } from './lanes.ts'
import type { UpstreamMetrics } from './metrics.ts'
import type { Limits, RegistrySettings, SettingsBook, TlsSettings } from './options.ts'
import type { RegistryRules } from './registry-rules.ts'
import { UpstreamError } from './upstream.ts'

const REDIRECTS = new Set([301, 302, 303, 307, 308])
/** Headers that only the registry itself gets to see. */
const PRIVATE_HEADERS = new Set(['authorization', 'x-request-id', 'cookie'])
const MAX_ERROR_BYTES = 16 * 1024
/** A body slower than this, in bytes a second, is not coming but held up: no link that pulls images is so slow. */
const LEAST_BYTES_PER_SECOND = 1024

export type Method = 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'

/** What is in memory, or a stream that is opened only when it is its turn, and destroyed by the sender. */
export type RequestBody = string | Uint8Array | (() => Readable | Promise<Readable>)

export interface HttpRequest {
  url: URL
  method: Method
  headers: Readonly<Record<string, string>>
  body?: RequestBody
  lane: Lane
  /** How long the headers of the answer may take after the last byte of the body moved. @default firstByteTimeoutMs */
  answerTimeoutMs?: number
  /** Whether the first URL is already another host than the registry's, as that of a token service. */
  foreign?: boolean
  signal: AbortSignal
}

export interface HttpAnswer {
  status: number
  /** Whether it came from another host than the one asked first. */
  foreign: boolean
  /** By lower-case name; several of one name are joined by commas. */
  readonly header: (name: string) => string | undefined
  /** Must be read or destroyed; holds a place in the registry's lane until then. */
  body: Readable
}

export interface SenderParts {
  settings: SettingsBook
  rules: RegistryRules
  allowPrivateAddresses: boolean
  connections: Connections
  lanes: Lanes
  limits: Limits
  userAgent: string
  metrics: UpstreamMetrics | undefined
}

export class Sender {
  readonly #parts: SenderParts

  constructor(parts: SenderParts) {
    this.#parts = parts
  }

  /** @throws UpstreamError(REFUSED_BY_POLICY) */
  checkRegistry(settings: RegistrySettings): void {
    const { registry, baseUrl, ownEndpoint } = settings
    // Which endpoint is asked instead of a registry is the operator's choice, and nothing that a client named.
    const refusal = this.#parts.rules.refusal(registry, ownEndpoint ? undefined : baseUrl)
    if (refusal !== undefined) {
      throw new UpstreamError('REFUSED_BY_POLICY', registry, `${registry} may not be asked: ${refusal}`)
    }
    this.#checkAddress(settings, baseUrl, this.#policy(settings, false))
  }

  /**
   * Sends a request and follows its redirects. Answers with any status.
   * @throws UpstreamError when there is no answer or none may be had; the signal's reason when it is aborted
   */
  async send(settings: RegistrySettings, request: HttpRequest): Promise<HttpAnswer> {
    const leave = await this.#parts.lanes.enter(settings.baseUrl.host, request.lane, request.signal)
    let left = false
    const leaveOnce = (): void => {
      if (!left) leave()
      left = true
    }
    try {
      return await this.#follow(settings, request, leaveOnce)
    } catch (error) {
      leaveOnce()
      throw error
    }
  }

  async #follow(settings: RegistrySettings, request: HttpRequest, leave: () => void): Promise<HttpAnswer> {
    const { registry } = settings
    const seen = new Set<string>()
    let url = request.url
    let headers = request.headers
    let foreign = request.foreign ?? false
    for (;;) {
      seen.add(url.href)
      let followed = false
      const answer = await this.#exchange(settings, { ...request, url, headers, foreign }, () => {
        if (!followed) leave()
      })
      const location = REDIRECTS.has(answer.status) ? answer.header('location') : undefined
      if (location === undefined || !['GET', 'HEAD'].includes(request.method)) return answer
      // The place is kept for where it leads: what is wanted comes from there.
      followed = true
      await readStart(answer.body, MAX_ERROR_BYTES)
      const next = URL.canParse(location, url.href) ? new URL(location, url.href) : undefined
      if (next === undefined || !['http:', 'https:'].includes(next.protocol)) {
        throw new UpstreamError('PROTOCOL', registry, `${url.host} redirects to something that is not an HTTP URL`)
      }
      next.hash = ''
      if (seen.has(next.href)) {
        throw new UpstreamError('PROTOCOL', registry, `${url.host} redirects in a circle, by way of ${next.host}`)
      }
      if (seen.size > this.#parts.limits.maxRedirects) {
        const message = `${registry} redirects more than ${this.#parts.limits.maxRedirects} times, last to ${next.host}`
        throw new UpstreamError('PROTOCOL', registry, message)
      }
      this.#checkRedirect(settings, url, next)
      if (next.origin !== url.origin) {
        // Once away from the registry, its secrets do not come back: not even if the next hop leads there again.
        foreign = true
        headers = Object.fromEntries(Object.entries(headers).filter(([name]) => !PRIVATE_HEADERS.has(name)))
      }
      url = next
    }
  }

  #checkRedirect(settings: RegistrySettings, from: URL, to: URL): void {
    const { registry } = settings
    if (from.protocol === 'https:' && to.protocol === 'http:' && !settings.allowHttpRedirects) {
      const advice = 'set allowHttpRedirects for this registry if that is meant to be'
      const message = `${from.host} redirects to plain HTTP at ${to.host}; ${advice}`
      throw new UpstreamError('REFUSED_BY_POLICY', registry, message)
    }
  }

  #checkForeign(registry: string, url: URL): void {
    const denial = this.#parts.rules.denial(url)
    if (denial !== undefined) {
      throw new UpstreamError('REFUSED_BY_POLICY', registry, `${registry} points to ${url.host}: ${denial}`)
    }
  }

  async #exchange(
    settings: RegistrySettings,
    request: HttpRequest & { foreign: boolean },
    leave: () => void,
  ): Promise<HttpAnswer> {
    const { url, foreign, signal, method } = request
    const { registry } = settings
    const { connections, limits, metrics, userAgent } = this.#parts
    const policy = this.#policy(settings, foreign)
    this.#checkAddress(settings, url, policy)
    if (foreign) this.#checkForeign(registry, url)
    const tls = this.#tlsFor(settings, url, foreign)
    const pool = connections.poolFor({ registry, url, tls, policy, proxy: settings.proxy })
    const proxy = connections.proxyHost({ url, proxy: settings.proxy })
    const began = performance.now()
    const seconds = (): number => (performance.now() - began) / 1000
    let sent: string | Uint8Array | Readable | null = null
    try {
      sent = typeof request.body === 'function' ? await request.body() : (request.body ?? null)
      // Aborted meanwhile, as in the body of a redirect: then nobody would be there for what becomes of the request.
      signal.throwIfAborted()
      const answer = await untilAborted(
        pool.request({
          origin: url.origin,
          path: url.pathname + url.search,
          method,
          headers: { 'user-agent': userAgent, 'accept-encoding': 'identity', ...request.headers },
          body: sent,
          signal,
          headersTimeout: request.answerTimeoutMs ?? limits.firstByteTimeoutMs,
          bodyTimeout: 0, // the body has its own, which is exact
        }),
        signal,
      )
      metrics?.request(registry, String(answer.statusCode), seconds())
      const header = (name: string): string | undefined => {
        const value = answer.headers[name]
        return Array.isArray(value) ? value.join(', ') : value
      }
      const body = new CheckedBody(answer.body, {
        lengthBytes: method === 'HEAD' ? undefined : contentLength(header('content-length')),
        failure: (error) => (signal.aborted ? abortReason(signal) : failureOf(error, registry, url.host, proxy)),
        wrongLength: (received) => {
          const message = `${url.host} announced ${header('content-length')} bytes and sent ${received}`
          return new UpstreamError('PROTOCOL', registry, message)
        },
        stall: {
          timeoutMs: limits.stallTimeoutMs,
          leastBytes: (limits.stallTimeoutMs / 1000) * LEAST_BYTES_PER_SECOND,
          error: () => {
            const message = `${url.host} sent nothing, or next to nothing, in the middle of an answer`
            return new UpstreamError('TIMEOUT', registry, message)
          },
        },
        onClose: (received) => {
          metrics?.bytes(registry, received)
          leave()
        },
      })
      // An answer may come before all has been sent, and ends the sending.
      if (sent instanceof Readable) body.once('close', () => (sent as Readable).destroy())
      return { status: answer.statusCode, foreign, header, body }
    } catch (error) {
      if (sent instanceof Readable) sent.destroy()
      if (signal.aborted) throw abortReason(signal)
      const failure = failureOf(error, registry, url.host, proxy)
      metrics?.request(registry, failure.code, seconds())
      throw failure
    }
  }

  #policy(settings: RegistrySettings, foreign: boolean): AddressPolicy {
    const { allowPrivateAddresses } = this.#parts
    const trusted = settings.configured || allowPrivateAddresses
    if (!foreign) return { allowPrivate: trusted, allowLoopback: trusted }
    // Only a registry on this node may point to this node.
    return {
      allowPrivate: allowPrivateAddresses || settings.configured,
      allowLoopback: trusted && isLoopbackHost(settings.baseUrl.hostname),
    }
  }

  #checkAddress(settings: RegistrySettings, url: URL, policy: AddressPolicy): void {
    try {
      checkHost(url.hostname, policy)
    } catch (error) {
      if (error instanceof BlockedAddressError) throw failureOf(error, settings.registry, url.host)
      throw error
    }
  }

  /** Another host gets the registry's authorities, but neither its client certificate nor its trust without check. */
  #tlsFor(settings: RegistrySettings, url: URL, foreign: boolean): TlsSettings {
    if (!foreign || url.host === settings.baseUrl.host) return settings.tls
    const own = this.#parts.settings.configuredFor(url.host)?.tls
    const { ca, insecureSkipVerify } = own ?? { ca: settings.tls.ca, insecureSkipVerify: false }
    // Whoever a client may name could point to where this node's certificate opens what is not for that client.
    const shown = settings.configured && settings.ownCertificates ? own : undefined
    return { ca, cert: shown?.cert, key: shown?.key, insecureSkipVerify }
  }
}

/** The length that a header announces; undefined when there is none. */
export function contentLength(header: string | undefined): number | undefined {
  if (header === undefined || !/^[0-9]{1,16}$/.test(header)) return undefined
  const length = Number(header)
  return Number.isSafeInteger(length) ? length : undefined
}

function abortReason(signal: AbortSignal): Error {
  return signal.reason instanceof Error ? signal.reason : new Error('aborted', { cause: signal.reason })
}

/** undici tells of an abort only after it has a connection; who waits is not kept that long. */
async function untilAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const aborted = Promise.withResolvers<never>()
  const abort = (): void => aborted.reject(abortReason(signal))
  signal.addEventListener('abort', abort, { once: true })
  try {
    return await Promise.race([work, aborted.promise])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}
