import assert from 'node:assert/strict'
import { open, readdir, rm, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { Level } from 'level'
import { pino } from 'pino'
import { temporaryFolder } from '../testing.ts'
import { DiskQueues } from './queue.ts'

const log = pino({ level: 'silent' })

const itemsOf = async (queues: DiskQueues<string>): Promise<string[]> => {
  const items: string[] = []
  for await (const [, item] of queues.of('receiver').leftOver()) items.push(item)
  return items
}

test('after a write that failed the database is opened anew before anything else is said to be on the disk', async (t) => {
  await using folder = await temporaryFolder()
  const queues = await DiskQueues.open<string>(folder.path, ['receiver'], log)
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
  const again = await DiskQueues.open<string>(folder.path, ['receiver'], log)
  assert.deepEqual(await itemsOf(again), ['one', 'five'])
  await again.close()
})

test('a database that the disk has harmed keeps no registry from starting, and what can be read of it is kept', async (t) => {
  const tableIn = async (folder: string) => {
    const [table] = (await readdir(folder)).filter((name) => name.endsWith('.ldb'))
    return join(folder, table!)
  }
  const harms: Record<string, { harm: (folder: string) => Promise<unknown>; keeps: number }> = {
    'its list of files is empty': { harm: (folder) => truncate(join(folder, 'CURRENT')), keeps: 2 },
    'a table is cut off': { harm: async (folder) => truncate(await tableIn(folder), 10), keeps: 2 },
    'a table is gone': { harm: async (folder) => rm(await tableIn(folder)), keeps: 2 },
    'a table ends the process that reads it': {
      harm: async (folder) => {
        // The length of the first key.
        await using table = await open(await tableIn(folder), 'r+')
        await table.write(Buffer.from([3]), 0, 1, 1)
      },
      keeps: 0,
    },
  }
  for (const [what, { harm, keeps }] of Object.entries(harms)) {
    await t.test(what, async () => {
      await using folder = await temporaryFolder()
      // Each start makes a table of what the run before has written.
      for (const item of ['one', 'two', 'three']) {
        const queues = await DiskQueues.open<string>(folder.path, ['receiver'], log)
        await queues.of('receiver').append(item)
        await queues.close()
      }
      await harm(folder.path)
      const queues = await DiskQueues.open<string>(folder.path, ['receiver'], log)
      const items = await itemsOf(queues)
      const kept = ['one', 'two', 'three'].filter((item) => items.includes(item))
      assert.deepEqual(items, kept, 'in their order')
      assert.ok(kept.length >= keeps, `kept ${kept.join(', ')}`)
      await queues.of('receiver').append('four')
      assert.deepEqual(await itemsOf(queues), [...kept, 'four'])
      await queues.close()
    })
  }
})
