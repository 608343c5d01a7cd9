// One endpoint that events are sent to, one after the other.
import { readFile } from 'node:fs/promises'
import type { Logger } from 'pino'
import type { Counter, Gauge } from 'prom-client'
import { Outbox } from '../outbox/outbox.ts'
import type { DiskQueue } from '../outbox/queue.ts'
import { EVENTS_TYPE, type RegistryEvent } from './event.ts'

/** How long an endpoint may take to answer. */
const ANSWER_MS = 10_000

export interface EndpointSettings {
  /** Where events are posted. */
  url: string
  /** Headers that are sent along, one `Name: value` a line; read for every event, so it may change. */
  headersFile?: string
}

export interface EndpointOptions {
  logger: Logger
  outcomes: Counter<'endpoint' | 'outcome'>
  pending: Gauge<'endpoint'>
  retryMs: number
  maxPending: number
}

export class Endpoint {
  readonly #settings: EndpointSettings
  readonly #options: EndpointOptions
  /** Without the query, which may hold a secret. */
  readonly #label: string
  #isFull = false
  #outbox: Outbox<RegistryEvent> | undefined

  private constructor(settings: EndpointSettings, options: EndpointOptions) {
    this.#settings = settings
    this.#options = options
    const { origin, pathname } = new URL(settings.url)
    this.#label = `${origin}${pathname}`
  }

  static async open(
    settings: EndpointSettings,
    queue: DiskQueue<RegistryEvent>,
    options: EndpointOptions,
  ): Promise<Endpoint> {
    const endpoint = new Endpoint(settings, options)
    endpoint.#outbox = await Outbox.open({
      queue,
      deliver: (event, signal) => endpoint.#post(event, signal),
      queuedMs: ({ timestamp }) => Date.parse(timestamp),
      retryMs: options.retryMs,
      maxPending: options.maxPending,
      observer: {
        pending: (count) => options.pending.set({ endpoint: endpoint.#label }, count),
        delivered: () => {
          endpoint.#isFull = false
          endpoint.#count('sent')
        },
        failed: (_event, error, tries) => endpoint.#failed(error, tries),
        dropped: (_event, reason) => endpoint.#dropped(reason),
      },
    })
    return endpoint
  }

  /** When too many events wait, this one is dropped. */
  async send(event: RegistryEvent): Promise<void> {
    await this.#outbox?.send(event)
  }

  async close(): Promise<void> {
    await this.#outbox?.close()
  }

  async #post(event: RegistryEvent, signal: AbortSignal): Promise<void> {
    const { url, headersFile } = this.#settings
    const headers = headersFile === undefined ? [] : parseHeaders(await readFile(headersFile, 'utf8'))
    const response = await fetch(url, {
      method: 'POST',
      headers: [...headers, ['content-type', EVENTS_TYPE]],
      body: JSON.stringify({ events: [event] }),
      redirect: 'manual',
      signal: AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]),
    })
    await response.body?.cancel()
    if (!response.ok) throw new Error(`the endpoint answered ${response.status}`)
  }

  #failed(error: unknown, tries: number): void {
    this.#count('failed')
    if (tries === 1) this.#warn('an event could not be sent: it is tried again until the endpoint takes it', error)
  }

  #dropped(reason: 'full' | Error): void {
    this.#count('dropped')
    if (reason !== 'full') this.#warn('an event could not be written and is lost', reason)
    else if (!this.#isFull) this.#warn('too many events wait for an endpoint: new ones are dropped')
    this.#isFull ||= reason === 'full'
  }

  #count(outcome: 'sent' | 'failed' | 'dropped'): void {
    this.#options.outcomes.inc({ endpoint: this.#label, outcome })
  }

  #warn(message: string, error?: unknown): void {
    this.#options.logger.warn({ endpoint: this.#label, ...(error === undefined ? {} : { err: error }) }, message)
  }
}

/** Empty lines and lines that begin with # are left out. @throws TypeError, without the line: it may be a secret */
export function parseHeaders(text: string): [string, string][] {
  return text.split('\n').flatMap((line, at) => {
    if (line.trim() === '' || line.startsWith('#')) return []
    const match = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*?)[ \t\r]*$/.exec(line)
    if (!match) throw new TypeError(`line ${at + 1} of the file of headers is not "Name: value"`)
    return [[match[1] ?? '', match[2] ?? '']]
  })
}
