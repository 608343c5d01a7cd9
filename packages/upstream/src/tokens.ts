// Bearer tokens for registries (distribution token specification; OAuth2 form of docker's authorization service).
// Tokens are kept by registry, scope and login until shortly before they expire; who needs one that is being fetched
// waits for that fetch.
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import { readBody, readStart } from './body.ts'
import { basicAuthorization, credentialKey } from './credentials.ts'
import type { Credential } from './docker-config.ts'
import { failureOfStatus } from './failures.ts'
import type { Limits, RegistrySettings } from './options.ts'
import { withRetries } from './retry.ts'
import type { HttpAnswer, HttpRequest, Sender } from './sender.ts'
import { UpstreamError } from './upstream.ts'

/** By the specification a token without `expires_in` lives 60 s. */
const DEFAULT_LIFETIME_MS = 60_000
const MAX_LIFETIME_MS = 24 * 3600 * 1000
/** All tokens that are kept, in characters: who runs a registry that a client names could fill the memory with them. */
const MAX_TOKENS_LENGTH = 32 * 1024 * 1024
/** Servers take no header that is longer, so no token is. */
const MAX_TOKEN_LENGTH = 64 * 1024
/** What a token takes besides. */
const TOKEN_OVERHEAD = 1024
/** A login that was refused is not shown again for so long: clients try several times, and services count failures. */
const REFUSAL_MEMORY_MS = 10_000
const MAX_REFUSALS = 1000
const MAX_TOKEN_ANSWER_BYTES = 256 * 1024
const MAX_ERROR_BYTES = 16 * 1024
const CLIENT_ID = 'shoal'

/** Where a registry sends for tokens. */
export interface TokenService {
  realm: string
  service: string | undefined
}

export interface TokenNeeds {
  settings: RegistrySettings
  tokenService: TokenService
  scope: string
  credential: Credential | undefined
  signal: AbortSignal
}

export interface TokensParts {
  sender: Sender
  limits: Limits
  random: () => number
  now: () => number
  logger: Logger | undefined
}

export class Tokens {
  readonly #parts: TokensParts
  readonly #cache: LRUCache<string, string>
  readonly #refusals: LRUCache<string, UpstreamError>
  readonly #running = new Map<string, Promise<string>>()
  readonly #closing = new AbortController()

  constructor(parts: TokensParts) {
    this.#parts = parts
    const clock = { perf: { now: parts.now }, ttlResolution: 0 }
    const sizeCalculation = (token: string) => token.length + TOKEN_OVERHEAD
    this.#cache = new LRUCache({ maxSize: MAX_TOKENS_LENGTH, sizeCalculation, ...clock })
    this.#refusals = new LRUCache({ ...entryLimit(MAX_REFUSALS), ttl: REFUSAL_MEMORY_MS, ...clock })
  }

  /** A token from the cache or from the token service. @throws UpstreamError; the signal's reason */
  async get(needs: TokenNeeds): Promise<string> {
    const key = keyOf(needs)
    const known = this.#cache.get(key)
    if (known !== undefined) return known
    const refusal = this.#refusals.get(key)
    if (refusal !== undefined) throw refusal
    let running = this.#running.get(key)
    if (running === undefined) {
      running = this.#fetch(needs, key).finally(() => this.#running.delete(key))
      this.#running.set(key, running)
    }
    return waitFor(running, needs.signal)
  }

  /** Forgets a token that the registry refused, unless another has taken its place meanwhile. */
  forget(needs: TokenNeeds, refused: string): void {
    const key = keyOf(needs)
    if (this.#cache.peek(key) === refused) this.#cache.delete(key)
  }

  close(): void {
    this.#closing.abort(new Error('closed'))
  }

  /** Belongs to all who wait, so one that gives up does not end it; it has deadlines of its own. */
  async #fetch(needs: TokenNeeds, key: string): Promise<string> {
    const { limits, random, now } = this.#parts
    const deadlineMs = (limits.connectTimeoutMs + limits.firstByteTimeoutMs) * 2 + limits.maxRetryAfterMs
    const signal = AbortSignal.any([this.#closing.signal, AbortSignal.timeout(deadlineMs)])
    try {
      const began = now()
      const { token, lifetimeMs } = await withRetries({ limits, random, signal }, () => this.#ask(needs, signal))
      // A tenth of its life, but never the most of a short one, so that it does not expire on the way.
      const ttl = Math.floor(lifetimeMs * 0.9 - (now() - began))
      if (ttl > 0) this.#cache.set(key, token, { ttl })
      return token
    } catch (error) {
      if (error instanceof UpstreamError) {
        if (error.code === 'UNAUTHORIZED' && needs.credential !== undefined) this.#refusals.set(key, error)
        throw error
      }
      const { registry } = needs.settings
      throw new UpstreamError('TIMEOUT', registry, `the token service of ${registry} gave no token in time`, {
        cause: error,
      })
    }
  }

  async #ask(needs: TokenNeeds, signal: AbortSignal): Promise<{ token: string; lifetimeMs: number }> {
    const { settings, credential } = needs
    const url = this.#realmUrl(needs)
    const foreign = url.origin !== settings.baseUrl.origin
    const oauth = credential !== undefined && !('username' in credential)
    let answer = await this.#parts.sender.send(settings, { ...tokenRequest(needs, url, oauth), foreign, signal })
    if (!oauth && credential !== undefined && [404, 405].includes(answer.status)) {
      // Some services have only the OAuth2 form.
      await readStart(answer.body, MAX_ERROR_BYTES)
      answer = await this.#parts.sender.send(settings, { ...tokenRequest(needs, url, true), foreign, signal })
    }
    if (answer.status !== 200) throw await this.#refusal(needs, answer)
    return await this.#read(needs, answer)
  }

  #realmUrl({ settings, tokenService }: TokenNeeds): URL {
    const { registry, baseUrl } = settings
    const url = URL.canParse(tokenService.realm) ? new URL(tokenService.realm) : undefined
    if (url === undefined || !['http:', 'https:'].includes(url.protocol)) {
      throw new UpstreamError('PROTOCOL', registry, `${registry} names a token service that is not an HTTP URL`)
    }
    if (url.protocol === 'http:' && baseUrl.protocol === 'https:') {
      const message = `${registry} wants credentials sent to ${url.host} without TLS, which is refused`
      throw new UpstreamError('REFUSED_BY_POLICY', registry, message)
    }
    url.username = ''
    url.password = ''
    url.hash = ''
    return url
  }

  async #refusal({ settings, credential }: TokenNeeds, answer: HttpAnswer): Promise<UpstreamError> {
    const { registry } = settings
    await readStart(answer.body, MAX_ERROR_BYTES)
    const { status } = answer
    if (status === 400 || status === 401 || status === 403) {
      const message =
        credential === undefined
          ? `the token service of ${registry} gives nothing without a login; configure credentials for it`
          : `the token service of ${registry} refuses the credentials; check the name and the password`
      return new UpstreamError(status === 403 ? 'DENIED' : 'UNAUTHORIZED', registry, message, { status })
    }
    // What token services say may repeat what they were sent; it is not shown.
    const bad = { status, header: answer.header, text: '', secrets: [] }
    return failureOfStatus(bad, registry, 'a token', Date.now())
  }

