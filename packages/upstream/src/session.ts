// Requests to a registry in the name of somebody: finds out how it wants to be asked, answers its challenge once, tries
// again what is safe to try again, and turns bad answers into errors.
import { setTimeout as delay } from 'node:timers/promises'
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import { readStart } from './body.ts'
import { parseChallenges } from './challenge.ts'
import { basicAuthorization, parseBasicAuthorization, type Credentials } from './credentials.ts'
import type { Credential } from './docker-config.ts'
import { failureOfStatus } from './failures.ts'
import type { Lane } from './lanes.ts'
import type { Limits, RegistrySettings } from './options.ts'
import { withRetries } from './retry.ts'
import type { HttpAnswer, Method, RequestBody, Sender } from './sender.ts'
import { waitFor, type Tokens, type TokenService } from './tokens.ts'
import { UpstreamError, type RequestOptions } from './upstream.ts'

const MAX_REMEMBERED_REGISTRIES = 1000
const MAX_REMEMBERED_SCOPES = 10_000
const MAX_SCOPE_LENGTH = 1024
const MAX_ERROR_BYTES = 16 * 1024
/** Where the configured login was refused, what is for everyone is asked for without it for so long. */
const REFUSED_LOGIN_MEMORY_MS = 300_000
/** How long finding the configured login may take for what is for everyone. */
const LOGIN_PATIENCE_MS = 2000
const HEADER_VALUE = /^[\x20-\x7e]{1,16384}$/
const REQUEST_ID = /^[\x21-\x7e]{1,128}$/

export interface RegistryRequest {
  settings: RegistrySettings
  /** As the registry knows it, with the prefix of a cache. */
  repository: string
  /** After `/v2/`, with the query. */
  path: string
  /** Where the registry said to go instead of `path`. On another host than its own it is asked without a login. */
  location?: URL
  method: Method
  /** What a token must be good for. @default pulling from the repository */
  scope?: string
  body?: RequestBody
  answerTimeoutMs?: number
  /** Whether a failure that may go away is tried again here. @default true */
  retry?: boolean
  headers: Readonly<Record<string, string>>
  lane: Lane
  /** For messages: `the manifest library/ubuntu:latest`. */
  what: string
  options: RequestOptions
  /** Statuses that are answers; others are errors. */
  accept: readonly number[]
}

export interface SessionParts {
  sender: Sender
  credentials: Credentials
  tokens: Tokens
  limits: Limits
  random: () => number
  now: () => number
  logger: Logger | undefined
}

/** How a registry wants to be asked. */
type Scheme = { kind: 'basic' } | { kind: 'bearer'; tokenService: TokenService }

/** In whose name a request is sent. */
type Identity = { kind: 'header'; authorization: string } | { kind: 'login'; credential: Credential | undefined }

export class Session {
  readonly #parts: SessionParts
  /** Saves asking in vain: known from the last challenge. */
  readonly #schemes = new LRUCache<string, Scheme>({ ...entryLimit(MAX_REMEMBERED_REGISTRIES) })
  /** Scopes that registries ask for in words of their own, by registry and the scope that was expected. */
  readonly #scopes = new LRUCache<string, string>({ ...entryLimit(MAX_REMEMBERED_SCOPES) })
  /** Registries whose answers say that they are Shoal's own origin. */
  readonly #shoalOrigins = new LRUCache<string, true>({ ...entryLimit(MAX_REMEMBERED_REGISTRIES) })
  /** Registries that refused the configured login, and served without. */
  readonly #refusedLogins: LRUCache<string, true>

