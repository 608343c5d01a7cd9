import assert from 'node:assert/strict'
import test from 'node:test'
import { digestOf, type Digest } from '@shoal/oci'
import { TagTable } from './tag-table.ts'
import { FakeChannel } from '@shoal/swarm/testing'

const REFERENCE = 'docker.io/library/app:1'
const digest = digestOf('manifest')
const moved = digestOf('what it is now')
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

type Five = [FakeChannel, FakeChannel, FakeChannel, FakeChannel, FakeChannel]

function setUp(count = 5, ttlMs = 1000) {
  const table = new TagTable({ ttlMs })
  const channels = Array.from({ length: count }, (_, at) => new FakeChannel(`peer${at}`)) as Five
  const lookups = () => channels.map((channel) => channel.take('tag-lookup').length)
  /** Each asks, with its place in the list as the number of its request. */
  const askAll = (nowMs = 0) => {
    for (const [at, channel] of channels.entries()) table.ask(channel, ask(at), nowMs)
  }
  /** A node asks and tells what it found. */
  const find = (at: 0 | 1 | 2 | 3 | 4, found: Digest, nowMs: number) => {
    table.ask(channels[at], ask(at), nowMs)
    assert.equal(channels[at].take('tag-lookup').length, 1)
    table.result(channels[at], result(at, found), nowMs)
  }
  return { table, channels, lookups, askAll, find }
}

test('of many who ask, two look up; the others get what both say', () => {
  const { table, channels, lookups, askAll } = setUp(20)
  askAll()
  const [first, second, ...others] = channels
  assert.deepEqual(first.sent, [{ type: 'tag-lookup', requestId: 0, reference: REFERENCE }])
  assert.deepEqual(lookups(), [1, 1, ...others.map(() => 0)])
  table.result(first, result(0, digest), 10)
  for (const channel of others) assert.deepEqual(channel.sent, [], 'one word is not enough')
  table.result(second, result(1, digest), 11)
  assert.deepEqual([first.sent, second.sent], [[], []], 'who looked up knows')
  for (const [at, channel] of others.entries()) {
    const [answer] = channel.take('tag-answer')
    assert.deepEqual([answer?.digest, answer?.requestId, answer?.stale], [digest, at + 2, false])
    assert.deepEqual([answer?.sizeBytes, answer?.mediaType], [5, 'm'])
  }
})

test('what one node alone has said, the next one finds out for itself; that confirms it for the third', () => {
  const { table, channels, find } = setUp()
  find(0, digest, 0)
  find(1, digest, 500)
  table.ask(channels[2], ask(), 600)
  assert.equal(channels[2].take('tag-answer')[0]?.digest, digest)
})

test('a node that asks again is told its own word; a second word of the same node confirms nothing', () => {
  const { table, channels, find } = setUp(5, 10_000)
  const [one, two] = channels
  find(0, digest, 0)
  table.ask(one, ask(), 1)
  assert.equal(one.take('tag-answer')[0]?.digest, digest)
  table.result(one, result(0, digest), 2)
  table.ask(two, ask(), 3)
  assert.deepEqual([two.take('tag-lookup').length, two.sent.length], [1, 0])
})

test('an answer is passed on for its time, counted from the older of the two words', () => {
  const { table, channels, find } = setUp()
  const [, , three, four] = channels
  find(0, digest, 0)
  find(1, digest, 400)
  table.ask(three, ask(), 1000)
  assert.equal(three.take('tag-answer')[0]?.digest, digest)
  table.ask(four, ask(), 1001)
  assert.equal(four.take('tag-lookup').length, 1)
})

test('two that disagree: a third is asked, and the pair that agrees is told', () => {
  const { table, channels, lookups, askAll } = setUp()
  const [one, two, three, four, five] = channels
  askAll()
  table.result(one, result(0, digest), 1)
  table.result(two, result(1, moved), 2)
  assert.deepEqual(lookups(), [1, 1, 1, 0, 0])
  table.result(three, result(2, moved), 3)
  for (const channel of [four, five]) assert.equal(channel.take('tag-answer')[0]?.digest, moved)
  assert.deepEqual([one.sent, two.sent, three.sent], [[], [], []])
})

test('size and content type have to agree as well', () => {
  const { table, channels, lookups, askAll } = setUp()
  askAll()
  table.result(channels[0], result(0, digest), 1)
  table.result(channels[1], { ...result(1, digest), sizeBytes: 6 }, 2)
  assert.deepEqual(lookups(), [1, 1, 1, 0, 0])
  table.result(channels[2], { ...result(2, digest), mediaType: 'other' }, 3)
  assert.deepEqual(lookups(), [0, 0, 0, 1, 0])
  table.result(channels[3], result(3, digest), 4)
  const [answer] = channels[4].take('tag-answer')
  assert.deepEqual([answer?.sizeBytes, answer?.mediaType], [5, 'm'])
})

test('what was found by tag is known by its digest, too', () => {
  const { table, channels, find } = setUp()
  const two = channels[1]
  find(0, digest, 0)
  const reference = `docker.io/library/app@${digest}`
  table.ask(two, { ...ask(2), reference }, 5000)
  two.take('tag-lookup')
  table.result(two, { ...result(2, '', 'UNREACHABLE'), reference }, 5001)
  const [answer] = two.take('tag-answer')
  assert.deepEqual([answer?.digest, answer?.stale], [digest, true])
})