  async #read(needs: TokenNeeds, answer: HttpAnswer): Promise<{ token: string; lifetimeMs: number }> {
    const { registry } = needs.settings
    const bytes = await readBody(answer.body, MAX_TOKEN_ANSWER_BYTES, registry, 'the answer of a token service')
    let fields: Record<string, unknown> = {}
    try {
      fields = (JSON.parse(bytes.toString('utf8')) ?? {}) as Record<string, unknown>
    } catch {
      // The message below says it; the text of the parser would quote a token.
    }
    const token = [fields['token'], fields['access_token']].find((value) => typeof value === 'string' && value !== '')
    if (typeof token !== 'string' || !/^[\x21-\x7e]+$/.test(token)) {
      throw new UpstreamError('PROTOCOL', registry, `the token service of ${registry} answered without a token`)
    }
    if (token.length > MAX_TOKEN_LENGTH) {
      const message = `the token service of ${registry} gave a token of more than ${MAX_TOKEN_LENGTH} characters`
      throw new UpstreamError('PROTOCOL', registry, message)
    }
    const seconds = Number(fields['expires_in'])
    const lifetimeMs = Number.isFinite(seconds) && seconds > 0 ? seconds * 1000 : DEFAULT_LIFETIME_MS
    this.#parts.logger?.debug({ registry, scope: needs.scope, lifetimeMs }, 'got a token')
    return { token, lifetimeMs: Math.min(lifetimeMs, MAX_LIFETIME_MS) }
  }
}

function tokenRequest(
  { tokenService, scope, credential }: TokenNeeds,
  realm: URL,
  oauth: boolean,
): Pick<HttpRequest, 'url' | 'method' | 'headers' | 'lane'> & { body?: string } {
  const { service } = tokenService
  if (oauth && credential !== undefined) {
    const form = new URLSearchParams({ client_id: CLIENT_ID, scope })
    if (service !== undefined) form.set('service', service)
    if ('username' in credential) {
      form.set('grant_type', 'password')
      form.set('username', credential.username)
      form.set('password', credential.password)
    } else {
      form.set('grant_type', 'refresh_token')
      form.set('refresh_token', credential.identityToken)
    }
    const headers = { 'content-type': 'application/x-www-form-urlencoded' }
    return { url: realm, method: 'POST', headers, body: form.toString(), lane: 'metadata' }
  }
  const url = new URL(realm)
  if (service !== undefined) url.searchParams.set('service', service)
  for (const one of scope.split(' ')) if (one !== '') url.searchParams.append('scope', one)
  const authorization = credential === undefined ? undefined : basicAuthorization(credential)
  if (credential !== undefined && 'username' in credential) url.searchParams.set('account', credential.username)
  return { url, method: 'GET', headers: authorization === undefined ? {} : { authorization }, lane: 'metadata' }
}

function keyOf({ settings, tokenService, scope, credential }: TokenNeeds): string {
  const { registry, ownCertificates } = settings
  const { realm, service } = tokenService
  // A token may come of a certificate alone, then it is the node's, although no login was shown for it.
  return JSON.stringify([registry, realm, service, scope, credentialKey(credential), ownCertificates])
}

/** @throws the signal's reason; the work goes on, for others that wait for it */
export async function waitFor<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const aborted = Promise.withResolvers<never>()
  const abort = (): void => aborted.reject(signal.reason as Error)
  if (signal.aborted) abort()
  signal.addEventListener('abort', abort, { once: true })
  try {
    return await Promise.race([work, aborted.promise])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}
