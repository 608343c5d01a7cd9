// What an operator can say about origin registries, and the settings that follow for each of them.
import { readFileSync } from 'node:fs'
import type { LookupFunction } from 'node:net'
import { DEFAULT_REGISTRY, isRepositoryName, loadMistakes, parseRegistry, type ConfigMistake } from '@shoal/oci'
import type { Logger } from 'pino'
import type { Registry as MetricsRegistry } from 'prom-client'
import { isLoopbackHost } from './addresses.ts'

/** How one registry is reached. Files are PEM and are read when the client is created, `passwordFile` at each use. */
export interface RegistryOptions {
  /**
   * Where the registry is really reached: a mirror, a pull-through cache, another port. A path goes before `/v2/`.
   * Credentials of the docker config are then looked up for this host instead of the registry's name.
   * @default `https://<registry>`; `https://registry-1.docker.io` for docker.io
   */
  endpoint?: string
  /** Put before every repository, for caches such as `harbor.example.com/hub-proxy/library/ubuntu`. @default none */
  repositoryPrefix?: string
  /**
   * Talk without TLS.
   * @default false; true for loopback hosts that have none of the TLS options below
   */
  plainHttp?: boolean
  /** Do not check the registry's certificate. Hosts it redirects to are checked all the same. @default false */
  insecureSkipVerify?: boolean
  /** Authorities that may sign the registry's certificate, beside the system's. @default none */
  ca?: string
  caFile?: string
  /** Client certificate and its key; shown to the registry only, not to hosts it redirects to. @default none */
  cert?: string
  certFile?: string
  key?: string
  keyFile?: string
  /** @default none: credentials come from the docker config, if there is one */
  username?: string
  password?: string
  /** First line is the password. */
  passwordFile?: string
  /** Refresh token of an OAuth2 token service, instead of a password. @default none */
  identityToken?: string
  /** HTTP proxy towards this registry; may hold credentials. @default {@link UpstreamOptions.proxy} */
  proxy?: string
  /** Follow redirects from HTTPS to plain HTTP. @default false */
  allowHttpRedirects?: boolean
}

/** Proxies as the environment variables of the same names have them. */
export interface ProxyOptions {
  httpProxy?: string
  httpsProxy?: string
  /** Hosts, domains, addresses and CIDR blocks that are reached without a proxy, separated by commas. */
  noProxy?: string
}

export interface UpstreamOptions {
  /** Settings of single registries, by host and optional port. @default {} */
  registries?: Readonly<Record<string, RegistryOptions>>
  /** docker's `config.json` with logins and credential helpers. @default none */
  dockerConfigFile?: string
  /**
   * Registries that may be asked: `*`, `host`, `host:port`, `host:*`, `*.domain`. A rule without a port means the
   * name without a port.
   * @default ['*']
   */
  allowRegistries?: readonly string[]
  /**
   * Registries and redirect targets that may not be asked, whatever is allowed and however they are written. A rule
   * without a port means all ports. A registry's own `endpoint` is not meant: no client names it.
   * @default []
   */
  denyRegistries?: readonly string[]
  /**
   * Whether a registry that is not in `registries`, or a host it redirects to, may be at a private or loopback
   * address. Link-local and cloud metadata addresses never may.
   * @default true
   */
  allowPrivateAddresses?: boolean
  /** Requests under way at one registry, for content and for metadata each. @default 8 */
  concurrency?: number
  /** Limit for connecting, TLS included, kept to the second. @default 5000 */
  connectTimeoutMs?: number
  /** Limit from the request to the headers of the answer, kept to the second. @default 15000 */
  firstByteTimeoutMs?: number
  /** A body that gives less than 1 KiB a second for this long has stalled. There is no limit on the whole. @default 15000 */
  stallTimeoutMs?: number
  /** Limit for the answer to an upload after its last byte moved: many move the blob into place first. @default 120000 */
  uploadAnswerTimeoutMs?: number
  /** Tries after the first, for what is safe to try again. @default 3 */
  retries?: number
  /** The wait before a retry is random between 0 and this, doubled each time. @default 200 */
  retryBaseDelayMs?: number
  /** @default 5000 */
  retryMaxDelayMs?: number
  /** A `Retry-After` up to this long is waited out; a longer one fails with RATE_LIMITED at once. @default 10000 */
  maxRetryAfterMs?: number
  /** Redirects followed for one request. @default 5 */
  maxRedirects?: number
  /** Limit for a credential helper to answer. @default 10000 */
  credentialHelperTimeoutMs?: number
  /** How long the answer of a credential helper is used. @default 300000 */
  credentialCacheMs?: number
  /** @default HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the environment; false: none */
  proxy?: ProxyOptions | false
  /** @default 'shoal/0.1' */
  userAgent?: string
  /** @default none */
  logger?: Logger
  /** Where the metrics are registered. @default none */
  metrics?: MetricsRegistry
  /** Resolves host names. @default dns.lookup */
  lookup?: LookupFunction
  /** Source of the jitter: numbers from 0 up to 1. @default Math.random */
  random?: () => number
}

