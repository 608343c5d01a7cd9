// Who may use an HTTP API of a daemon: bearer tokens from a file, TLS with client certificates, and the rule that an
// address which other machines reach needs one of the two. The agent's admin API and the tracker's API share this.
import { createHash, timingSafeEqual } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import { BlockList, isIP } from 'node:net'
import { createSecureContext } from 'node:tls'
import { inspect } from 'node:util'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { STATUS_PAGE_PATH } from './status-page.ts'

/** A token, a certificate or a key cannot be used. The message says what to do. */
export class ApiAccessError extends Error {
  override readonly name = 'ApiAccessError'
  readonly path: string

  constructor(path: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.path = path
  }
}

/** A guess at a shorter one could succeed. `head -c 32 /dev/urandom | base64` gives 44 characters. */
const MIN_TOKEN_CHARACTERS = 20
/** Of an RFC 6750 bearer token. */
const TOKEN_PATTERN = /^[A-Za-z0-9\-._~+/]+=*$/
/** A rotation needs two. */
const MAX_TOKENS = 16

const LOOPBACK = new BlockList()
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4')
LOOPBACK.addAddress('::1', 'ipv6')

/** Whether only processes of this machine reach what listens there. A name other than localhost may be anything. */
export function isLoopbackHost(host: string): boolean {
  const address = host.replace(/^\[(.*)\]$/, '$1').toLowerCase()
  if (address === 'localhost') return true
  const family = isIP(address)
  // The list takes ::ffff:127.0.0.1 for what it is.
  return family !== 0 && LOOPBACK.check(address, family === 4 ? 'ipv4' : 'ipv6')
}

/** The tokens that an API accepts. */
export class ApiTokens {
  readonly #hashes: Buffer[]
  readonly #first: string

  /** @param tokens at least one; clients send the first */
  constructor(tokens: readonly [string, ...string[]]) {
    this.#first = tokens[0]
    this.#hashes = tokens.map(hash)
  }

  /** What a client of this API sends as `Authorization`. */
  get authorization(): string {
    return `Bearer ${this.#first}`
  }

  /** Whether an `Authorization` header holds one of the tokens. The time it takes tells nothing about them. */
  accepts(authorization: string | undefined): boolean {
    const given = hash(/^bearer (.*)$/i.exec(authorization ?? '')?.[1]?.trim() ?? '')
    let accepted = false
    for (const known of this.#hashes) accepted = timingSafeEqual(known, given) || accepted
    return accepted
  }

  /** The same for a browser, which asks a person: the token is the password, whatever the user is called. */
  acceptsPassword(authorization: string | undefined): boolean {
    const pair = Buffer.from(/^basic (.*)$/i.exec(authorization ?? '')?.[1] ?? '', 'base64').toString()
    return this.accepts(`Bearer ${pair.slice(pair.indexOf(':') + 1)}`)
  }

  /** Keeps tokens out of logs. */
  toJSON(): string {
    return `[${this.#hashes.length} tokens]`
  }

  [inspect.custom](): string {
    return this.toJSON()
  }
}

function hash(token: string): Buffer {
  return createHash('sha256').update(token).digest()
}

/**
 * Reads a file of tokens: one a line, all of them accepted, so that one is replaced without an outage. Empty lines and
 * lines that begin with `#` are left out.
 *
 * A file that everybody may read, or that others may write, is refused; its group may read it, because Kubernetes mounts
 * secrets that way.
 *
 * @throws ApiAccessError
 */
export async function loadApiTokens(path: string): Promise<ApiTokens> {
  const text = await readSecret(path, 'token file')
  const lines = text.split('\n').map((line) => line.trim())
  const [first, ...others] = lines.filter((line) => line !== '' && !line.startsWith('#'))
  if (first === undefined || others.length >= MAX_TOKENS) {
    throw new ApiAccessError(path, `The token file ${path} must hold one to ${MAX_TOKENS} tokens, one a line`)
  }
  for (const token of [first, ...others]) {
    if (token.length < MIN_TOKEN_CHARACTERS || !TOKEN_PATTERN.test(token)) {
      throw new ApiAccessError(
        path,
        `A token in ${path} is too short or has characters that a header cannot carry: ` +
          `make one of at least ${MIN_TOKEN_CHARACTERS} with "head -c 32 /dev/urandom | base64"`,
      )
    }
  }
  return new ApiTokens([first, ...others])
}

export interface ServerTlsFiles {
  certFile: string
  keyFile: string
  /** Authorities of the clients: with it, who shows no certificate of theirs is refused in the handshake. */
  clientCaFile?: string | undefined
}

/** Options for an HTTPS server. */
export interface ServerTls {
  cert: string | Buffer
  key: string | Buffer
  ca?: string | Buffer
  requestCert?: boolean
  rejectUnauthorized?: boolean
}

/** @throws ApiAccessError for a file that cannot be read, a key that others may read, or a pair that does not fit */
export async function loadServerTls(files: ServerTlsFiles): Promise<ServerTls> {
  const [cert, key, ca] = await Promise.all([
    readText(files.certFile, 'certificate file'),
    readSecret(files.keyFile, 'key file'),
    files.clientCaFile === undefined ? undefined : readText(files.clientCaFile, 'file of client authorities'),
  ])
  checkPair(cert, key, files)
  return ca === undefined ? { cert, key } : { cert, key, ca, requestCert: true, rejectUnauthorized: true }
}

/** @throws ApiAccessError when no server could use the two together */
export function checkPair(cert: string | Buffer, key: string | Buffer, { certFile, keyFile }: ServerTlsFiles): void {
  try {
    createSecureContext({ cert, key })
  } catch (cause) {
    const why = (cause as Error).message
    throw new ApiAccessError(certFile, `The certificate ${certFile} and the key ${keyFile} do not work: ${why}`, {
      cause,
    })
  }
}

async function readText(path: string, what: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    throw new ApiAccessError(path, `The ${what} ${path} cannot be read: ${(error as Error).message}`, { cause: error })
  }
}

