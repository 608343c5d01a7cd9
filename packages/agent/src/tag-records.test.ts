import assert from 'node:assert/strict'
import test from 'node:test'
import { digestOf } from '@shoal/oci'
import { TagRecords, type TagRecord } from './tag-records.ts'
import { silent } from './testing/agents.ts'

const record = (seenMs: number): TagRecord => ({ digest: digestOf('x'), mediaType: 'm', sizeBytes: 1, seenMs })

function setUp(before: number) {
  const kept = new Map(Array.from({ length: before }, (_, at) => [`before${at}`, record(at)]))
  const records = {
    get: async (key: string) => kept.get(key),
    put: async (key: string, value: TagRecord) => void kept.set(key, value),
    delete: async (key: string) => void kept.delete(key),
    entries: async function* () {
      yield* [...kept]
    },
  }
  return { kept, tags: new TagRecords(records, silent, { kept: 10, between: 5 }) }
}

test('of too many the oldest are removed: those of an earlier process at the first one to come', async () => {
  const { kept, tags } = setUp(100)
  await tags.put('one', record(1000))
  await tags.idle()
  assert.equal(kept.size, 10)
  assert.ok(kept.has('one') && kept.has('before91') && !kept.has('before90'))
})

test('they never grow beyond what may come between two sweeps', async () => {
  const { kept, tags } = setUp(0)
  for (let at = 0; at < 100; at++) {
    await tags.put(`tag${at}`, record(at))
    await tags.idle()
    assert.ok(kept.size <= 15)
  }
  assert.ok(kept.has('tag99') && !kept.has('tag0'))
})

test('records that cannot be listed stop nothing', async () => {
  const { kept, tags } = setUp(100)
  kept[Symbol.iterator] = () => {
    throw new Error('disk failing')
  }
  await tags.put('one', record(1000))
  await tags.idle()
  assert.equal((await tags.get('one'))?.seenMs, 1000)
})