/** Times and bounds with defaults filled in. */
export interface Limits {
  concurrency: number
  connectTimeoutMs: number
  firstByteTimeoutMs: number
  stallTimeoutMs: number
  uploadAnswerTimeoutMs: number
  retries: number
  retryBaseDelayMs: number
  retryMaxDelayMs: number
  maxRetryAfterMs: number
  maxRedirects: number
}

export interface TlsSettings {
  ca: string | undefined
  cert: string | undefined
  key: string | undefined
  insecureSkipVerify: boolean
}

/** What holds for one registry. */
export interface RegistrySettings {
  registry: string
  /** Whether the operator named this registry in the configuration. */
  configured: boolean
  /** Whether client certificates may be shown: they are the node's, and not for what is asked in another's name. */
  ownCertificates: boolean
  /** Ends without a slash; `/v2/…` follows. */
  baseUrl: URL
  /** Whether the operator said where the registry is reached, so that its name does not tell. */
  ownEndpoint: boolean
  repositoryPrefix: string
  tls: TlsSettings
  proxy: string | undefined
  allowHttpRedirects: boolean
  username: string | undefined
  password: string | undefined
  passwordFile: string | undefined
  identityToken: string | undefined
  /** Host under which the docker config is searched. */
  credentialHost: string
}

const NO_TLS_SETTINGS: TlsSettings = { ca: undefined, cert: undefined, key: undefined, insecureSkipVerify: false }
const DOCKER_HUB_ENDPOINT = 'https://registry-1.docker.io'

/** An option makes no sense; the message names it. */
export class InvalidUpstreamOptionError extends Error {
  override readonly name = 'InvalidUpstreamOptionError'
}

/** An option of one registry makes no sense, or a file that it names cannot be read. */
export class InvalidRegistryOptionError extends InvalidUpstreamOptionError {
  /** Undefined where it is the registry's options together. */
  readonly option: string | undefined
  /** What is wrong, without the name of the option. */
  readonly why: string

  constructor(registry: string, option: string | undefined, why: string, options?: ErrorOptions) {
    super(`registries.${registry}${option === undefined ? '' : `.${option}`} ${why}`, options)
    this.option = option
    this.why = why
  }
}

export function resolveLimits(options: UpstreamOptions): Limits {
  const limits: Limits = {
    concurrency: options.concurrency ?? 8,
    connectTimeoutMs: options.connectTimeoutMs ?? 5000,
    firstByteTimeoutMs: options.firstByteTimeoutMs ?? 15_000,
    stallTimeoutMs: options.stallTimeoutMs ?? 15_000,
    uploadAnswerTimeoutMs: options.uploadAnswerTimeoutMs ?? 120_000,
    retries: options.retries ?? 3,
    retryBaseDelayMs: options.retryBaseDelayMs ?? 200,
    retryMaxDelayMs: options.retryMaxDelayMs ?? 5000,
    maxRetryAfterMs: options.maxRetryAfterMs ?? 10_000,
    maxRedirects: options.maxRedirects ?? 5,
  }
  for (const [name, value] of Object.entries(limits)) {
    const least = /^(retries|maxRe|retry)/.test(name) ? 0 : 1
    if (!Number.isSafeInteger(value) || value < least) {
      throw new InvalidUpstreamOptionError(`${name} must be a whole number, ${least} or more`)
    }
  }
  return limits
}

/** Settings by registry: those configured, and the defaults for all others. */
export class SettingsBook {
  readonly #configured = new Map<string, RegistrySettings>()

  /** @throws InvalidUpstreamOptionError also when a file cannot be read */
  constructor(registries: Readonly<Record<string, RegistryOptions>>) {
    for (const [name, options] of Object.entries(registries)) {
      const settings = resolveNamed(name, options)
      this.#configured.set(settings.registry, settings)
    }
  }

  /** @param registry in normal form */
  of(registry: string): RegistrySettings {
    return this.#configured.get(registry) ?? resolveRegistry(registry, undefined)
  }

  /** The settings of a host that a registry pointed to, if the operator gave some. */
  configuredFor(host: string): RegistrySettings | undefined {
    return this.#configured.get(host)
  }
}

