// What the store remembers of tags. Whoever reaches the mirror may name any tag at any registry: so they are bounded.
import type { Digest } from '@shoal/oci'
import type { StoreRecords } from '@shoal/store'
import type { Logger } from 'pino'

/** Records that are kept, and how many may come before the oldest of all are taken out: a few MiB on the disk. */
const KEPT_RECORDS = 20_000
const RECORDS_BETWEEN = 2000

/** What the store remembers of a tag. */
export interface TagRecord {
  digest: Digest
  mediaType: string
  sizeBytes: number
  /** When the origin said so, milliseconds since the epoch. */
  seenMs: number
}

/** Records of tags, of which the oldest go when there are too many. */
export class TagRecords {
  readonly #records: StoreRecords<TagRecord>
  readonly #logger: Logger
  readonly #limits: { kept: number; between: number }
  /** How many there are is not known at the start: the first one to come makes them be counted. */
  #untilSweep = 1
  #sweeping: Promise<void> | undefined

  constructor(
    records: StoreRecords<TagRecord>,
    logger: Logger,
    limits = { kept: KEPT_RECORDS, between: RECORDS_BETWEEN },
  ) {
    this.#records = records
    this.#logger = logger
    this.#limits = limits
  }

  get(key: string): Promise<TagRecord | undefined> {
    return this.#records.get(key)
  }

  async put(key: string, record: TagRecord): Promise<void> {
    await this.#records.put(key, record)
    this.#untilSweep--
    if (this.#untilSweep > 0 || this.#sweeping !== undefined) return
    this.#untilSweep = this.#limits.between
    this.#sweeping = this.#sweep()
      .catch((error: unknown) => this.#logger.warn({ err: error }, 'old records of tags could not be removed'))
      .finally(() => (this.#sweeping = undefined))
  }

  delete(key: string): Promise<void> {
    return this.#records.delete(key)
  }

  /** When no sweep is under way. */
  async idle(): Promise<void> {
    await this.#sweeping
  }

  async #sweep(): Promise<void> {
    const found: { key: string; seenMs: number }[] = []
    for await (const [key, { seenMs }] of this.#records.entries()) found.push({ key, seenMs })
    const surplus = found.length - this.#limits.kept
    if (surplus <= 0) return
    found.sort((one, other) => one.seenMs - other.seenMs)
    await Promise.all(found.slice(0, surplus).map(({ key }) => this.#records.delete(key)))
    this.#logger.debug({ removed: surplus }, 'old records of tags were removed')
  }
}
