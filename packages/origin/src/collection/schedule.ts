// Runs garbage collection every so often beside the requests, one at a time, and counts what it removes.
import type { Logger } from 'pino'
import { Counter, Gauge, type Registry } from 'prom-client'
import type { Places } from '../places.ts'
import { collectPlace } from './collector.ts'

export interface CollectionScheduleOptions {
  places: Places
  removeUntagged: boolean
  /** Between two beginnings, in ms; 0 never collects. */
  everyMs: number
  logger: Logger
  metrics: Registry
}

export class CollectionSchedule {
  readonly #options: CollectionScheduleOptions
  readonly #timer: NodeJS.Timeout | undefined
  readonly #closing = new AbortController()
  readonly #removed: Counter<'kind'>
  readonly #removedBytes: Counter
  readonly #runs: Counter<'outcome'>
  readonly #seconds: Gauge
  #running: Promise<void> | undefined

  constructor(options: CollectionScheduleOptions) {
    this.#options = options
    const registers = [options.metrics]
    this.#removed = new Counter({
      name: 'shoal_registry_collected_total',
      help: 'What garbage collection has removed: untagged manifests, links of repositories to blobs, contents.',
      labelNames: ['kind'],
      registers,
    })
    this.#removedBytes = new Counter({
      name: 'shoal_registry_collected_bytes_total',
      help: 'Bytes of the contents that garbage collection has removed.',
      registers,
    })
    this.#runs = new Counter({
      name: 'shoal_registry_collections_total',
      help: 'Runs of garbage collection by outcome.',
      labelNames: ['outcome'],
      registers,
    })
    this.#seconds = new Gauge({
      name: 'shoal_registry_collection_seconds',
      help: 'How long the last garbage collection took.',
      registers,
    })
    if (options.everyMs === 0) return
    this.#timer = setInterval(() => {
      this.run().catch((error: unknown) => options.logger.error({ err: error }, 'garbage collection broke off'))
    }, options.everyMs)
    this.#timer.unref()
  }

  /** Collects now, or waits for the run that is under way. A failure is logged and counted. */
  run(): Promise<void> {
    this.#running ??= this.#collect().finally(() => (this.#running = undefined))
    return this.#running
  }

  async close(): Promise<void> {
    clearInterval(this.#timer)
    this.#closing.abort(new Error('the registry is closing'))
    await this.#running
  }

  async #collect(): Promise<void> {
    const { places, removeUntagged, logger } = this.#options
    const started = performance.now()
    try {
      for (const place of places.all) {
        const report = await collectPlace(place, { removeUntagged, logger, signal: this.#closing.signal })
        for (const kind of ['manifests', 'links', 'blobs'] as const) this.#removed.inc({ kind }, report[kind])
        this.#removedBytes.inc(report.bytes)
        if (report.manifests + report.links + report.blobs > 0) logger.info(report, 'garbage collected')
      }
      this.#runs.inc({ outcome: 'done' })
      this.#seconds.set((performance.now() - started) / 1000)
    } catch (error) {
      if (this.#closing.signal.aborted) return
      this.#runs.inc({ outcome: 'failed' })
      logger.error({ err: error }, 'garbage collection failed: it is tried again at the next turn')
    }
  }
}
