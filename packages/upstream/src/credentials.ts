// Which login is used at a registry: the client's own, the configured one, docker's, or none.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import { askCredentialHelper } from './credential-helper.ts'
import { DockerConfig, type Credential } from './docker-config.ts'
import type { RegistrySettings } from './options.ts'

/** The user name with which helpers mark that the secret is a refresh token. */
const TOKEN_USER = '<token>'
const MAX_HELPER_ANSWERS = 1000
/** A helper that failed, or did not answer, is not run again for so long: each request would wait for it. */
const HELPER_FAILURE_MEMORY_MS = 30_000

export interface CredentialSources {
  dockerConfigFile: string | undefined
  helperTimeoutMs: number
  cacheMs: number
  logger: Logger | undefined
}

export class Credentials {
  readonly #dockerConfig: DockerConfig | undefined
  readonly #helperTimeoutMs: number
  readonly #logger: Logger | undefined
  /** Helpers are slow programs: their answers are kept, and who comes meanwhile waits for the same run. */
  readonly #helperAnswers: LRUCache<string, Promise<Credential | undefined>>

  constructor(sources: CredentialSources) {
    this.#dockerConfig = sources.dockerConfigFile === undefined ? undefined : new DockerConfig(sources.dockerConfigFile)
    this.#helperTimeoutMs = sources.helperTimeoutMs
    this.#logger = sources.logger
    this.#helperAnswers = new LRUCache({ ...entryLimit(MAX_HELPER_ANSWERS), ttl: Math.max(1, sources.cacheMs) })
  }

  /** The configured login; undefined is anonymous. A source that fails is logged and counts as empty. */
  async find(settings: RegistrySettings, repository: string): Promise<Credential | undefined> {
    if (settings.identityToken !== undefined) return { identityToken: settings.identityToken }
    try {
      if (settings.username !== undefined) {
        return { username: settings.username, password: await configuredPassword(settings) }
      }
      const entry = await this.#dockerConfig?.find(settings.credentialHost, repository)
      if (entry === undefined) return undefined
      if (entry.kind === 'credential') return entry.credential
      return await this.#fromHelper(entry.helper, entry.server)
    } catch (error) {
      const reason = error instanceof Error ? error.message : 'unknown error'
      this.#logger?.warn({ registry: settings.registry, reason }, 'no credentials for the registry, going on without')
      return undefined
    }
  }

  /** Forgets what helpers said, after a registry has refused it. */
  forgetHelperAnswers(): void {
    this.#helperAnswers.clear()
  }

  #fromHelper(helper: string, server: string): Promise<Credential | undefined> {
    const key = `${helper} ${server}`
    const known = this.#helperAnswers.get(key)
    if (known !== undefined) return known
    const asked = askCredentialHelper(helper, server, this.#helperTimeoutMs).then((answer) => {
      if (answer === undefined) return undefined
      return answer.username === TOKEN_USER
        ? { identityToken: answer.secret }
        : { username: answer.username, password: answer.secret }
    })
    this.#helperAnswers.set(key, asked)
    asked.catch(() => {
      if (this.#helperAnswers.peek(key) !== asked) return
      this.#helperAnswers.set(key, Promise.resolve(undefined), { ttl: HELPER_FAILURE_MEMORY_MS })
    })
    return asked
  }
}

async function configuredPassword(settings: RegistrySettings): Promise<string> {
  if (settings.passwordFile === undefined) return settings.password ?? ''
  try {
    return (await readFile(settings.passwordFile, 'utf8')).split(/\r?\n/, 1)[0] ?? ''
  } catch (cause) {
    throw new Error(`cannot read passwordFile ${settings.passwordFile}`, { cause })
  }
}

/** The header of a name and password; undefined for a refresh token, which only token services understand. */
export function basicAuthorization(credential: Credential): string | undefined {
  if (!('username' in credential)) return undefined
  return `Basic ${Buffer.from(`${credential.username}:${credential.password}`).toString('base64')}`
}

/** The login in a client's `Authorization: Basic`; undefined for other schemes. */
export function parseBasicAuthorization(header: string): Credential | undefined {
  const encoded = /^basic +([A-Za-z0-9+/=_-]+) *$/i.exec(header)?.[1]
  if (encoded === undefined) return undefined
  const plain = Buffer.from(encoded, 'base64').toString('utf8')
  const colon = plain.indexOf(':')
  return colon === -1 ? undefined : { username: plain.slice(0, colon), password: plain.slice(colon + 1) }
}

/** A name for a login that tells nothing about it, to keep tokens of different users apart. */
export function credentialKey(credential: Credential | undefined): string {
  if (credential === undefined) return 'anonymous'
  const parts =
    'username' in credential ? [credential.username, credential.password] : ['token', '', credential.identityToken]
  return createHash('sha256').update(JSON.stringify(parts)).digest('base64url')
}
