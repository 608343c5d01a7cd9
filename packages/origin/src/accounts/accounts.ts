// Who is asking, and may they: puts accounts, rules, tokens and the limit on failed logins together.
import { OciError } from '@shoal/oci'
import type { IssuedToken, RequestContext, TokenRequest } from '@shoal/registry'
import type { HtpasswdFile } from './htpasswd.ts'
import type { LoginLimit } from './login-limit.ts'
import type { AccessRules, Action } from './rules.ts'
import { CATALOG_SCOPE, isCatalogScope, parseScope, type Grant, type Tokens } from './tokens.ts'

/** What is looked at of a request. */
export type Asking = Pick<RequestContext, 'authorization' | 'remoteAddress' | 'endpoint'>

/** Somebody whose credentials were right, or who has shown none. */
type Identity = { kind: 'nobody' } | { kind: 'user'; user: string } | { kind: 'token'; grant: Grant }

export interface AccountsOptions {
  htpasswd: HtpasswdFile
  rules: AccessRules
  tokens: Tokens
  loginLimit: LoginLimit
  /** What clients call this registry in their token requests. */
  service: string
  /** `https://registry.example.com`; undefined: what the client called it. */
  publicUrl: string | undefined
}

export const TOKEN_PATH = '/token'

const MAX_SCOPES = 32

export class Accounts {
  readonly #options: AccountsOptions

  constructor(options: AccountsOptions) {
    this.#options = options
  }

  /** `GET /v2/`: everybody must show something, so that clients learn how to log in. */
  async checkVersion(asking: Asking): Promise<void> {
    const identity = await this.#identify(asking)
    if (identity.kind === 'nobody') throw this.#challenge(asking, undefined)
  }

  /** The name of who asks; undefined: nobody has logged in. @throws OciError(UNAUTHORIZED, DENIED) */
  async require(asking: Asking, name: string, action: Action): Promise<string | undefined> {
    const identity = await this.#identify(asking)
    if (this.#may(identity, name, action)) return userOf(identity)
    if (identity.kind === 'user') {
      throw new OciError('DENIED', `${identity.user} may not ${action} ${name}: ask who runs this registry for a rule`)
    }
    const actions = action === 'push' ? 'pull,push' : action
    const wanted = { scope: `repository:${name}:${actions}`, what: `${action} ${name}` }
    throw this.#challenge(asking, wanted, identity.kind === 'token')
  }

  /** The name of who asks; undefined: nobody has logged in. @throws OciError(UNAUTHORIZED) */
  async userOf(asking: Asking): Promise<string | undefined> {
    return userOf(await this.#identify(asking))
  }

  /** Whether the request may do this, without an error when it may not. A token may what it was given for. */
  async filter(asking: Asking, action: Action): Promise<(name: string) => boolean> {
    const identity = await this.#identify(asking)
    return (name) => this.#may(identity, name, action)
  }

  /** As `filter`, for lists of what may be pulled: a token for the catalogue shows all that its user may. */
  async listed(asking: Asking): Promise<(name: string) => boolean> {
    return this.#listedFor(await this.#identify(asking))
  }

  /** As `listed`, for who must show a login, or a token that is for the catalogue. @throws OciError(UNAUTHORIZED) */
  async catalog(asking: Asking): Promise<(name: string) => boolean> {
    const identity = await this.#identify(asking)
    const isOtherToken = identity.kind === 'token' && !identity.grant.catalog
    if (identity.kind === 'nobody' || isOtherToken) {
      throw this.#challenge(asking, { scope: CATALOG_SCOPE, what: 'list repositories' }, isOtherToken)
    }
    return this.#listedFor(identity)
  }

  /**
   * The token endpoint: what was asked for, as far as the rules let.
   * @throws OciError(UNAUTHORIZED, TOOMANYREQUESTS, DENIED)
   */
  async token({ basic, scopes, endpoint, remoteAddress }: TokenRequest): Promise<IssuedToken> {
    const login = readBasic(basic)
    if (basic !== undefined && !login) throw new OciError('UNAUTHORIZED', 'log in with user name and password')
    if (scopes.length > MAX_SCOPES) throw new OciError('DENIED', `at most ${MAX_SCOPES} scopes in one token`)
    if (login) await this.#verify({ authorization: basic, endpoint, remoteAddress }, login.user, login.password)
    const access = scopes.flatMap((scope) => {
      const wanted = parseScope(scope)
      if (!wanted) return []
      const allowed = this.#options.rules.allowed(login?.user, wanted.name)
      return [{ name: wanted.name, actions: wanted.actions.filter((action) => allowed.has(action)) }]
    })
    const catalog = scopes.some(isCatalogScope)
    return this.#options.tokens.issue({ user: login?.user, access, catalog })
  }

  async #identify(asking: Asking): Promise<Identity> {
    const { authorization } = asking
    if (authorization === undefined) return { kind: 'nobody' }
    const [scheme = '', value = ''] = authorization.split(/ +/, 2)
    if (scheme.toLowerCase() === 'bearer') {
      const grant = await this.#options.tokens.verify(value)
      if (!grant) throw this.#challenge(asking, undefined, true)
      return { kind: 'token', grant }
    }
    const login = readBasic(authorization)
    if (!login) throw this.#challenge(asking, undefined)
    await this.#verify(asking, login.user, login.password)
    return { kind: 'user', user: login.user }
  }

  async #verify(asking: Asking, user: string, password: string): Promise<void> {
    const { htpasswd, loginLimit } = this.#options
    const address = asking.remoteAddress ?? 'unknown'
    const mayGoOn = (waitMs: number): void => {
      if (waitMs <= 0) return
      throw new OciError('TOOMANYREQUESTS', 'too many failed logins from this address: try again later', {
        headers: { 'retry-after': String(Math.ceil(waitMs / 1000)) },
      })
    }
    const userMayTry = (): void => mayGoOn(loginLimit.userWaitMs(address, user, Date.now()))
    userMayTry()
    // What others did wrong behind the same proxy does not keep out who was let in lately.
    const mayTry = (): void => {
      userMayTry()
      mayGoOn(loginLimit.addressWaitMs(address, Date.now()))
    }
    if (await htpasswd.verify(user, password, mayTry)) {
      loginLimit.succeeded(address, user)
      return
    }
    loginLimit.failed(address, user, Date.now())
    throw new OciError('UNAUTHORIZED', 'incorrect user name or password', {
      headers: { 'www-authenticate': `Basic realm="${this.#options.service}"` },
    })
  }

