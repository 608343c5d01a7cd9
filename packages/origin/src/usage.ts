// How much each place and each repository takes, counted from the storage itself, so that no counter can drift.
import { digestHex } from '@shoal/oci'
import type { Logger } from 'pino'
import { Gauge, type Registry } from 'prom-client'
import { chunkFolder, contentFolder, digestOfFileName, linkOf, repositoriesFolder, uploadsFolder } from './layout.ts'
import type { Place, Places } from './places.ts'
import type { Counting, CountObserver } from './quotas.ts'

export interface RepositoryUsage {
  repository: string
  place: string
  /** Of all its blobs and manifests. What it shares with others counts in each. */
  bytes: number
}

export interface PlaceUsage {
  place: string
  kind: Place['kind']
  /** Of everything stored there, each content once, and of uploads under way. */
  bytes: number
  blobs: number
}

export interface UsageReport {
  /** When it was counted, in ms since the epoch. */
  countedMs: number
  places: PlaceUsage[]
  /** In the order of their names. */
  repositories: RepositoryUsage[]
}

/** A report that is asked for is not older than this. */
const FRESH_MS = 10_000

export interface UsageOptions {
  places: Places
  logger: Logger
  metrics: Registry
  /** How often the metric is brought up to date, in ms. */
  everyMs: number
}

export class Usage implements Counting {
  readonly #places: Places
  readonly #log: Logger
  readonly #timer: NodeJS.Timeout
  readonly #gauge: Gauge<'place'>
  readonly #closing = new AbortController()
  readonly #observers: CountObserver[] = []
  #last: UsageReport | undefined
  #counting: Promise<UsageReport> | undefined

  constructor({ places, logger, metrics, everyMs }: UsageOptions) {
    this.#places = places
    this.#log = logger
    this.#gauge = new Gauge({
      name: 'shoal_registry_storage_bytes',
      help: 'Bytes stored in each place, each content once, uploads under way included.',
      labelNames: ['place'],
      registers: [metrics],
    })
    this.#timer = setInterval(() => this.#refresh(), everyMs)
    this.#timer.unref()
    this.#refresh()
  }

  observe(observer: CountObserver): void {
    this.#observers.push(observer)
  }

  /** @param nowMs - milliseconds since the epoch */
  async report(nowMs = Date.now()): Promise<UsageReport> {
    if (this.#last && nowMs - this.#last.countedMs < FRESH_MS) return this.#last
    return this.#count()
  }

  async close(): Promise<void> {
    clearInterval(this.#timer)
    this.#closing.abort(new Error('the registry is closing'))
    await this.#counting?.catch(() => undefined)
  }

  #refresh(): void {
    this.#count().catch((error: unknown) => {
      if (!this.#closing.signal.aborted) this.#log.warn({ err: error }, 'could not count what is stored')
    })
  }

  /** One count at a time, however many ask. */
  #count(): Promise<UsageReport> {
    this.#counting ??= this.#countAll().finally(() => (this.#counting = undefined))
    return this.#counting
  }

  async #countAll(): Promise<UsageReport> {
    const report: UsageReport = { countedMs: Date.now(), places: [], repositories: [] }
    for (const observer of this.#observers) observer.countBegins()
    for (const place of this.#places.all) {
      const { usage, repositories } = await countPlace(place, this.#closing.signal)
      report.places.push(usage)
      const misplaced = repositories.filter(({ repository }) => this.#places.of(repository) !== place)
      report.repositories.push(...repositories.filter((one) => !misplaced.includes(one)))
      if (misplaced.length > 0 && !this.#last) {
        const examples = misplaced.slice(0, 5).map(({ repository }) => repository)
        this.#log.warn(
          { place: place.name, repositories: misplaced.length, examples },
          'repositories lie in a place that the rules no longer put them in, and cannot be seen: copy them over',
        )
      }
      this.#gauge.set({ place: place.name }, usage.bytes)
    }
    report.repositories.sort((a, b) => (a.repository < b.repository ? -1 : 1))
    for (const observer of this.#observers) observer.counted(report)
    return (this.#last = report)
  }
}

async function countPlace(
  { name: place, kind, driver }: Place,
  signal: AbortSignal,
): Promise<{ usage: PlaceUsage; repositories: RepositoryUsage[] }> {
  const usage: PlaceUsage = { place, kind, bytes: 0, blobs: 0 }
  const sizes = new Map<string, number>()
  for await (const { path, sizeBytes } of driver.walk(contentFolder())) {
    signal.throwIfAborted()
    const digest = digestOfFileName(path.slice(path.lastIndexOf('/') + 1))
    if (digest !== undefined) sizes.set(digestHex(digest), sizeBytes)
    usage.bytes += sizeBytes
    usage.blobs++
  }
  for (const folder of [chunkFolder(), uploadsFolder()]) {
    for await (const { sizeBytes } of driver.walk(folder)) usage.bytes += sizeBytes
  }
  const bytes = new Map<string, number>()
  for await (const { path, sizeBytes } of driver.walk(repositoriesFolder())) {
    signal.throwIfAborted()
    usage.bytes += sizeBytes
    const link = linkOf(path)
    if (!link) continue
    bytes.set(link.repository, (bytes.get(link.repository) ?? 0) + (sizes.get(digestHex(link.digest)) ?? 0))
  }
  const repositories = [...bytes].map(([repository, sum]) => ({ repository, place, bytes: sum }))
  return { usage, repositories }
}
