// Talks to the admin API of an agent: its status, and pulls whose progress comes as one JSON object a line.
import { ApiClient, type ApiNames, type ApiOptions } from './api-client.ts'
import { CommandError } from './exit-codes.ts'

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
const ANSWER_TIMEOUT_MS = 60_000
/** The agent gives up on a blob without progress long before. */
const SILENCE_TIMEOUT_MS = 300_000

const AGENT: ApiNames = { who: 'agent', option: '--admin or SHOAL_ADMIN_URL', example: 'http://127.0.0.1:7703' }

export interface PullOptions {
  /** `os/arch[/variant]` @default that of the agent's machine */
  platform?: string
  /** Whether the image stays whatever the quota says. @default false */
  pin?: boolean
}

export interface PinStatus {
  image: string
  digest: string
  digests: string[]
  pinnedMs: number
}

/** Where the admin API is and how it is entered. */
export interface AdminOptions extends ApiOptions {
  admin: string
}

export class AdminClient {
  readonly #api: ApiClient

  /** @throws UsageError for what is no http URL */
  constructor(options: AdminOptions) {
    this.#api = new ApiClient(options.admin, AGENT, options)
  }

  /** @throws CommandError when the agent does not answer as it should */
  async status(): Promise<AgentStatus> {
    const keys = ['store', 'trackers', 'downloads']
    return (await this.#api.json('api/v1/status', { method: 'GET' }, keys)) as AgentStatus
  }

  /** @throws CommandError with the reason when the agent is not ready, or does not answer */
  async ready(): Promise<void> {
    await this.#api.json('readyz', { method: 'GET' })
  }

  /** Images that are never evicted. @throws CommandError */
  async pins(): Promise<PinStatus[]> {
    return ((await this.#api.json('api/v1/pins', { method: 'GET' }, ['pins'])) as { pins: PinStatus[] }).pins
  }

  /** False when it was not pinned. @throws CommandError */
  async unpin(image: string): Promise<boolean> {
    const path = `api/v1/pins?image=${encodeURIComponent(image)}`
    return ((await this.#api.json(path, { method: 'DELETE' }, ['unpinned'])) as { unpinned: boolean }).unpinned
  }

  /** Starts a pull and gives its events as they come. @throws CommandError when the agent refuses or goes away */
  async *pull(image: string, options: PullOptions, signal: AbortSignal): AsyncGenerator<PullEvent> {
    const answer = await this.#api.open('api/v1/pulls', {
      method: 'POST',
      body: { image, ...options },
      timeoutMs: ANSWER_TIMEOUT_MS,
      silenceMs: SILENCE_TIMEOUT_MS,
      signal,
    })
    let rest = ''
    try {
      for await (const part of answer.body.setEncoding('utf8')) {
        const lines = (rest + (part as string)).split('\n')
        rest = lines.pop() ?? ''
        if (rest.length > MAX_LINE_CHARACTERS) throw new CommandError('a line of the answer is too long')
        for (const line of lines) if (line.trim() !== '') yield this.#api.parse(line) as PullEvent
      }
    } catch (error) {
      if (error instanceof CommandError || signal.aborted) throw error
      throw new CommandError(`the agent broke off: ${error instanceof Error ? error.message : String(error)}`)
    }
    if (rest.trim() !== '') yield this.#api.parse(rest) as PullEvent
  }
}