  #listedFor(identity: Identity): (name: string) => boolean {
    const isForAll = identity.kind === 'token' && identity.grant.catalog
    const lister: Identity = isForAll ? asUser(identity.grant.user) : identity
    return (name) => this.#may(lister, name, 'pull')
  }

  #may(identity: Identity, name: string, action: Action): boolean {
    if (identity.kind === 'token') {
      return identity.grant.access.some((granted) => granted.name === name && granted.actions.includes(action))
    }
    return this.#options.rules.allowed(identity.kind === 'user' ? identity.user : undefined, name).has(action)
  }

  /** Tells the client where to get a token, and for what (RFC 6750, section 3). */
  #challenge(asking: Asking, wanted: { scope: string; what: string } | undefined, hadToken = false): OciError {
    const { publicUrl, service } = this.#options
    const base = publicUrl ?? asking.endpoint ?? ''
    const parts = [`realm="${base}${TOKEN_PATH}"`, `service="${service}"`]
    if (wanted) parts.push(`scope="${wanted.scope}"`)
    if (hadToken) parts.push(wanted ? 'error="insufficient_scope"' : 'error="invalid_token"')
    const message = hadToken
      ? wanted
        ? `this login does not allow to ${wanted.what}`
        : 'the token is not valid, or no longer'
      : 'log in first'
    return new OciError('UNAUTHORIZED', message, { headers: { 'www-authenticate': `Bearer ${parts.join(',')}` } })
  }
}

function asUser(user: string | undefined): Identity {
  return user === undefined ? { kind: 'nobody' } : { kind: 'user', user }
}

function userOf(identity: Identity): string | undefined {
  if (identity.kind === 'token') return identity.grant.user
  return identity.kind === 'user' ? identity.user : undefined
}

/** User and password of an Authorization header (RFC 7617). */
export function readBasic(authorization: string | undefined): { user: string; password: string } | undefined {
  const match = /^basic +([A-Za-z0-9+/=_-]+)$/i.exec(authorization ?? '')
  if (!match) return undefined
  const text = Buffer.from(match[1] ?? '', 'base64').toString()
  const colon = text.indexOf(':')
  if (colon <= 0) return undefined
  return { user: text.slice(0, colon), password: text.slice(colon + 1) }
}
