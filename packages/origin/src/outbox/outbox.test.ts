import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { pino } from 'pino'
import { temporaryFolder } from '../testing.ts'
import { Outbox, type OutboxObserver, type OutboxOptions } from './outbox.ts'
import { DiskQueues } from './queue.ts'

interface Job {
  name: string
  queuedMs: number
}

/** A receiver that the test decides for, and everything that was heard of it. */
class Receiver implements OutboxObserver<Job> {
  readonly tried: string[] = []
  readonly arrived: string[] = []
  readonly lost: [string, 'full' | Error][] = []
  failures = 0
  waiting = 0
  deliver: (name: string, signal: AbortSignal) => Promise<void> = () => Promise.resolve()
  #news = Promise.withResolvers<void>()

  begun(name: string): void {
    this.tried.push(name)
    this.#tell()
  }
  pending(count: number): void {
    this.waiting = count
    this.#tell()
  }
  delivered({ name }: Job): void {
    this.arrived.push(name)
    this.#tell()
  }
  failed(): void {
    this.failures++
    this.#tell()
  }
  dropped({ name }: Job, reason: 'full' | Error): void {
    this.lost.push([name, reason])
    this.#tell()
  }

  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await this.#news.promise
  }

  #tell(): void {
    this.#news.resolve()
    this.#news = Promise.withResolvers()
  }
}

async function openOutbox(folder: string, receiver: Receiver, options: Partial<OutboxOptions<Job>> = {}) {
  const queues = await DiskQueues.open<Job>(folder, ['receiver'], log)
  const outbox = await Outbox.open<Job>({
    queue: queues.of('receiver'),
    deliver: async ({ name }, signal) => {
      receiver.begun(name)
      await receiver.deliver(name, signal)
    },
    queuedMs: ({ queuedMs }) => queuedMs,
    retryMs: 2,
    observer: receiver,
    ...options,
  })
  const close = async (): Promise<void> => {
    await outbox.close()
    await queues.close()
  }
  return { outbox, close, [Symbol.asyncDispose]: close }
}

const log = pino({ level: 'silent' })

const job = (name: string, queuedMs = 0): Job => ({ name, queuedMs })
/** Waits until the registry closes. */
const forever = (_name: string, signal: AbortSignal): Promise<void> =>
  new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)))

const inAnyOrder: Partial<OutboxOptions<Job>> = {
  identity: ({ name }) => name,
  concernsAll: (error) => (error as Error).message === 'down',
}

test('one that came while another for the same waits is not kept; one that came during its delivery is', async () => {
  await using folder = await temporaryFolder()
  const receiver = new Receiver()
  const first = Promise.withResolvers<void>()
  receiver.deliver = () => first.promise
  await using open = await openOutbox(folder.path, receiver, inAnyOrder)
  await open.outbox.send(job('a', 1))
  await receiver.until(() => receiver.tried.length === 1)
  await Promise.all([job('a', 2), job('a', 3), job('b', 4), job('b', 5)].map((each) => open.outbox.send(each)))
  assert.equal(receiver.waiting, 3)
  assert.equal(open.outbox.oldestMs, 1)
  receiver.deliver = () => Promise.resolve()
  first.resolve()
  await receiver.until(() => receiver.waiting === 0)
  assert.deepEqual(receiver.tried, ['a', 'a', 'b'])
  assert.equal(open.outbox.oldestMs, undefined)
})

test('one whose delivery fails while a newer one for the same is being written is kept when that does not get onto the disk', async () => {
  await using folder = await temporaryFolder()
  const queues = await DiskQueues.open<Job>(folder.path, ['receiver'], log)
  const queue = queues.of('receiver')
  const writing = Promise.withResolvers<void>()
  let appended = 0
  const append = async (item: Job): Promise<string> => {
    if (++appended === 1) return await queue.append(item)
    await writing.promise
    throw new Error('the disk is full')
  }
  const receiver = new Receiver()
  const first = Promise.withResolvers<void>()
  receiver.deliver = () => first.promise
  const get = (key: string) => queue.get(key)
  const remove = (key: string) => queue.remove(key)
  const receiving = { leftOver: () => queue.leftOver(), get, remove, append }
  const { outbox, close } = await openOutbox(join(folder.path, 'unused'), receiver, { ...inAnyOrder, queue: receiving })
  await outbox.send(job('a', 1))
  await receiver.until(() => receiver.tried.length === 1)
  const newer = outbox.send(job('a', 2))
  receiver.deliver = () => Promise.resolve()
  first.reject(new Error('refused'))
  await receiver.until(() => receiver.failures === 1)
  writing.resolve()
  await newer
  await receiver.until(() => receiver.waiting === 0)
  assert.deepEqual([receiver.arrived, receiver.lost.length], [['a'], 1])
  await close()
  await queues.close()
})