  constructor(parts: SessionParts) {
    this.#parts = parts
    this.#refusedLogins = new LRUCache({
      ...entryLimit(MAX_REMEMBERED_REGISTRIES),
      ttl: REFUSED_LOGIN_MEMORY_MS,
      perf: { now: parts.now },
      ttlResolution: 0,
    })
  }

  /** Whether the registry has said that it is Shoal's own origin. */
  isShoalOrigin(registry: string): boolean {
    return this.#shoalOrigins.get(registry) === true
  }

  /**
   * Asks until `read` has got what it wants out of an answer. `read` must use up or destroy the body; when it fails
   * with an error that may go away, the request is sent again.
   * @throws UpstreamError; the signal's reason when it is aborted
   */
  async ask<T>(request: RegistryRequest, read: (answer: HttpAnswer) => Promise<T>): Promise<T> {
    const { options, settings } = request
    if (options.forEveryone !== true || !isOwnLogin(options)) return await this.#ask(request, read)
    const { registry } = settings
    const anonymous = { ...request, options: { ...options, anonymous: true } }
    if (this.#refusedLogins.has(registry)) return await this.#ask(anonymous, read)
    try {
      return await this.#ask(request, read)
    } catch (error) {
      if (!isRefusal(error)) throw error
      const found = await this.#ask(anonymous, read).catch(() => Promise.reject(error))
      this.#refusedLogins.set(registry, true)
      const hint = 'the configured login is refused; what is for everyone is asked for without it for a while'
      this.#parts.logger?.warn({ registry, err: error }, hint)
      return found
    }
  }

  async #ask<T>(asked: RegistryRequest, read: (answer: HttpAnswer) => Promise<T>): Promise<T> {
    const request = withoutOwnCertificate(asked)
    const { limits, random, logger } = this.#parts
    const { settings, options, what } = request
    this.#parts.sender.checkRegistry(settings)
    const onRetry = (error: UpstreamError, attempt: number, waitMs: number): void => {
      const { registry } = settings
      logger?.debug({ registry, what, attempt, waitMs, code: error.code, requestId: options.requestId }, 'asking again')
    }
    const tries = request.retry === false ? { ...limits, retries: 0 } : limits
    return withRetries({ limits: tries, random, signal: options.signal, onRetry }, async () => {
      const answer = await this.#authorized(request)
      return await read(answer)
    })
  }

  async #authorized(request: RegistryRequest): Promise<HttpAnswer> {
    const { options } = request
    const identity: Identity = isForeign(request)
      ? { kind: 'login', credential: undefined }
      : await this.#identify(request)
    let authorization = isForeign(request) ? undefined : await this.#opening(request, identity)
    for (let round = 0; ; round++) {
      const answer = await this.#send(request, authorization)
      if (request.accept.includes(answer.status)) return answer
      const text = await readStart(answer.body, MAX_ERROR_BYTES)
      if (answer.status === 401 && !answer.foreign && round === 0) {
        const challenge = answer.header('www-authenticate') ?? ''
        const better = await this.#answerChallenge(request, identity, challenge, authorization)
        if (better !== undefined) {
          authorization = better
          continue
        }
      }
      options.signal.throwIfAborted()
      throw this.#failure(request, identity, answer, text, authorization)
    }
  }

  async #send(request: RegistryRequest, authorization: string | undefined): Promise<HttpAnswer> {
    const { settings, options, body, answerTimeoutMs } = request
    const foreign = isForeign(request)
    const headers: Record<string, string> = { ...request.headers }
    if (authorization !== undefined) headers['authorization'] = authorization
    if (!foreign && options.requestId !== undefined && REQUEST_ID.test(options.requestId)) {
      headers['x-request-id'] = options.requestId
    }
    const base = `${settings.baseUrl.origin}${settings.baseUrl.pathname.replace(/\/+$/, '')}/v2/`
    const url = request.location ?? new URL(base + request.path)
    const { method, lane } = request
    const answer = await this.#parts.sender.send(settings, {
      ...{ url, method, headers, lane, foreign, signal: options.signal },
      ...(body === undefined ? {} : { body }),
      ...(answerTimeoutMs === undefined ? {} : { answerTimeoutMs }),
    })
    if (!answer.foreign) {
      if (answer.header('x-shoal-origin') === '1') this.#shoalOrigins.set(settings.registry, true)
      else if (answer.status < 400) this.#shoalOrigins.delete(settings.registry)
    }
    return answer
  }

  async #identify({ settings, repository, options }: RegistryRequest): Promise<Identity> {
    const { authorization } = options
    if (options.anonymous === true) return { kind: 'login', credential: undefined }
    if (authorization === undefined) {
      const finding = this.#parts.credentials.find(settings, repository)
      const found = options.forEveryone === true ? Promise.race([finding, loginPatience()]) : finding
      return { kind: 'login', credential: await waitFor(found, options.signal) }
    }
    if (!HEADER_VALUE.test(authorization)) {
      const message = 'the Authorization header of the client has characters that a header must not have'
      throw new UpstreamError('UNAUTHORIZED', settings.registry, message)
    }
    const login = parseBasicAuthorization(authorization)
    return login === undefined ? { kind: 'header', authorization } : { kind: 'login', credential: login }
  }

  /** What to send at first. A login is not shown to a registry that has not asked for one. */
  async #opening(request: RegistryRequest, identity: Identity): Promise<string | undefined> {
    if (identity.kind === 'header') return identity.authorization
    const { settings, options } = request
    const scheme = this.#schemes.get(settings.registry)
    const { credential } = identity
    if (scheme === undefined) return undefined
    if (scheme.kind === 'basic') return credential && basicAuthorization(credential)
    const { tokenService } = scheme
    const needs = { settings, tokenService, scope: this.#scopeOf(request), credential, signal: options.signal }
    try {
      return `Bearer ${await this.#parts.tokens.get(needs)}`
    } catch (error) {
      // Asked without, the registry says its challenge, which belongs to the error.
      if (isRefusal(error)) return undefined
      throw error
    }
  }

  async #answerChallenge(
    request: RegistryRequest,
    identity: Identity,
    header: string,
    refused: string | undefined,
  ): Promise<string | undefined> {
    const { settings, options } = request
    if (identity.kind === 'header') return undefined
    const challenges = parseChallenges(header)
    const bearer = challenges.find(({ scheme, parameters }) => scheme === 'bearer' && parameters.has('realm'))
    const { credential } = identity
    if (bearer !== undefined) {
      const tokenService = { realm: bearer.parameters.get('realm') ?? '', service: bearer.parameters.get('service') }
      this.#schemes.set(settings.registry, { kind: 'bearer', tokenService })
      const asked = bearer.parameters.get('scope')
      if (asked !== undefined && asked !== '' && asked.length <= MAX_SCOPE_LENGTH) {
        // What it asked for before does not count any more: it may have been less, for a login with fewer rights.
        if (asked === neededScope(request)) this.#scopes.delete(scopeKey(request))
        else this.#scopes.set(scopeKey(request), asked)
      }
      const scope = this.#scopeOf(request)
      const needs = { settings, tokenService, scope, credential, signal: options.signal }
      if (refused?.startsWith('Bearer ')) this.#parts.tokens.forget(needs, refused.slice('Bearer '.length))
      let token: string
      try {
        token = await this.#parts.tokens.get(needs)
      } catch (error) {
        if (!isRefusal(error)) throw error
        if (isOwnLogin(options)) this.#parts.credentials.forgetHelperAnswers()
        const { status } = error
        const details = { challenge: header, cause: error, ...(status === undefined ? {} : { status }) }
        throw new UpstreamError(error.code, settings.registry, error.message, details)
      }
      return refused === `Bearer ${token}` ? undefined : `Bearer ${token}`
    }
    if (challenges.some(({ scheme }) => scheme === 'basic')) {
      this.#schemes.set(settings.registry, { kind: 'basic' })
      const basic = credential && basicAuthorization(credential)
      return basic === refused ? undefined : basic
    }
    return undefined
  }

  #scopeOf(request: RegistryRequest): string {
    return this.#scopes.get(scopeKey(request)) ?? neededScope(request)
  }

  #failure(
    request: RegistryRequest,
    identity: Identity,
    answer: HttpAnswer,
    text: string,
    authorization: string | undefined,
  ): UpstreamError {
    const { settings, what, options } = request
    const { registry } = settings
    const { status, foreign } = answer
    if (status === 401 && foreign) {
      // Its challenge must not reach the client, who would log in there.
      const message = `${registry} points to a host that refuses access to ${what}`
      return new UpstreamError('DENIED', registry, message, { status })
    }
    if (status === 401 && identity.kind === 'login' && isOwnLogin(options) && authorization) {
      this.#parts.credentials.forgetHelperAnswers()
    }
    const secrets = [authorization, authorization?.replace(/^\S+ /, '')].filter((secret) => secret !== undefined)
    if (identity.kind === 'login' && identity.credential !== undefined) {
      const { credential } = identity
      secrets.push('username' in credential ? credential.password : credential.identityToken)
    }
    return failureOfStatus({ status, header: answer.header, text, secrets }, registry, what, this.#parts.now())
  }
}