async function readSecret(path: string, what: string): Promise<string> {
  const text = await readText(path, what)
  const { mode } = await stat(path)
  if ((mode & 0o037) === 0) return text
  const shown = (mode & 0o777).toString(8)
  throw new ApiAccessError(
    path,
    `The ${what} ${path} has mode ${shown}: others may read or change it. Run "chmod 600 ${path}".`,
  )
}

export interface ApiProtection {
  tokens: ApiTokens | undefined
  /** What needs a token: all of `/api/`, what changes something, or nothing. */
  needsToken: 'all' | 'changes' | 'nothing'
  /** Told where a token is needed and none is configured. */
  advice: string
}

/**
 * Asks for a token below `/api/` and for the status page. Health, readiness and metrics are for probes, which have none. To be
 * called before routes are added.
 */
export function protectApi(server: FastifyInstance, { tokens, needsToken, advice }: ApiProtection): void {
  server.addHook('onRequest', async (request, reply) => {
    const { url = '' } = request.routeOptions
    const isPage = url === STATUS_PAGE_PATH
    if (needsToken === 'nothing' || (!isPage && !url.startsWith('/api/'))) return
    const isRead = request.method === 'GET' || request.method === 'HEAD'
    if (isRead && needsToken === 'changes') return
    if (tokens === undefined) return await refuse(request, reply, 403, advice)
    const { authorization } = request.headers
    if (tokens.accepts(authorization) || (isPage && tokens.acceptsPassword(authorization))) return
    reply.header('www-authenticate', `${isPage ? 'Basic' : 'Bearer'} realm="shoal"`)
    await refuse(request, reply, 401, 'this needs a token: send "Authorization: Bearer <token>" (shoal: --token-file)')
  })
}

async function refuse(request: FastifyRequest, reply: FastifyReply, status: 401 | 403, message: string): Promise<void> {
  request.log.info({ method: request.method, url: request.routeOptions.url, remote: request.ip, status }, 'refused')
  await reply.code(status).send({ statusCode: status, error: status === 401 ? 'Unauthorized' : 'Forbidden', message })
}
