// Events that wait to be sent, on the disk, in the order in which they came, for each endpoint.
import { createHash } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { Level } from 'level'
import type { RegistryEvent } from './event.ts'

/** Events of one endpoint. Writes are in order; a crash of the process loses none that was written. */
export interface EndpointQueue {
  /** How many were there when the queue was opened. */
  readonly leftOver: number
  append(event: RegistryEvent): Promise<void>
  first(): Promise<{ key: string; event: RegistryEvent } | undefined>
  remove(key: string): Promise<void>
}

export class EventQueues {
  readonly #db: Level<string, RegistryEvent>
  readonly #queues: Map<string, EndpointQueue>

  private constructor(db: Level<string, RegistryEvent>, queues: Map<string, EndpointQueue>) {
    this.#db = db
    this.#queues = queues
  }

  /** Events for other endpoints than `urls` are dropped: nobody would ever send them. */
  static async open(folder: string, urls: readonly string[]): Promise<EventQueues> {
    await mkdir(folder, { recursive: true })
    const db = new Level<string, RegistryEvent>(folder, { valueEncoding: 'json' })
    await db.open()
    const found = new Map(urls.map((url) => [prefixOf(url), { count: 0, last: 0 }]))
    for await (const key of db.keys()) {
      const known = found.get(key.slice(0, PREFIX_LENGTH))
      if (!known) await db.del(key)
      else {
        known.count++
        known.last = Number(key.slice(PREFIX_LENGTH))
      }
    }
    const queueOf = (url: string): EndpointQueue => {
      const prefix = prefixOf(url)
      const { count, last } = found.get(prefix) ?? { count: 0, last: 0 }
      return openQueue(db, prefix, count, last)
    }
    return new EventQueues(db, new Map(urls.map((url) => [url, queueOf(url)])))
  }

  of(url: string): EndpointQueue {
    const queue = this.#queues.get(url)
    if (!queue) throw new RangeError(`the queues were not opened with ${url}`)
    return queue
  }

  async close(): Promise<void> {
    await this.#db.close()
  }
}

const PREFIX_LENGTH = 17

/** URLs may be longer than is good for a key. */
function prefixOf(url: string): string {
  return `${createHash('sha256')
    .update(url)
    .digest('hex')
    .slice(0, PREFIX_LENGTH - 1)}!`
}

function openQueue(db: Level<string, RegistryEvent>, prefix: string, leftOver: number, last: number): EndpointQueue {
  let number = last
  return {
    leftOver,
    append: (event) => db.put(`${prefix}${String(++number).padStart(16, '0')}`, event),
    first: async () => {
      for await (const [key, event] of db.iterator({ gt: prefix, lt: `${prefix}~`, limit: 1 })) return { key, event }
      return undefined
    },
    remove: (key) => db.del(key),
  }
}