/** Helpers may hang, and what is for everyone needs none. */
async function loginPatience(): Promise<undefined> {
  await delay(LOGIN_PATIENCE_MS, undefined, { ref: false })
}

/** Whether a token service refuses somebody, as opposed to being in trouble. */
function isRefusal(error: unknown): error is UpstreamError {
  return error instanceof UpstreamError && (error.code === 'UNAUTHORIZED' || error.code === 'DENIED')
}

function neededScope({ repository, scope }: RegistryRequest): string {
  return scope ?? `repository:${repository}:pull`
}

/** Whether the configured login is what a request is sent with. */
function isOwnLogin({ authorization, anonymous }: RequestOptions): boolean {
  return authorization === undefined && anonymous !== true
}

/** Client certificates are credentials of this node: what is asked in another's name must not profit by them. */
function withoutOwnCertificate(request: RegistryRequest): RegistryRequest {
  const { settings, options } = request
  if (isOwnLogin(options)) return request
  const tls = { ...settings.tls, cert: undefined, key: undefined }
  return { ...request, settings: { ...settings, ownCertificates: false, tls } }
}

function scopeKey(request: RegistryRequest): string {
  return `${request.settings.registry} ${neededScope(request)}`
}

function isForeign({ location, settings }: RegistryRequest): boolean {
  return location !== undefined && location.origin !== settings.baseUrl.origin
}
