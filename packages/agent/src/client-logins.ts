// Logins of clients at this agent. docker and podman send a login only to who asks for one at `GET /v2/`, where nobody has
// named a registry yet. So the agent asks there itself, and gives tokens: whoever has no login gets one that stands for
// everyone, and whoever has one gets a handle, which turns into the login again for the registry that a request names.
// The rules and the other ways that were considered: docs/decisions/0011-logins-at-the-agent.md.
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import { entryLimit, OciError, parseRegistry } from '@shoal/oci'
import type { IssuedToken, RequestContext, TokenRequest } from '@shoal/registry'
import { basicAuthorization, parseBasicAuthorization, type RepositoryTarget, type Upstream } from '@shoal/upstream'
import { LRUCache } from 'lru-cache'
import type { AgentConfig } from './config.ts'
import { toClientError } from './failures.ts'
import { registryOfSegment, segmentOfRegistry, type Naming } from './names.ts'

export const TOKEN_PATH = '/token'
const SERVICE = 'shoal-agent'

/** Nobody else's tokens begin so: what does is never passed on to a registry. */
const TOKEN_PREFIX = 'shoal-agent.'
const FOR_EVERYONE = `${TOKEN_PREFIX}everyone`
const ID_BYTES = 16
const KEY_BYTES = 32
const IV_BYTES = 12
const TAG_BYTES = 16
const CIPHER = 'aes-256-gcm'

const LIFETIME_MS = 10 * 60_000
/** A token that a client took for good when it sent it is good when it arrives, in milliseconds. */
const GRACE_MS = 60_000
const MAX_LOGINS = 10_000
const MAX_LOGINS_BYTES = 16 * 1024 * 1024
/** Service accounts of clouds have keys of 3 KB for a password. */
const MAX_LOGIN_BYTES = 8 * 1024
const MAX_DESCRIPTION = 500

export interface ClientLoginsOptions {
  upstream: Pick<Upstream, 'checkLogin'>
  naming: Naming
  /** A login that does not say which registry it is for is asked about here. */
  loginRegistry: string | undefined
  /** Whether there may be a registry whose content is given only to who has a login of its own. */
  needed: boolean
  /** Limit for asking a registry about a login, in milliseconds. */
  timeoutMs: number
  /** Milliseconds of a clock that is never set. @default performance.now */
  now?: () => number
}

interface Login {
  /** The only registry that it is shown to; undefined: those that the operator has named. */
  registry: string | undefined
  /** As the registry wants to see it. */
  authorization: string
}

/** What a request shows. */
type Shown =
  | { kind: 'nothing' }
  | { kind: 'everyone' }
  | { kind: 'expired' }
  | { kind: 'login'; login: Login }
  /** Credentials or a token of the registry itself. */
  | { kind: 'other'; authorization: string }

/** Whether any registry that clients may name leaves it to their own logins what they get. */
export function asksForLogins(config: Pick<AgentConfig, 'allowRegistries' | 'registries' | 'allowPush'>): boolean {
  const open = Object.entries(config.registries)
    .filter(([, { access, pushAs }]) => access === 'node' && (pushAs === 'node' || !config.allowPush))
    .map(([registry]) => parseRegistry(registry))
  return !config.allowRegistries.every((rule) => open.includes(rule.toLowerCase()))
}

/** The one registry for which clients of this agent log in, where there is just one beside the default. */
export function onlyLoginRegistry(config: Pick<AgentConfig, 'defaultRegistry' | 'registries'>): string | undefined {
  const registries = Object.entries(config.registries)
    .filter(([, { access }]) => access !== 'node')
    .map(([registry]) => parseRegistry(registry))
    .filter((registry) => registry !== parseRegistry(config.defaultRegistry))
  return registries.length === 1 ? registries[0] : undefined
}

export class ClientLogins {
  readonly #options: ClientLoginsOptions
  /** Each under a key that is only in its token: without the token nobody can read it, this process neither. */
  readonly #sealed: LRUCache<string, Buffer>

