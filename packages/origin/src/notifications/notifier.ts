// Tells other programs of pushes and deletes: each event goes into a queue on the disk and from there to its endpoint, in
// order and until the endpoint has taken it. A push never waits for any of this.
import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import type { Logger } from 'pino'
import { Counter, Gauge, type Registry } from 'prom-client'
import { repositoryPattern } from '../accounts/rules.ts'
import { Endpoint, type EndpointSettings } from './endpoint.ts'
import { eventsOf, type RepositoryChange } from './event.ts'
import { EventQueues } from './queue.ts'

export interface NotificationSettings extends EndpointSettings {
  /** Patterns of repository names. @default all repositories */
  repositories?: string[]
}

export interface NotifierOptions {
  endpoints: readonly NotificationSettings[]
  /** Folder of the queues; made when missing. Only one process may have it open. */
  folder: string
  /** `https://registry.example.com` for URLs in events. @default what the client calls the registry */
  publicUrl?: string | undefined
  logger: Logger
  metrics: Registry
  /** How long the first wait after a failure is, in ms; the next are longer. @default 1000 */
  retryMs?: number
  /** How many events may wait for an endpoint. @default 10000 */
  maxPending?: number
}

export class Notifier {
  readonly #queues: EventQueues
  readonly #endpoints: { endpoint: Endpoint; matches: (name: string) => boolean }[]
  readonly #publicUrl: string | undefined
  readonly #source = { addr: hostname(), instanceID: randomUUID() }

  private constructor(queues: EventQueues, options: NotifierOptions) {
    this.#queues = queues
    this.#publicUrl = options.publicUrl
    const outcomes = new Counter({
      name: 'shoal_registry_notifications_total',
      help: 'Tries to send an event by outcome, and events dropped because too many waited.',
      labelNames: ['endpoint', 'outcome'],
      registers: [options.metrics],
    })
    const pending = new Gauge({
      name: 'shoal_registry_notifications_pending',
      help: 'Events that wait for their endpoint to take them.',
      labelNames: ['endpoint'],
      registers: [options.metrics],
    })
    this.#endpoints = options.endpoints.map((settings) => {
      const patterns = (settings.repositories ?? ['**']).map(repositoryPattern)
      const endpoint = new Endpoint(settings, queues.of(settings.url), {
        logger: options.logger,
        outcomes,
        pending,
        retryMs: options.retryMs ?? 1_000,
        maxPending: options.maxPending ?? 10_000,
      })
      return { endpoint, matches: (name) => patterns.some((matches) => matches(name)) }
    })
  }

  /** Goes on with what waited when the registry stopped. @throws InvalidRuleError */
  static async open(options: NotifierOptions): Promise<Notifier> {
    const urls = options.endpoints.map(({ url }) => url)
    if (new Set(urls).size < urls.length) throw new TypeError('notifications: each url may be there once')
    const queues = await EventQueues.open(options.folder, urls)
    try {
      return new Notifier(queues, options)
    } catch (error) {
      await queues.close()
      throw error
    }
  }

  notify(change: RepositoryChange): void {
    const receivers = this.#endpoints.filter(({ matches }) => matches(change.name))
    if (receivers.length === 0) return
    for (const event of eventsOf(change, this.#source, this.#publicUrl)) {
      for (const { endpoint } of receivers) endpoint.send(event)
    }
  }

  /** Writes what has come; what was not sent is sent after the next start. */
  async close(): Promise<void> {
    await Promise.all(this.#endpoints.map(({ endpoint }) => endpoint.close()))
    await this.#queues.close()
  }
}