test('what only concerns one item holds up no other, and a new one for the same is tried at once', async () => {
  await using folder = await temporaryFolder()
  const receiver = new Receiver()
  receiver.deliver = async (name) => {
    if (name === 'bad') throw new Error('refused')
  }
  await using open = await openOutbox(folder.path, receiver, { ...inAnyOrder, retryMs: 60_000 })
  for (const name of ['bad', 'a', 'b']) await open.outbox.send(job(name))
  await receiver.until(() => receiver.arrived.length === 2)
  assert.deepEqual([receiver.tried, receiver.waiting], [['bad', 'a', 'b'], 1])
  receiver.deliver = () => Promise.resolve()
  await open.outbox.send(job('bad'))
  await receiver.until(() => receiver.waiting === 0)
  assert.deepEqual(receiver.arrived, ['a', 'b', 'bad'])
})

test('while the receiver is down only one is tried at a time, and all arrive when it is back', async () => {
  await using folder = await temporaryFolder()
  const receiver = new Receiver()
  const allWait = Promise.withResolvers<void>()
  receiver.deliver = async () => {
    await allWait.promise
    throw new Error('down')
  }
  await using open = await openOutbox(folder.path, receiver, inAnyOrder)
  const names = Array.from({ length: 10 }, (_, at) => `${at}`)
  for (const name of names) await open.outbox.send(job(name))
  allWait.resolve()
  await receiver.until(() => receiver.failures >= 4)
  // Not always the first: it may be to blame.
  assert.deepEqual(receiver.tried.slice(0, 4), names.slice(0, 4))
  receiver.deliver = () => Promise.resolve()
  await receiver.until(() => receiver.waiting === 0)
  assert.deepEqual(receiver.arrived.toSorted(), names)
})

test('what was being delivered or waited when it was closed is delivered after the next start, in order', async () => {
  await using folder = await temporaryFolder()
  const receiver = new Receiver()
  receiver.deliver = forever
  {
    await using open = await openOutbox(folder.path, receiver)
    for (const name of ['a', 'b', 'c']) await open.outbox.send(job(name))
    await receiver.until(() => receiver.tried.length === 1)
  }
  assert.deepEqual([receiver.arrived, receiver.failures], [[], 0])
  receiver.deliver = () => Promise.resolve()
  await using open = await openOutbox(folder.path, receiver)
  await open.outbox.send(job('d'))
  await receiver.until(() => receiver.waiting === 0)
  assert.deepEqual(receiver.arrived, ['a', 'b', 'c', 'd'])
})

test('no more wait than may; what cannot be written is told', async () => {
  await using folder = await temporaryFolder()
  const receiver = new Receiver()
  receiver.deliver = forever
  const open = await openOutbox(folder.path, receiver, { ...inAnyOrder, maxPending: 2 })
  for (const name of ['a', 'b', 'c', 'b']) await open.outbox.send(job(name))
  assert.deepEqual(receiver.lost, [['c', 'full']])
  await open.close()
  const another = new Receiver()
  await using empty = await temporaryFolder()
  const queues = await DiskQueues.open<Job>(empty.path, ['receiver'], log)
  const queue = { ...queues.of('receiver'), append: () => Promise.reject(new Error('disk full')) }
  const outbox = await Outbox.open<Job>({ queue, deliver: forever as never, queuedMs: () => 0, observer: another })
  await outbox.send(job('a'))
  assert.deepEqual([another.waiting, another.lost.map(([name]) => name)], [0, ['a']])
  await outbox.close()
  await queues.close()
})
