// Requests to the HTTP API of an agent or a tracker: with a token and certificates where they ask for them, and with
// messages that say what to do when one does not answer.
import { readFile } from 'node:fs/promises'
import { Agent, request, type Dispatcher } from 'undici'
import { CommandError, UsageError } from './exit-codes.ts'

/** Where an API is and how it is entered: the options that all commands that talk to one share. */
export interface ApiOptions {
  /** File with the token, if the API asks for one. */
  tokenFile?: string
  /** PEM file with the authority that signed the API's certificate. */
  tlsCa?: string
  /** PEM files to show to an API that asks for a client certificate. */
  tlsCert?: string
  tlsKey?: string
}

/** Which API is meant, for messages. */
export interface ApiNames {
  /** `agent` */
  who: string
  /** `--admin or SHOAL_ADMIN_URL` */
  option: string
  /** `http://127.0.0.1:7703` */
  example: string
}

export type ApiRequest = Pick<Dispatcher.RequestOptions, 'method'> & {
  body?: unknown
  signal?: AbortSignal
  /** @default 10000 */
  timeoutMs?: number
  /** Longest silence within the answer. @default timeoutMs */
  silenceMs?: number
}

const MAX_ANSWER_CHARACTERS = 16 * 1024 * 1024
const ANSWER_TIMEOUT_MS = 10_000
/** Nobody is there, or nobody who answers. */
const SILENCE = /^(?:ECONNREFUSED|ETIMEDOUT|UND_ERR_CONNECT_TIMEOUT|UND_ERR_HEADERS_TIMEOUT)$/
/** What comes of HTTP to a TLS port, of TLS to one without, and often of a client certificate that is not shown. */
const MISUNDERSTANDING =
  /^(?:UND_ERR_SOCKET|ECONNRESET|EPIPE|HPE_\w+|ERR_SSL_(?:WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG))$/
const NO_WAY = /^(?:ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH)$/
/** What to do when TLS fails, to be put behind what has failed. */
export const CERTIFICATES = '; --tls-ca says who signed its certificate, --tls-cert and --tls-key what to show to it'

export class ApiClient {
  readonly #base: URL
  readonly #names: ApiNames
  readonly #options: ApiOptions
  #entry: Promise<{ dispatcher?: Dispatcher; headers: Record<string, string> }> | undefined

  /** @throws UsageError for what is no http URL */
  constructor(base: string, names: ApiNames, options: ApiOptions) {
    if (!URL.canParse(base) || !/^https?:$/.test(new URL(base).protocol)) {
      throw new UsageError(
        `${JSON.stringify(base)} is no URL of ${names.who === 'agent' ? 'an admin API' : 'a tracker'}: ` +
          `write it as ${names.example}`,
      )
    }
    this.#base = new URL(base.endsWith('/') ? base : `${base}/`)
    this.#names = names
    this.#options = options
  }

  /** The whole answer, which is a JSON object with these keys. @throws CommandError when it is not as it should be */
  async json(path: string, options: ApiRequest, keys: string[] = []): Promise<unknown> {
    const answer = await this.open(path, options)
    let text = ''
    try {
      for await (const part of answer.body.setEncoding('utf8')) {
        text += part as string
        if (text.length > MAX_ANSWER_CHARACTERS)
          throw new CommandError(`the answer of the ${this.#names.who} is too large`)
      }
    } catch (error) {
      if (error instanceof CommandError || options.signal?.aborted) throw error
      throw new CommandError(`the ${this.#names.who} broke off: ${(error as Error).message}`)
    }
    const value = this.parse(text)
    // Other programs answer with JSON, too.
    if (keys.every((key) => value[key] !== undefined && value[key] !== null)) return value
    throw this.#stranger()
  }

