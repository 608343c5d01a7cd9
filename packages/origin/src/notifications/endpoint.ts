// One endpoint that events are sent to, one after the other.
import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Counter, Gauge } from 'prom-client'
import { EVENTS_TYPE, type RegistryEvent } from './event.ts'
import type { EndpointQueue } from './queue.ts'

/** How long an endpoint may take to answer. */
const ANSWER_MS = 10_000
const LONGEST_RETRY_MS = 300_000

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
  readonly #queue: EndpointQueue
  readonly #options: EndpointOptions
  /** Without the query, which may hold a secret. */
  readonly #label: string
  readonly #closing = new AbortController()
  readonly #running: Promise<void>
  #pending: number
  #isFull = false
  /** Appends are one after the other: at most `maxPending` wait here. */
  #written: Promise<void> = Promise.resolve()
  #more = Promise.withResolvers<void>()

  constructor(settings: EndpointSettings, queue: EndpointQueue, options: EndpointOptions) {
    this.#settings = settings
    this.#queue = queue
    this.#options = options
    const { origin, pathname } = new URL(settings.url)
    this.#label = `${origin}${pathname}`
    this.#pending = queue.leftOver
    this.#count(0)
    this.#running = this.#run()
  }

  /** Returns at once. When too many events wait, this one is dropped. */
  send(event: RegistryEvent): void {
    if (this.#pending >= this.#options.maxPending) {
      if (!this.#isFull) this.#warn('too many events wait for an endpoint: new ones are dropped')
      this.#isFull = true
      this.#outcome('dropped')
      return
    }
    this.#count(1)
    this.#written = this.#written
      .then(() => this.#queue.append(event))
      .then(
        () => this.#more.resolve(),
        (error: unknown) => {
          this.#count(-1)
          this.#outcome('dropped')
          this.#warn('an event could not be written and is lost', error)
        },
      )
  }

  async close(): Promise<void> {
    await this.#written
    this.#closing.abort(new Error('the registry is closing'))
    this.#more.resolve()
    await this.#running
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing
    let failures = 0
    while (!signal.aborted) {
      this.#more = Promise.withResolvers()
      try {
        const first = await this.#queue.first()
        if (!first) {
          await this.#more.promise
          continue
        }
        await this.#post(first.event)
        // After a crash right here it is sent twice, with the same id.
        await this.#queue.remove(first.key)
        this.#count(-1)
        this.#isFull = false
        this.#outcome('sent')
        failures = 0
      } catch (error) {
        if (signal.aborted) return
        this.#outcome('failed')
        if (failures === 0)
          this.#warn('an event could not be sent: it is tried again until the endpoint takes it', error)
        const ceilingMs = Math.min(LONGEST_RETRY_MS, this.#options.retryMs * 2 ** Math.min(failures++, 30))
        await delay(ceilingMs * (0.5 + Math.random() / 2), undefined, { signal }).catch(() => undefined)
      }
    }
  }

  async #post(event: RegistryEvent): Promise<void> {
    const { url, headersFile } = this.#settings
    const headers = headersFile === undefined ? [] : parseHeaders(await readFile(headersFile, 'utf8'))
    const response = await fetch(url, {
      method: 'POST',
      headers: [...headers, ['content-type', EVENTS_TYPE]],
      body: JSON.stringify({ events: [event] }),
      redirect: 'manual',
      signal: AbortSignal.any([this.#closing.signal, AbortSignal.timeout(ANSWER_MS)]),
    })
    await response.body?.cancel()
    if (!response.ok) throw new Error(`the endpoint answered ${response.status}`)
  }

  #count(change: number): void {
    this.#pending += change
    this.#options.pending.set({ endpoint: this.#label }, this.#pending)
  }

  #outcome(outcome: 'sent' | 'failed' | 'dropped'): void {
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