/** What keeps each of these registries from being asked, files that cannot be read included. */
export async function registryOptionMistakes(
  registries: Readonly<Record<string, RegistryOptions>>,
): Promise<ConfigMistake[]> {
  const given = Object.entries(registries)
  const loads = given.map(
    ([name, options]) =>
      () =>
        resolveNamed(name, options),
  )
  return await loadMistakes(InvalidRegistryOptionError, loads, ({ option, why }, index) => ({
    key: 'registries',
    below: [given[index]?.[0] ?? '', ...(option === undefined ? [] : [option])],
    message: why,
  }))
}

function resolveNamed(name: string, options: RegistryOptions): RegistrySettings {
  return resolveRegistry(hostNamed(name), options)
}

function hostNamed(name: string): string {
  try {
    return parseRegistry(name)
  } catch (cause) {
    throw new InvalidRegistryOptionError(name, undefined, 'must have the name of a registry host', { cause })
  }
}

function resolveRegistry(registry: string, given: RegistryOptions | undefined): RegistrySettings {
  const options = given ?? {}
  const tls = given === undefined ? NO_TLS_SETTINGS : resolveTls(registry, options)
  const baseUrl = resolveBaseUrl(registry, options, tls)
  const prefix = (options.repositoryPrefix ?? '').replace(/^\/+|\/+$/g, '')
  if (prefix !== '' && !isRepositoryName(prefix)) {
    throw new InvalidRegistryOptionError(registry, 'repositoryPrefix', 'is not a repository name')
  }
  if (options.username === undefined && (options.password ?? options.passwordFile) !== undefined) {
    throw new InvalidRegistryOptionError(registry, undefined, 'has a password but no username')
  }
  if (options.proxy !== undefined) parseHttpUrl(options.proxy, registry, 'proxy')
  return {
    registry,
    configured: given !== undefined,
    ownCertificates: true,
    baseUrl,
    ownEndpoint: options.endpoint !== undefined,
    repositoryPrefix: prefix === '' ? '' : `${prefix}/`,
    tls,
    proxy: options.proxy,
    allowHttpRedirects: options.allowHttpRedirects ?? false,
    username: options.username,
    password: options.password,
    passwordFile: options.passwordFile,
    identityToken: options.identityToken,
    credentialHost: options.endpoint === undefined ? registry : normalHost(baseUrl.host),
  }
}

function resolveTls(registry: string, options: RegistryOptions): TlsSettings {
  const tls: TlsSettings = {
    ca: options.ca ?? readPem(registry, options, 'caFile'),
    cert: options.cert ?? readPem(registry, options, 'certFile'),
    key: options.key ?? readPem(registry, options, 'keyFile'),
    insecureSkipVerify: options.insecureSkipVerify ?? false,
  }
  if ((tls.cert === undefined) !== (tls.key === undefined)) {
    throw new InvalidRegistryOptionError(registry, undefined, 'must have both cert and key, or neither')
  }
  return tls
}

function resolveBaseUrl(registry: string, options: RegistryOptions, tls: TlsSettings): URL {
  if (options.endpoint !== undefined) {
    const url = parseHttpUrl(options.endpoint, registry, 'endpoint')
    if (url.username !== '' || url.password !== '') {
      throw new InvalidRegistryOptionError(registry, 'endpoint', 'must not hold credentials; use username and password')
    }
    url.pathname = url.pathname.replace(/\/+$/, '')
    url.search = ''
    url.hash = ''
    return url
  }
  if (registry === DEFAULT_REGISTRY) return new URL(DOCKER_HUB_ENDPOINT)
  const usesTls = tls.ca !== undefined || tls.cert !== undefined || tls.insecureSkipVerify
  const plain = options.plainHttp === true || (!usesTls && isLoopbackHost(hostOf(registry)))
  return new URL(`${plain ? 'http' : 'https'}://${registry}`)
}

/** A host by the name that registries have, so that all of Docker Hub's are one; as it is, where it cannot be a name. */
export function normalHost(host: string): string {
  try {
    return parseRegistry(host)
  } catch {
    return host
  }
}

function hostOf(registry: string): string {
  return registry.replace(/:[0-9]+$/, '')
}

function parseHttpUrl(text: string, registry: string, option: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || !['http:', 'https:'].includes(url.protocol)) {
    throw new InvalidRegistryOptionError(registry, option, 'must be a URL that starts with http:// or https://')
  }
  return url
}

function readPem(
  registry: string,
  options: RegistryOptions,
  option: 'caFile' | 'certFile' | 'keyFile',
): string | undefined {
  const { [option]: file } = options
  if (file === undefined) return undefined
  try {
    return readFileSync(file, 'utf8')
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code ?? String(cause)
    throw new InvalidRegistryOptionError(registry, option, `cannot be read: ${file} (${why})`, { cause })
  }
}
