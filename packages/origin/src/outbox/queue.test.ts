import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Level } from 'level'
import { temporaryFolder } from '../testing.ts'
import { DiskQueues } from './queue.ts'

const itemsOf = async (queues: DiskQueues<string>): Promise<string[]> => {
  const items: string[] = []
  for await (const [, item] of queues.of('receiver').leftOver()) items.push(item)
  return items
}

test('after a write that failed the database is opened anew before anything else is said to be on the disk', async (t) => {
  await using folder = await temporaryFolder()
  const queues = await DiskQueues.open<string>(folder.path, ['receiver'])
  const queue = queues.of('receiver')
  const first = await queue.append('one')
  const put = t.mock.method(Level.prototype, 'put', () => Promise.reject(new Error('the disk is full')))
  const opened = t.mock.method(Level.prototype, 'open')
  const failing = [queue.append('two'), queue.append('three')]
  for (const each of failing) await assert.rejects(each, /full/)
  assert.equal(opened.mock.callCount(), 1, 'before the second, which failed, too')
  put.mock.restore()
  const [fourth, found] = await Promise.all([queue.append('four'), queue.get(first)])
  assert.deepEqual([found, opened.mock.callCount()], ['one', 2])
  await queue.remove(fourth)
  await queue.append('five')
  await queues.close()
  const again = await DiskQueues.open<string>(folder.path, ['receiver'])
  assert.deepEqual(await itemsOf(again), ['one', 'five'])
  await again.close()
})
