// Talks to the admin API of an agent: its status, and pulls whose progress comes as one JSON object a line.
import { request, type Dispatcher } from 'undici'
import { CommandError, UsageError } from './exit-codes.ts'

export interface TrackerStatus {
  address: string
  connected: boolean
  peerId?: string
}

export interface DownloadStatus {
  digest: string
  sizeBytes: number
  receivedBytes: number
  fromPeersBytes: number
  fromOriginBytes: number
  neighbours: number
  state: string
}

/** Answer of `GET /api/v1/status`. */
export interface AgentStatus {
  version: string
  peerId: string
  zone: string
  uptimeMs: number
  peersConnected: number
  routingTableSize: number
  trackers: TrackerStatus[]
  store: { storedBytes: number; quotaBytes: number; blobs: number; partialBlobs: number }
  downloads: DownloadStatus[]
}

export type PullEvent =
  | { event: 'manifest'; digest: string; mediaType: string; sizeBytes: number }
  | { event: 'layers'; layers: { digest: string; sizeBytes: number }[] }
  | {
      event: 'progress'
      digest: string
      receivedBytes: number
      sizeBytes: number
      fromPeersBytes: number
      fromOriginBytes: number
    }
  | { event: 'layer-done'; digest: string; source: string }
  | { event: 'done'; digest: string; durationMs: number }
  | { event: 'error'; code: string; message: string }

/** The `layers` event of the largest manifest (4 MiB) fits. */
const MAX_LINE_CHARACTERS = 8 * 1024 * 1024
const MAX_STATUS_BYTES = 16 * 1024 * 1024
const STATUS_TIMEOUT_MS = 10_000
const ANSWER_TIMEOUT_MS = 60_000
/** The agent gives up on a blob without progress long before. */
const SILENCE_TIMEOUT_MS = 300_000

export class AdminClient {
  readonly #base: URL

  /** @throws UsageError for what is no http URL */
  constructor(base: string) {
    if (!URL.canParse(base) || !/^https?:$/.test(new URL(base).protocol)) {
      throw new UsageError(`${JSON.stringify(base)} is no URL of an admin API: write it as http://127.0.0.1:7703`)
    }
    this.#base = new URL(base.endsWith('/') ? base : `${base}/`)
  }

  /** @throws CommandError when the agent does not answer as it should */
  async status(): Promise<AgentStatus> {
    const answer = await this.#request('api/v1/status', {
      method: 'GET',
      headersTimeout: STATUS_TIMEOUT_MS,
      bodyTimeout: STATUS_TIMEOUT_MS,
    })
    let text = ''
    for await (const part of answer.body.setEncoding('utf8')) {
      text += part as string
      if (text.length > MAX_STATUS_BYTES) throw new CommandError('the answer of the agent is too large')
    }
    return parse(text) as AgentStatus
  }

  /** Starts a pull and gives its events as they come. @throws CommandError when the agent refuses or goes away */
  async *pull(image: string, platform: string | undefined, signal: AbortSignal): AsyncGenerator<PullEvent> {
    const answer = await this.#request('api/v1/pulls', {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/x-ndjson' },
      body: JSON.stringify({ image, ...(platform !== undefined && { platform }) }),
      headersTimeout: ANSWER_TIMEOUT_MS,
      bodyTimeout: SILENCE_TIMEOUT_MS,
      signal,
    })
    let rest = ''
    try {
      for await (const part of answer.body.setEncoding('utf8')) {
        const lines = (rest + (part as string)).split('\n')
        rest = lines.pop() ?? ''
        if (rest.length > MAX_LINE_CHARACTERS) throw new CommandError('a line of the answer is too long')
        for (const line of lines) if (line.trim() !== '') yield parse(line) as PullEvent
      }
    } catch (error) {
      if (error instanceof CommandError || signal.aborted) throw error
      throw new CommandError(`the agent broke off: ${error instanceof Error ? error.message : String(error)}`)
    }
    if (rest.trim() !== '') yield parse(rest) as PullEvent
  }

  async #request(
    path: string,
    options: Omit<Dispatcher.RequestOptions, 'origin' | 'path'>,
  ): Promise<Dispatcher.ResponseData> {
    const url = new URL(path, this.#base)
    let answer: Dispatcher.ResponseData
    try {
      answer = await request(url, options)
    } catch (error) {
      if (options.signal instanceof AbortSignal && options.signal.aborted) throw error
      const { code, message } = error as NodeJS.ErrnoException
      throw new CommandError(
        `no agent answers at ${this.#base.origin} (${code ?? message}): is "shoal agent" running? ` +
          'Name another place with --admin or SHOAL_ADMIN_URL.',
      )
    }
    if (answer.statusCode === 200) return answer
    const text = (await answer.body.text().catch(() => '')).slice(0, 2_000)
    throw new CommandError(`the agent at ${this.#base.origin} answered ${answer.statusCode}: ${messageIn(text)}`)
  }
}

function parse(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null) return value
  } catch {
    // Told below.
  }
  throw new CommandError('the answer is not that of an agent: does --admin name the admin port (7703)?')
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