  /** The answer as it begins. @throws CommandError for any status but 200 and 202 */
  async open(path: string, options: ApiRequest): Promise<Dispatcher.ResponseData> {
    const url = new URL(path, this.#base)
    const { method, body, signal, timeoutMs = ANSWER_TIMEOUT_MS, silenceMs = timeoutMs } = options
    this.#entry ??= this.#enter()
    const { dispatcher, headers } = await this.#entry
    let answer: Dispatcher.ResponseData
    try {
      answer = await request(url, {
        method,
        headersTimeout: timeoutMs,
        bodyTimeout: silenceMs,
        headers: { ...headers, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        ...(signal === undefined ? {} : { signal }),
        ...(dispatcher === undefined ? {} : { dispatcher }),
      })
    } catch (error) {
      if (signal?.aborted) throw error
      throw new CommandError(this.#withoutAnswer(error as NodeJS.ErrnoException), { cause: error })
    }
    if (answer.statusCode === 200 || answer.statusCode === 202) return answer
    const text = (await answer.body.text().catch(() => '')).slice(0, 2_000)
    throw new CommandError(
      `the ${this.#names.who} at ${this.#base.origin} answered ${answer.statusCode}: ${messageIn(text)}`,
    )
  }

  parse(text: string): Record<string, unknown> {
    try {
      const value: unknown = JSON.parse(text)
      if (typeof value === 'object' && value !== null) return value as Record<string, unknown>
    } catch {
      // Told below.
    }
    throw this.#stranger()
  }

  #withoutAnswer({ code = '', message }: NodeJS.ErrnoException): string {
    const { who, option } = this.#names
    const place = `${this.#base.origin} (${code || message})`
    const elsewhere = `Name another place with ${option}.`
    if (SILENCE.test(code)) return `no ${who} answers at ${place}: is "shoal ${who}" running? ${elsewhere}`
    if (NO_WAY.test(code)) return `the ${who} at ${place} cannot be reached. ${elsewhere}`
    if (MISUNDERSTANDING.test(code)) {
      const other = this.#base.protocol === 'https:' ? 'http://' : 'https://'
      const certificate = 'does it ask for a client certificate (--tls-cert, --tls-key)?'
      return `the ${who} at ${place} broke off: must it be ${other}, or ${certificate}`
    }
    return `the ${who} at ${place} cannot be talked to${this.#base.protocol === 'https:' ? CERTIFICATES : ''}`
  }

  #stranger(): CommandError {
    const { who, option, example } = this.#names
    return new CommandError(
      `the answer is not that of ${who === 'agent' ? 'an' : 'a'} ${who}: does ${option} name its port (${new URL(example).port})?`,
    )
  }

  async #enter(): Promise<{ dispatcher?: Dispatcher; headers: Record<string, string> }> {
    const { tokenFile, tlsCa, tlsCert, tlsKey } = this.#options
    const headers: Record<string, string> = {}
    if (tokenFile !== undefined) {
      const { loadApiTokens, ApiAccessError } = await import('@shoal/registry/access')
      const tokens = await loadApiTokens(tokenFile).catch((error: unknown) => {
        throw error instanceof ApiAccessError ? new UsageError(error.message) : error
      })
      headers['authorization'] = tokens.authorization
    }
    const dispatcher = await tlsDispatcher({ tlsCa, tlsCert, tlsKey })
    return { headers, ...(dispatcher === undefined ? {} : { dispatcher }) }
  }
}

type TlsFiles = { [Name in 'tlsCa' | 'tlsCert' | 'tlsKey']?: string | undefined }

/**
 * What connects with these files, undefined for none.
 * @throws UsageError for one that cannot be read, and for a certificate without its key
 */
export async function tlsDispatcher({ tlsCa, tlsCert, tlsKey }: TlsFiles): Promise<Dispatcher | undefined> {
  if (tlsCa === undefined && tlsCert === undefined && tlsKey === undefined) return undefined
  if ((tlsCert === undefined) !== (tlsKey === undefined)) {
    const [given, missing] = tlsKey === undefined ? ['--tls-cert', '--tls-key'] : ['--tls-key', '--tls-cert']
    throw new UsageError(`${given} is of no use without ${missing}: give both`)
  }
  const [ca, cert, key] = await Promise.all([tlsCa, tlsCert, tlsKey].map(readPem))
  return new Agent({ connect: { ...(ca && { ca }), ...(cert && { cert }), ...(key && { key }) } })
}

async function readPem(path: string | undefined): Promise<string | undefined> {
  if (path === undefined) return undefined
  return await readFile(path, 'utf8').catch((error: Error) => {
    throw new UsageError(`${path} cannot be read: ${error.message}`)
  })
}

/** The message of an OCI or Fastify error body, or the body itself. */
function messageIn(text: string): string {
  try {
    const body = JSON.parse(text) as { message?: unknown; errors?: { message?: unknown }[] }
    const message = body.errors?.[0]?.message ?? body.message
    if (typeof message === 'string') return message
  } catch {
    // Not JSON: shown as it is.
  }
  return text.trim() === '' ? 'no reason given' : text.trim()
}