  constructor(options: ClientLoginsOptions) {
    this.#options = options
    this.#sealed = new LRUCache({
      ...entryLimit(MAX_LOGINS),
      maxSize: MAX_LOGINS_BYTES,
      sizeCalculation: (sealed) => sealed.length,
      ttl: LIFETIME_MS + GRACE_MS,
      ttlResolution: 0,
      perf: { now: options.now ?? (() => performance.now()) },
    })
  }

  /** `GET /v2/`: tells clients where to get a token. @throws OciError(UNAUTHORIZED) */
  checkVersion(context: RequestContext): void {
    const challenge = this.#challenge(context)
    const { kind } = this.#read(context.authorization)
    if (challenge === undefined || !(kind === 'nothing' || kind === 'expired')) return
    const headers = { 'WWW-Authenticate': kind === 'expired' ? `${challenge},error="invalid_token"` : challenge }
    throw new OciError('UNAUTHORIZED', 'get a token first: without a login there is one for everyone', { headers })
  }

  /**
   * The token endpoint. A login is looked at where it is not said what it is for, as with `docker login`; else the
   * registry says what it thinks of it when it is shown.
   * @throws OciError(UNAUTHORIZED) for a login that its registry does not take
   */
  async token({ basic, scopes, requestId }: TokenRequest): Promise<IssuedToken> {
    const login = basic === undefined ? undefined : this.#loginOf(basic)
    if (login !== undefined && scopes.length === 0) await this.#check(login, requestId)
    const token = login === undefined ? FOR_EVERYONE : this.#seal(login)
    return { token, expiresInSeconds: LIFETIME_MS / 1000, issuedAt: new Date() }
  }

  /** What a request has to show to a registry: the login behind a token of this agent, else what the client sent. */
  authorizationFor({ registry }: RepositoryTarget, authorization: string | undefined): string | undefined {
    const shown = this.#read(authorization)
    if (shown.kind === 'other') return shown.authorization
    return shown.kind === 'login' && this.#mayShow(shown.login, registry) ? shown.login.authorization : undefined
  }

  /**
   * The answer to a request that its registry refused for want of a login. Where the client has its login at this agent,
   * it hears so instead of how to log in at the registry.
   */
  refusal(context: RequestContext, name: string, target: RepositoryTarget, error: OciError, scope: string): OciError {
    const challenge = this.#challenge(context)
    if (error.code !== 'UNAUTHORIZED' || challenge === undefined) return error
    const shown = this.#read(context.authorization)
    const advice = this.#advice(context, target.registry, shown)
    const message = advice === undefined ? error.message : `${error.message}. ${advice}`
    const parts = [challenge, `scope="repository:${name}:${scope}"`]
    // containerd tries again and again without it, and docker shows people the description instead of the body.
    if (shown.kind !== 'nothing') parts.push('error="invalid_token"', `error_description="${describing(message)}"`)
    return new OciError('UNAUTHORIZED', message, { headers: { 'WWW-Authenticate': parts.join(',') }, cause: error })
  }

  #advice({ endpoint = '' }: RequestContext, registry: string, shown: Shown): string | undefined {
    const host = endpoint.replace(/^https?:\/\//, '')
    const command = `"docker login -u ${segmentOfRegistry(registry)}/USER ${host}"`
    switch (shown.kind) {
      case 'other':
        return undefined
      case 'nothing':
      case 'everyone':
        return `At this agent: ${command}`
      case 'expired':
        return 'The login at this agent has expired: try again'
      case 'login':
        if (this.#mayShow(shown.login, registry)) return undefined
        return shown.login.registry === undefined
          ? `The login at this agent does not say that it is for ${registry}, and is not shown to it: ${command}`
          : `The login at this agent is for ${shown.login.registry}: ${command}`
    }
  }

  /** containerd names the registry, and has a login for it and not for this agent. */
  #challenge({ endpoint, namespace }: RequestContext): string | undefined {
    if (!this.#options.needed || namespace !== undefined || endpoint === undefined) return undefined
    return `Bearer realm="${endpoint}${TOKEN_PATH}",service="${SERVICE}"`
  }

  /** Who chooses the name of an image must not choose whom a login is shown to. */
  #mayShow(login: Login, registry: string): boolean {
    if (login.registry !== undefined) return login.registry === registry
    const { defaultRegistry, isNamed } = this.#options.naming
    return registry === parseRegistry(defaultRegistry) || isNamed(registry)
  }

  /** `REGISTRY/USER` is a login for that registry alone. Undefined: a login without a name is none. */
  #loginOf(basic: string): Login | undefined {
    const credential = basic.length <= MAX_LOGIN_BYTES ? parseBasicAuthorization(basic) : undefined
    if (credential === undefined || !('username' in credential)) {
      throw refused('log in with a user name and a password, both of which an HTTP header can carry')
    }
    const { username, password } = credential
    if (username === '') return undefined
    const slash = username.indexOf('/')
    const registry = slash < 0 ? undefined : registryOfSegment(username.slice(0, slash), this.#options.naming)
    if (registry === undefined) return { registry, authorization: basic }
    const user = username.slice(slash + 1)
    if (user === '') throw refused(`"${username}" names a registry and no user: log in as ${username}USER`)
    return { registry, authorization: basicAuthorization({ username: user, password }) ?? basic }
  }

  async #check(login: Login, requestId: string): Promise<void> {
    const { upstream, loginRegistry, timeoutMs } = this.#options
    const registry = login.registry ?? loginRegistry
    // Of several nobody knows which is meant: the one that is asked for content says what it thinks.
    if (registry === undefined) return
    const { authorization } = login
    try {
      await upstream.checkLogin(registry, { authorization, requestId, signal: AbortSignal.timeout(timeoutMs) })
    } catch (error) {
      const answer = toClientError(error, 'name')
      if (answer.code !== 'UNAUTHORIZED') throw answer
      const advice = login.registry === undefined ? '. For another registry log in as REGISTRY/USER' : ''
      throw refused(answer.message + advice, error)
    }
  }

  #seal(login: Login): string {
    const [id, key, iv] = [randomBytes(ID_BYTES), randomBytes(KEY_BYTES), randomBytes(IV_BYTES)]
    const cipher = createCipheriv(CIPHER, key, iv)
    const text = Buffer.concat([cipher.update(JSON.stringify(login)), cipher.final()])
    this.#sealed.set(id.toString('base64url'), Buffer.concat([iv, cipher.getAuthTag(), text]))
    return TOKEN_PREFIX + Buffer.concat([id, key]).toString('base64url')
  }

  #read(authorization: string | undefined): Shown {
    if (authorization === undefined) return { kind: 'nothing' }
    const token = /^bearer +(\S+) *$/i.exec(authorization)?.[1]
    if (!token?.startsWith(TOKEN_PREFIX)) return { kind: 'other', authorization }
    if (token === FOR_EVERYONE) return { kind: 'everyone' }
    const handle = Buffer.from(token.slice(TOKEN_PREFIX.length), 'base64url')
    const sealed = this.#sealed.get(handle.subarray(0, ID_BYTES).toString('base64url'))
    if (sealed === undefined || handle.length !== ID_BYTES + KEY_BYTES) return { kind: 'expired' }
    try {
      const decipher = createDecipheriv(CIPHER, handle.subarray(ID_BYTES), sealed.subarray(0, IV_BYTES))
      decipher.setAuthTag(sealed.subarray(IV_BYTES, IV_BYTES + TAG_BYTES))
      const text = Buffer.concat([decipher.update(sealed.subarray(IV_BYTES + TAG_BYTES)), decipher.final()])
      return { kind: 'login', login: JSON.parse(text.toString()) as Login }
    } catch {
      // The key of another token.
      return { kind: 'expired' }
    }
  }
}

/** As RFC 6750, section 3, wants a description. */
function describing(message: string): string {
  return message
    .replaceAll('"', "'")
    .replace(/[^\x20-\x5b\x5d-\x7e]+/g, ' ')
    .slice(0, MAX_DESCRIPTION)
}

function refused(message: string, cause?: unknown): OciError {
  return new OciError('UNAUTHORIZED', message, { headers: { 'WWW-Authenticate': `Basic realm="${SERVICE}"` }, cause })
}