test('an outage that two nodes tell of is answered with what was known last, as stale', () => {
  const { table, channels, askAll, find } = setUp()
  const [one, two, three] = channels
  find(4, digest, 0)
  askAll(5000)
  table.result(one, result(0, '', 'TIMEOUT'), 5001)
  assert.equal(one.take('tag-answer')[0]?.stale, true, 'who asked in vain is told at once')
  assert.deepEqual(three.take('tag-answer'), [], 'one node alone may be cut off')
  table.result(two, result(1, '', 'TIMEOUT'), 5002)
  for (const channel of [two, three]) {
    const [answer] = channel.take('tag-answer')
    assert.deepEqual([answer?.digest, answer?.stale, answer?.errorCode], [digest, true, 'TIMEOUT'])
  }
})

test('while the origin is down a confirmed word goes before a younger one of a single node, but not for that node', () => {
  const { table, channels, find, askAll } = setUp()
  find(0, digest, 0)
  find(1, digest, 0)
  find(2, moved, 5000)
  askAll(10_000)
  table.result(channels[0], result(0, '', 'UNREACHABLE'), 10_001)
  table.result(channels[1], result(1, '', 'UNREACHABLE'), 10_002)
  const told = channels.map((channel) => channel.take('tag-answer').map((answer) => [answer.digest, answer.stale]))
  assert.deepEqual(told, [[[digest, true]], [[digest, true]], [[moved, true]], [[digest, true]], [[digest, true]]])
})

test('an outage while nothing is known is told as such', () => {
  const { table, channels, askAll } = setUp()
  askAll()
  table.result(channels[0], result(0, '', 'UNREACHABLE'), 1)
  table.result(channels[1], result(1, '', 'SERVER_ERROR'), 1)
  const [answer] = channels[2].take('tag-answer')
  assert.deepEqual([answer?.digest, answer?.errorCode], ['', 'SERVER_ERROR'])
})

for (const code of ['NOT_FOUND', 'UNAUTHORIZED', 'DENIED']) {
  test(`${code} may be another answer for another asker: after two, all ask for themselves`, () => {
    const { table, channels, lookups, askAll } = setUp()
    askAll()
    table.result(channels[0], result(0, '', code), 1)
    assert.deepEqual(lookups(), [1, 1, 0, 0, 0])
    table.result(channels[1], result(1, '', code), 1)
    assert.deepEqual(channels[4].sent, [{ type: 'tag-lookup', requestId: 4, reference: REFERENCE }])
    assert.deepEqual(lookups(), [0, 0, 1, 1, 1])
  })
}

test('a failure of the asker itself sends the next one', () => {
  const { table, channels, lookups, askAll } = setUp()
  askAll()
  table.result(channels[0], result(0, '', 'ABORTED'), 1)
  assert.deepEqual(lookups(), [1, 1, 1, 0, 0])
  table.result(channels[1], result(1, digest), 2)
  table.result(channels[2], result(2, digest), 2)
  assert.equal(channels[3].take('tag-answer')[0]?.digest, digest)
})

test('a failure that belongs to no lookup changes nothing', () => {
  const { table, channels, lookups, askAll } = setUp()
  askAll()
  lookups()
  table.result(channels[2], result(2, '', 'NOT_FOUND'), 1)
  table.result(channels[0], result(99, '', 'NOT_FOUND'), 1)
  table.result(channels[1], result(98, '', 'ABORTED'), 1)
  assert.deepEqual(lookups(), [0, 0, 0, 0, 0])
})

test('while a node is slow another one is asked as well; its late answer still counts', () => {
  const { table, channels, lookups, askAll } = setUp()
  askAll()
  table.result(channels[1], result(1, digest), 1)
  lookups()
  table.expire(750)
  assert.deepEqual(lookups(), [0, 0, 0, 0, 0], 'its time is not over')
  table.expire(751)
  assert.deepEqual(lookups(), [0, 0, 1, 0, 0])
  table.result(channels[0], result(0, digest), 1000)
  assert.equal(channels[3].take('tag-answer')[0]?.digest, digest)
})

test('who has waited for its time asks the origin itself, and is believed', () => {
  const { table, channels, lookups, askAll } = setUp()
  askAll()
  lookups()
  table.expire(1501)
  assert.deepEqual(lookups(), [0, 0, 1, 1, 1])
  const late = new FakeChannel('late')
  table.result(channels[3], result(3, digest), 1600)
  table.result(channels[4], result(4, digest), 1600)
  table.ask(late, ask(), 1700)
  assert.equal(late.take('tag-answer')[0]?.digest, digest)
})

test('the lookup of a node that is gone goes at once to the next that is there', () => {
  const { table, channels, lookups, askAll } = setUp()
  askAll()
  lookups()
  channels[0].isOpen = false
  channels[2].isOpen = false
  table.expire(1)
  assert.deepEqual(lookups(), [0, 0, 0, 1, 0])
})

test('a node that comes back under its old name looks up again', () => {
  const { table, channels } = setUp()
  const [one] = channels
  table.ask(one, ask(1), 0)
  one.isOpen = false
  const again = new FakeChannel(one.peerId)
  table.ask(again, ask(2), 2)
  table.expire(3)
  assert.equal(again.take('tag-lookup')[0]?.requestId, 2)
})

test('a lookup that nobody is left for is forgotten', () => {
  const { table, channels } = setUp()
  const [one, two, three] = channels
  table.ask(one, ask(1), 0)
  one.isOpen = false
  table.expire(1)
  table.ask(two, ask(2), 2)
  table.ask(three, ask(3), 2)
  assert.deepEqual([two.take('tag-lookup').length, three.take('tag-lookup').length], [1, 1])
})
