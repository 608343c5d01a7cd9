// docker's config.json: logins by registry, and the helpers that know the others. podman's auth.json has the same
// form, with keys that may go down to a repository.
import { readFile, stat } from 'node:fs/promises'
import { isHelperName } from './credential-helper.ts'

/** How to log in: a name and password, or a refresh token for the registry's token service. */
export type Credential = { username: string; password: string } | { identityToken: string }

/** What the file says of a registry. */
export type ConfigEntry =
  { kind: 'credential'; credential: Credential } | { kind: 'helper'; helper: string; server: string }

/** docker.io has been under this key since before there were others. */
const DOCKER_HUB_KEY = 'https://index.docker.io/v1/'
const MAX_FILE_BYTES = 4 * 1024 * 1024

/** The file cannot be used; the message names it and has none of its content. */
export class DockerConfigError extends Error {
  override readonly name = 'DockerConfigError'
}

interface ParsedConfig {
  /** By host and optional path. */
  logins: Map<string, Credential>
  helpers: Map<string, string>
  defaultHelper: string | undefined
}

/** A docker config that is read again when the file has changed. */
export class DockerConfig {
  readonly #file: string
  #loaded: { stamp: string; config: ParsedConfig } | undefined

  constructor(file: string) {
    this.#file = file
  }

  /**
   * What there is for a repository at a registry; the most specific key counts.
   * @throws DockerConfigError
   */
  async find(host: string, repository: string): Promise<ConfigEntry | undefined> {
    const config = await this.#load()
    const segments = repository === '' ? [] : repository.split('/')
    const server = host === 'docker.io' ? DOCKER_HUB_KEY : host
    const helper = config.helpers.get(host)
    if (helper !== undefined) return { kind: 'helper', helper, server }
    for (let count = segments.length; count >= 0; count--) {
      const credential = config.logins.get([host, ...segments.slice(0, count)].join('/'))
      if (credential !== undefined) return { kind: 'credential', credential }
    }
    return config.defaultHelper === undefined ? undefined : { kind: 'helper', helper: config.defaultHelper, server }
  }

  async #load(): Promise<ParsedConfig> {
    try {
      const { mtimeMs, size, ino } = await stat(this.#file)
      const stamp = `${mtimeMs} ${size} ${ino}`
      if (this.#loaded?.stamp === stamp) return this.#loaded.config
      if (size > MAX_FILE_BYTES) throw new DockerConfigError(`${this.#file} is larger than ${MAX_FILE_BYTES} bytes`)
      const config = parseDockerConfig(await readFile(this.#file, 'utf8'), this.#file)
      this.#loaded = { stamp, config }
      return config
    } catch (error) {
      if (error instanceof DockerConfigError) throw error
      const { code } = error as NodeJS.ErrnoException
      throw new DockerConfigError(`cannot read the docker config ${this.#file} (${code ?? 'unknown error'})`)
    }
  }
}

export function parseDockerConfig(text: string, file: string): ParsedConfig {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {
    // The parser's own message would quote the file.
    throw new DockerConfigError(`the docker config ${file} is not valid JSON`)
  }
  const fields = asFields(json)
  const helpers = new Map<string, string>()
  for (const [key, helper] of Object.entries(asFields(fields['credHelpers']))) {
    if (isHelperName(helper)) helpers.set(normalKey(key), helper)
  }
  const logins = new Map<string, Credential>()
  for (const [key, entry] of Object.entries(asFields(fields['auths']))) {
    const credential = parseLogin(asFields(entry))
    if (credential !== undefined) logins.set(normalKey(key), credential)
  }
  const store = fields['credsStore']
  return { logins, helpers, defaultHelper: isHelperName(store) ? store : undefined }
}

function parseLogin(entry: Record<string, unknown>): Credential | undefined {
  const { identitytoken, auth, username, password } = entry
  if (typeof identitytoken === 'string' && identitytoken !== '') return { identityToken: identitytoken }
  if (typeof auth === 'string' && auth !== '') {
    const plain = Buffer.from(auth, 'base64').toString('utf8')
    const colon = plain.indexOf(':')
    // Some writers pad with NUL.
    if (colon > 0) {
      return { username: plain.slice(0, colon), password: plain.slice(colon + 1).replace(/\0+$/, '') }
    }
  }
  if (typeof username === 'string' && username !== '' && typeof password === 'string') return { username, password }
  return undefined
}

/** `https://ghcr.io/v2/` and `ghcr.io` mean the same, and so do all names of Docker Hub. */
function normalKey(key: string): string {
  const bare = key
    .replace(/^https?:\/\//, '')
    .replace(/\/v[12]\/?$/, '')
    .replace(/\/+$/, '')
  const slash = bare.indexOf('/')
  const host = (slash === -1 ? bare : bare.slice(0, slash)).toLowerCase()
  const name = host === 'index.docker.io' || host === 'registry-1.docker.io' ? 'docker.io' : host
  return slash === -1 ? name : name + bare.slice(slash)
}

function asFields(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
}
