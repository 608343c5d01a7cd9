// Tells other programs of pushes and deletes: each event goes into a queue on the disk and from there to its endpoint, in
// order and until the endpoint has taken it. A push waits only until its event is written.
import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import { ConfigMistakeError } from '@shoal/oci'
import type { Logger } from 'pino'
import { Counter, Gauge, type Registry } from 'prom-client'
import { anyPattern } from '../accounts/rules.ts'
import { DiskQueues } from '../outbox/queue.ts'
import { Endpoint, type EndpointSettings } from './endpoint.ts'
import { eventsOf, type RegistryEvent, type RepositoryChange } from './event.ts'

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
  readonly #queues: DiskQueues<RegistryEvent>
  readonly #endpoints: { endpoint: Endpoint; matches: (name: string) => boolean }[] = []
  readonly #publicUrl: string | undefined
  readonly #source = { addr: hostname(), instanceID: randomUUID() }

  private constructor(queues: DiskQueues<RegistryEvent>, publicUrl: string | undefined) {
    this.#queues = queues
    this.#publicUrl = publicUrl
  }

  /** Goes on with what waited when the registry stopped. @throws InvalidRuleError */
  static async open(options: NotifierOptions): Promise<Notifier> {
    const urls = endpointUrls(options.endpoints)
    const queues = await DiskQueues.open<RegistryEvent>(options.folder, urls, options.logger)
    const notifier = new Notifier(queues, options.publicUrl)
    try {
      await notifier.#openEndpoints(options)
      return notifier
    } catch (error) {
      await notifier.close()
      throw error
    }
  }

  async #openEndpoints({ endpoints, logger, metrics, retryMs = 1_000, maxPending = 10_000 }: NotifierOptions) {
    const outcomes = new Counter({
      name: 'shoal_registry_notifications_total',
      help: 'Tries to send an event by outcome, and events dropped because too many waited.',
      labelNames: ['endpoint', 'outcome'],
      registers: [metrics],
    })
    const pending = new Gauge({
      name: 'shoal_registry_notifications_pending',
      help: 'Events that wait for their endpoint to take them.',
      labelNames: ['endpoint'],
      registers: [metrics],
    })
    for (const settings of endpoints) {
      const matches = anyPattern(settings.repositories)
      const options = { logger, outcomes, pending, retryMs, maxPending }
      const endpoint = await Endpoint.open(settings, this.#queues.of(settings.url), options)
      this.#endpoints.push({ endpoint, matches })
    }
  }

  /** Resolves when the events are written. */
  async notify(change: RepositoryChange): Promise<void> {
    const receivers = this.#endpoints.filter(({ matches }) => matches(change.name))
    if (receivers.length === 0) return
    const events = eventsOf(change, this.#source, this.#publicUrl)
    await Promise.all(events.flatMap((event) => receivers.map(({ endpoint }) => endpoint.send(event))))
  }

  /** Writes what has come; what was not sent is sent after the next start. */
  async close(): Promise<void> {
    await Promise.all(this.#endpoints.map(({ endpoint }) => endpoint.close()))
    await this.#queues.close()
  }
}

/** @throws ConfigMistakeError when two are the same */
export function endpointUrls(endpoints: readonly NotificationSettings[]): string[] {
  const urls = endpoints.map(({ url }) => url)
  if (new Set(urls).size < urls.length) throw new ConfigMistakeError('notifications', 'must not have a url twice')
  return urls
}
