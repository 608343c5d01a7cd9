import assert from 'node:assert/strict'
import test from 'node:test'
import { digestOf, type Digest } from '@shoal/oci'
import { TagTable } from './tag-table.ts'
import { FakeChannel } from '@shoal/swarm/testing'

const REFERENCE = 'docker.io/library/app:1'
const digest = digestOf('manifest')
const ask = (requestId = 1) => ({ type: 'tag-ask', requestId, reference: REFERENCE }) as const
const result = (requestId: number, found: Digest | '', errorCode = '') =>
  ({
    type: 'tag-result',
    requestId,
    reference: REFERENCE,
    digest: found,
    mediaType: 'm',
    sizeBytes: 5,
    errorCode,
  }) as const

function setUp(count: number, ttlMs = 1000) {
  const table = new TagTable({ ttlMs })
  const channels = Array.from({ length: count }, (_, at) => new FakeChannel(`peer${at}`))
  return { table, channels: channels as [FakeChannel, FakeChannel, FakeChannel] }
}

test('of many who ask, one looks up; the others get its answer', () => {
  const { table, channels } = setUp(10)
  for (const [at, channel] of channels.entries()) table.ask(channel, ask(at + 100), 0)
  const [first, ...others] = channels
  assert.deepEqual(first.take('tag-lookup'), [{ type: 'tag-lookup', requestId: 100, reference: REFERENCE }])
  for (const channel of others) assert.deepEqual(channel.sent, [])
  table.result(first, result(100, digest), 10)
  assert.deepEqual(first.sent, [], 'who looked up knows')
  for (const [at, channel] of others.entries()) {
    const [answer] = channel.take('tag-answer')
    assert.equal(answer?.digest, digest)
    assert.equal(answer.requestId, at + 101)
    assert.equal(answer.stale, false)
    assert.equal(answer.sizeBytes, 5)
  }
})

test('an answer is passed on for its time, and not longer', () => {
  const { table, channels } = setUp(3, 1000)
  const [one, two, three] = channels
  table.ask(one, ask(), 0)
  table.result(one, result(1, digest), 0)
  table.ask(two, ask(), 1000)
  assert.equal(two.take('tag-answer')[0]?.digest, digest)
  table.ask(three, ask(), 1001)
  assert.equal(three.take('tag-lookup').length, 1)
})

test('what was found by tag is known by its digest, too', () => {
  const { table, channels } = setUp(2)
  const [one, two] = channels
  const tagged = ask()
  table.ask(one, tagged, 0)
  table.result(one, result(1, digest), 0)
  const reference = `${tagged.reference.slice(0, tagged.reference.lastIndexOf(':'))}@${digest}`
  table.ask(two, { ...ask(2), reference }, 5000)
  two.take('tag-lookup')
  table.result(two, { ...result(2, '', 'UNREACHABLE'), reference }, 5001)
  const [answer] = two.take('tag-answer')
  assert.deepEqual([answer?.digest, answer?.stale], [digest, true])
})

test('an outage is answered with what was known last, as stale', () => {
  const { table, channels } = setUp(3)
  const [one, two, three] = channels
  table.ask(one, ask(1), 0)
  table.result(one, result(1, digest), 0)
  table.ask(two, ask(2), 5000)
  table.ask(three, ask(3), 5000)
  two.take('tag-lookup')
  table.result(two, result(2, '', 'TIMEOUT'), 5001)
  const [answer] = three.take('tag-answer')
  assert.equal(answer?.digest, digest)
  assert.equal(answer.stale, true)
  assert.equal(answer.errorCode, 'TIMEOUT')
})

test('an outage while nothing is known is told as such', () => {
  const { table, channels } = setUp(2)
  const [one, two] = channels
  table.ask(one, ask(1), 0)
  table.ask(two, ask(2), 0)
  table.result(one, result(1, '', 'UNREACHABLE'), 1)
  const [answer] = two.take('tag-answer')
  assert.equal(answer?.digest, '')
  assert.equal(answer.errorCode, 'UNREACHABLE')
})

for (const code of ['NOT_FOUND', 'UNAUTHORIZED', 'DENIED']) {
  test(`${code} may be another answer for another asker: all ask for themselves`, () => {
    const { table, channels } = setUp(3)
    const [one, two, three] = channels
    table.ask(one, ask(1), 0)
    table.ask(two, ask(2), 0)
    table.ask(three, ask(3), 0)
    one.take('tag-lookup')
    table.result(one, result(1, '', code), 1)
    assert.deepEqual(two.take('tag-lookup'), [{ type: 'tag-lookup', requestId: 2, reference: REFERENCE }])
    assert.deepEqual(three.take('tag-lookup'), [{ type: 'tag-lookup', requestId: 3, reference: REFERENCE }])
  })
}

test('a failure of the asker itself sends the next one', () => {
  const { table, channels } = setUp(3)
  const [one, two, three] = channels
  for (const [at, channel] of channels.entries()) table.ask(channel, ask(at + 1), 0)
  table.result(one, result(1, '', 'ABORTED'), 1)
  assert.equal(two.take('tag-lookup').length, 1)
  assert.deepEqual(three.sent, [])
  table.result(two, result(2, digest), 2)
  assert.equal(three.take('tag-answer')[0]?.digest, digest)
})

test('a failure that belongs to no lookup changes nothing', () => {
  const { table, channels } = setUp(2)
  const [one, two] = channels
  table.ask(one, ask(1), 0)
  table.ask(two, ask(2), 0)
  table.result(two, result(2, '', 'NOT_FOUND'), 1)
  table.result(one, result(99, '', 'NOT_FOUND'), 1)
  assert.deepEqual(two.sent, [])
  table.result(one, result(1, digest), 2)
  assert.equal(two.take('tag-answer')[0]?.digest, digest)
})

test('a lookup of a slow node is passed on; its late answer still counts', () => {
  const { table, channels } = setUp(3)
  const [one, two, three] = channels
  for (const [at, channel] of channels.entries()) table.ask(channel, ask(at + 1), 0)
  table.expire(3000)
  assert.deepEqual(two.sent, [], 'three seconds are not over')
  table.expire(3001)
  assert.equal(two.take('tag-lookup').length, 1)
  table.result(one, result(1, digest), 4000)
  assert.equal(three.take('tag-answer')[0]?.digest, digest)
})

test('a lookup of a node that is gone is passed on at once, past others that are gone', () => {
  const { table, channels } = setUp(3)
  const [one, two, three] = channels
  for (const [at, channel] of channels.entries()) table.ask(channel, ask(at + 1), 0)
  one.isOpen = false
  two.isOpen = false
  table.expire(1)
  assert.equal(three.take('tag-lookup').length, 1)
})

test('a lookup that nobody is left for is forgotten', () => {
  const { table, channels } = setUp(2)
  const [one, two] = channels
  table.ask(one, ask(1), 0)
  one.isOpen = false
  table.expire(1)
  table.ask(two, ask(2), 2)
  assert.equal(two.take('tag-lookup').length, 1)
})
