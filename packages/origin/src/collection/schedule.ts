// Runs garbage collection every so often beside the requests, one at a time, and counts what it removes. When the last one
// began is written down: a registry that is restarted more often than that would never collect.
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Logger } from 'pino'
import { Counter, Gauge, type Registry } from 'prom-client'
import type { Places } from '../places.ts'
import { collectPlace } from './collector.ts'

export interface CollectionScheduleOptions {
  places: Places
  removeUntagged: boolean
  /** Between two beginnings, in ms; 0 never collects. */
  everyMs: number
  /** Where it is written when the last one began; made when missing. */
  file: string
  logger: Logger
  metrics: Registry
}

export class CollectionSchedule {
  readonly #options: CollectionScheduleOptions
  #timer: NodeJS.Timeout | undefined
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
  }

  /** Begins to collect every so often. Counts on from the last time, whichever process of this registry it was in. */
  async start(): Promise<void> {
    const { everyMs } = this.#options
    if (everyMs === 0) return
    const nowMs = Date.now()
    const lastMs = await this.#readLast()
    if (lastMs === undefined) await this.#writeLast(nowMs)
    // A clock that was put back puts nothing off for longer than a whole turn.
    this.#runIn(Math.min(everyMs, Math.max(0, (lastMs ?? nowMs) + everyMs - nowMs)))
  }

  /** Collects now, or waits for the run that is under way. A failure is logged and counted. */
  run(): Promise<void> {
    this.#running ??= this.#collect().finally(() => (this.#running = undefined))
    return this.#running
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer)
    this.#closing.abort(new Error('the registry is closing'))
    await this.#running
  }

  #runIn(ms: number): void {
    const { everyMs, logger } = this.#options
    this.#timer = setTimeout(() => {
      this.#runIn(everyMs)
      this.run().catch((error: unknown) => logger.error({ err: error }, 'garbage collection broke off'))
    }, ms)
    this.#timer.unref()
  }

  /** Undefined when there was none, or nobody can say. */
  async #readLast(): Promise<number | undefined> {
    const text = await readFile(this.#options.file, 'utf8').catch(() => '')
    const lastMs = Date.parse(text)
    return Number.isNaN(lastMs) ? undefined : lastMs
  }

  async #writeLast(ms: number): Promise<void> {
    const { file, logger } = this.#options
    try {
      await mkdir(dirname(file), { recursive: true })
      await writeFile(file, new Date(ms).toISOString())
    } catch (error) {
      logger.warn({ err: error, file }, 'cannot write when garbage was collected: a restart puts the next time off')
    }
  }

  async #collect(): Promise<void> {
    const { places, removeUntagged, logger } = this.#options
    // At the beginning: should it be what ends the process, the next one does not begin with it.
    await this.#writeLast(Date.now())
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
