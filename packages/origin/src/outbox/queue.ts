// Things that wait to be delivered, on the disk, in the order in which they came, for each of those they go to.
import { createHash } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { Level } from 'level'
import type { Logger } from 'pino'
import { isDamagedDatabase, moveAsideIfDeadly, repairDatabase } from '@shoal/store'

/** Items for one receiver. Writes are in order; what was written survives a crash, also of the machine. */
export interface DiskQueue<Item> {
  /** What was there when the queue was opened, in order. */
  leftOver(): AsyncIterable<[key: string, item: Item]>
  /** Gives back the key. */
  append(item: Item): Promise<string>
  get(key: string): Promise<Item | undefined>
  remove(key: string): Promise<void>
}

/**
 * A write that failed may have torn LevelDB's log, and what is written behind a tear is gone after the next start, though it was
 * said to be on the disk. So writes are one after the other, and after one that failed the database is opened anew.
 */
class MendedDatabase<Item> {
  readonly #db: Level<string, Item>
  #torn = false
  #mending: Promise<void> | undefined
  #writes: Promise<unknown> = Promise.resolve()

  constructor(db: Level<string, Item>) {
    this.#db = db
  }

  put(key: string, item: Item): Promise<void> {
    const write = this.#writes.then(async () => {
      const db = await this.whole()
      await db.put(key, item, { sync: true }).catch((error: unknown) => {
        this.#torn = true
        throw error
      })
    })
    this.#writes = write.catch(() => undefined)
    return write
  }

  /** The database, with a log that is whole. */
  async whole(): Promise<Level<string, Item>> {
    if (this.#torn) {
      this.#mending ??= this.#reopen().finally(() => {
        this.#mending = undefined
      })
      await this.#mending
    }
    return this.#db
  }

  async close(): Promise<void> {
    await this.#writes
    await this.#db.close()
  }

  async #reopen(): Promise<void> {
    await this.#db.close()
    await this.#db.open()
    this.#torn = false
  }
}

export class DiskQueues<Item> {
  readonly #db: MendedDatabase<Item>
  readonly #queues: Map<string, DiskQueue<Item>>

  private constructor(db: MendedDatabase<Item>, queues: Map<string, DiskQueue<Item>>) {
    this.#db = db
    this.#queues = queues
  }

  /**
   * Items for other receivers than these are dropped: nobody would ever deliver them. Where the disk has harmed the database, what
   * can be read of it is kept: a registry that does not start because of it would lose more.
   */
  static async open<Item>(folder: string, receivers: readonly string[], log: Logger): Promise<DiskQueues<Item>> {
    await mkdir(folder, { recursive: true })
    await moveAsideIfDeadly(folder, log)
    let opened = await openDatabase<Item>(folder, receivers)
    if (opened instanceof Error) {
      log.warn({ err: opened, folder }, 'the queue is damaged: what can be read of it is kept, the rest is lost')
      await repairDatabase(folder)
      opened = await openDatabase<Item>(folder, receivers)
      if (opened instanceof Error) throw opened
    }
    const { db, last } = opened
    const mended = new MendedDatabase(db)
    const queueOf = (receiver: string): DiskQueue<Item> => {
      const prefix = prefixOf(receiver)
      return openQueue(mended, prefix, last.get(prefix) ?? 0)
    }
    return new DiskQueues(mended, new Map(receivers.map((receiver) => [receiver, queueOf(receiver)])))
  }

  of(receiver: string): DiskQueue<Item> {
    const queue = this.#queues.get(receiver)
    if (!queue) throw new RangeError(`the queues were not opened with ${receiver}`)
    return queue
  }

  async close(): Promise<void> {
    await this.#db.close()
  }
}

/** The database and the number of each receiver's last item, or the reason why what is there is none any more. */
async function openDatabase<Item>(
  folder: string,
  receivers: readonly string[],
): Promise<{ db: Level<string, Item>; last: Map<string, number> } | Error> {
  const db = new Level<string, Item>(folder, { valueEncoding: 'json' })
  const last = new Map(receivers.map((receiver) => [prefixOf(receiver), 0]))
  try {
    await db.open()
    for await (const key of db.keys()) {
      const prefix = key.slice(0, PREFIX_LENGTH)
      if (last.has(prefix)) last.set(prefix, Number(key.slice(PREFIX_LENGTH)))
      else await db.del(key)
    }
    return { db, last }
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
    await db.close().catch(() => undefined)
    if (cause instanceof Error && (await isDamagedDatabase(cause, folder))) return cause
    throw error
  }
}

const PREFIX_LENGTH = 17

/** Receivers may have longer names than is good for a key. */
function prefixOf(receiver: string): string {
  return `${createHash('sha256')
    .update(receiver)
    .digest('hex')
    .slice(0, PREFIX_LENGTH - 1)}!`
}

function openQueue<Item>(db: MendedDatabase<Item>, prefix: string, last: number): DiskQueue<Item> {
  let number = last
  return {
    leftOver: async function* () {
      yield* (await db.whole()).iterator({ gt: prefix, lt: `${prefix}~` })
    },
    append: async (item) => {
      const key = `${prefix}${String(++number).padStart(16, '0')}`
      await db.put(key, item)
      return key
    },
    get: async (key) => await (await db.whole()).get(key),
    remove: async (key) => await (await db.whole()).del(key),
  }
}
