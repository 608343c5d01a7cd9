// Bearer tokens as docker, containerd and podman know them (distribution specification, "Token Authentication"): short
// lived, signed, and good for the repositories and actions that they name.
import { randomUUID } from 'node:crypto'
import { link, mkdir, open, readFile, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { IssuedToken } from '@shoal/registry'
import { exportJWK, generateKeyPair, importJWK, jwtVerify, SignJWT, type CryptoKey, type JWK } from 'jose'
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'
import { ACTIONS, type Action } from './rules.ts'

const ALGORITHM = 'ES256'
const ISSUER = 'shoal-registry'
const CLOCK_SKEW_SECONDS = 10

/** What a token lets its bearer do. */
export interface Grant {
  /** Undefined: nobody has logged in. */
  user: string | undefined
  access: { name: string; actions: Action[] }[]
  /** Whether it may list the repositories that its user may pull. */
  catalog: boolean
}

/** What registries ask a token for that lists their repositories. docker search asks for `registry:catalog:search`. */
export const CATALOG_SCOPE = 'registry:catalog:*'
const CATALOG_ACCESS = { type: 'registry', name: 'catalog', actions: ['*'] }

export function isCatalogScope(scope: string): boolean {
  return scope.startsWith('registry:catalog:')
}

/** The file of the signing key cannot be used. */
export class SigningKeyError extends Error {
  override readonly name = 'SigningKeyError'
}

export class Tokens {
  readonly #privateKey: CryptoKey
  readonly #publicKey: CryptoKey
  readonly #service: string
  readonly #lifetimeSeconds: number
  /** A pull shows the same token with every request. */
  readonly #verified = new LRUCache<string, { grant: Grant; expiresMs: number }>({ ...entryLimit(1_000) })

  private constructor(privateKey: CryptoKey, publicKey: CryptoKey, service: string, lifetimeMs: number) {
    this.#privateKey = privateKey
    this.#publicKey = publicKey
    this.#service = service
    this.#lifetimeSeconds = Math.ceil(lifetimeMs / 1000)
  }

  /** Reads the signing key, or makes it when there is none. @throws SigningKeyError */
  static async open(options: { keyFile: string; service: string; lifetimeMs: number }): Promise<Tokens> {
    const { keyFile } = options
    const { privateKey, publicKey } = (await readSigningKey(keyFile)) ?? (await makeKey(keyFile))
    return new Tokens(privateKey, publicKey, options.service, options.lifetimeMs)
  }

  async issue(grant: Grant): Promise<IssuedToken> {
    const issuedAt = new Date()
    const repositories = grant.access.map(({ name, actions }) => ({ type: 'repository', name, actions }))
    const jwt = new SignJWT({ access: grant.catalog ? [...repositories, CATALOG_ACCESS] : repositories })
      .setProtectedHeader({ alg: ALGORITHM, typ: 'JWT' })
      .setIssuer(ISSUER)
      .setAudience(this.#service)
      .setIssuedAt(issuedAt)
      .setExpirationTime(Math.floor(issuedAt.getTime() / 1000) + this.#lifetimeSeconds)
      .setJti(randomUUID())
    if (grant.user !== undefined) jwt.setSubject(grant.user)
    return { token: await jwt.sign(this.#privateKey), expiresInSeconds: this.#lifetimeSeconds, issuedAt }
  }

  /** What a token grants; undefined when it is none of ours, or has expired. */
  async verify(token: string): Promise<Grant | undefined> {
    const known = this.#verified.get(token)
    if (known && known.expiresMs > Date.now()) return known.grant
    try {
      const { payload } = await jwtVerify(token, this.#publicKey, {
        algorithms: [ALGORITHM],
        issuer: ISSUER,
        audience: this.#service,
        clockTolerance: CLOCK_SKEW_SECONDS,
        requiredClaims: ['exp'],
      })
      const grant: Grant = { user: payload.sub, ...readAccess(payload['access']) }
      this.#verified.set(token, { grant, expiresMs: ((payload.exp ?? 0) + CLOCK_SKEW_SECONDS) * 1000 })
      return grant
    } catch {
      return undefined
    }
  }
}

function readAccess(value: unknown): Pick<Grant, 'access' | 'catalog'> {
  if (!Array.isArray(value)) return { access: [], catalog: false }
  const all = value as { type: string; name: string; actions: Action[] }[]
  const repositories = all.filter(({ type }) => type === 'repository')
  return {
    access: repositories.map(({ name, actions }) => ({ name, actions })),
    catalog: all.some(({ type, name }) => type === CATALOG_ACCESS.type && name === CATALOG_ACCESS.name),
  }
}

/** Reads `repository:<name>:<action>,<action>`; undefined for other types, and for actions that nobody grants. */
export function parseScope(scope: string): { name: string; actions: Action[] } | undefined {
  const match = /^repository(?:\([^)]*\))?:(.+):([a-z*,]*)$/.exec(scope)
  if (!match) return undefined
  const wanted = new Set((match[2] ?? '').split(','))
  const actions = ACTIONS.filter((action) => wanted.has(action) || wanted.has('*'))
  return { name: match[1] ?? '', actions }
}

async function importKey(jwk: JWK): Promise<CryptoKey> {
  const key = await importJWK(jwk, ALGORITHM)
  if (key instanceof Uint8Array) throw new TypeError('the signing key must be an elliptic curve key')
  return key
}

interface KeyPair {
  privateKey: CryptoKey
  publicKey: CryptoKey
}

async function importPair({ d, ...publicJwk }: JWK): Promise<KeyPair> {
  const [privateKey, publicKey] = await Promise.all([
    importKey({ ...publicJwk, ...(d !== undefined && { d }) }),
    importKey(publicJwk),
  ])
  return { privateKey, publicKey }
}

/** The keys of a file; undefined when there is none yet. @throws SigningKeyError */
export async function readSigningKey(path: string): Promise<KeyPair | undefined> {
  try {
    return await importPair(JSON.parse(await readFile(path, 'utf8')) as JWK)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw new SigningKeyError(`the signing key ${path} cannot be read: remove it to get a new one`, { cause: error })
  }
}

/** Of registries that make one at the same time, one is first: the others take what it made. */
async function makeKey(path: string): Promise<KeyPair> {
  const { privateKey } = await generateKeyPair(ALGORITHM, { extractable: true })
  const jwk = await exportJWK(privateKey)
  await mkdir(dirname(path), { recursive: true })
  const temporary = `${path}.${randomUUID()}`
  {
    await using file = await open(temporary, 'wx', 0o600)
    await file.writeFile(JSON.stringify(jwk))
    await file.sync()
  }
  try {
    await link(temporary, path)
    return await importPair(jwk)
  } catch (error) {
    const made = isExisting(error) ? await readSigningKey(path) : undefined
    if (made === undefined) throw error
    return made
  } finally {
    await rm(temporary)
  }
}

function isExisting(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EEXIST'
}
