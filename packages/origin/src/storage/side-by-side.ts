// Many small requests to a storage, some of them at a time: one after another a bucket takes some 20 ms for each.
import PQueue from 'p-queue'

export const REQUESTS_AT_ONCE = 16

/** Asks for each of the items; the answers are in their order. After a failure no more are asked for. */
export async function sideBySide<T, R>(items: Iterable<T>, ask: (item: T) => Promise<R>): Promise<R[]> {
  const queue = new PQueue({ concurrency: REQUESTS_AT_ONCE })
  try {
    return await queue.addAll([...items].map((item) => () => ask(item)))
  } finally {
    queue.clear()
  }
}
