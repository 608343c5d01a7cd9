import assert from 'node:assert/strict'
import test from 'node:test'
import { encodeControlMessage, MAX_CONTROL_MESSAGE_BYTES, type ChunkVoucher, type ControlMessage } from '@shoal/network'
import { digestOf } from '@shoal/oci'
import { sendHave, sendJoin } from './join-message.ts'
import { FakeChannel } from './testing/channels.ts'

const digest = digestOf('8 GiB')
const signer = `12D3KooW${'a'.repeat(44)}`

function voucher(chunk: number): ChunkVoucher {
  return { indices: [chunk], hashes: new Uint8Array(32), signer, signature: new Uint8Array(64) }
}

for (const count of [0, 1, 1000, 1001, 2048, 8192]) {
  test(`${count} chunks, each vouched for by itself, are told in messages that the codec takes`, () => {
    const channel = new FakeChannel('peer')
    const vouchers = Array.from({ length: count }, (_, chunk) => voucher(chunk))
    const join = {
      digest,
      sizeBytes: count * 4 * 1024 * 1024,
      mediaType: '',
      chunks: new Uint8Array(Math.ceil(count / 8)),
    }
    sendJoin(channel, { ...join, complete: false, reply: true, freeSlots: 6 }, vouchers)
    const told: number[] = []
    for (const message of channel.sent) {
      assert.ok(encodeControlMessage(message).byteLength < MAX_CONTROL_MESSAGE_BYTES)
      assert.ok(message.type === 'swarm-join' || message.type === 'have')
      told.push(...message.vouchers.flatMap(({ indices }) => indices))
    }
    assert.equal(channel.sent[0]?.type, 'swarm-join')
    assert.deepEqual(
      told,
      vouchers.flatMap(({ indices }) => indices),
    )
  })
}

/** As others may make them: of chunks in a row. */
function long(first: number, count: number): ChunkVoucher {
  const indices = Array.from({ length: count }, (_, at) => first + at)
  return { indices, hashes: new Uint8Array(count * 32), signer, signature: new Uint8Array(64) }
}

const said = (messages: ControlMessage[]) => {
  for (const message of messages) encodeControlMessage(message)
  return messages.map((message) => (message.type === 'have' || message.type === 'swarm-join' ? message : assert.fail()))
}

test('long vouchers go in as many messages as they need, and those that fill one go alone', () => {
  const vouchers = [long(0, 29_900), long(30_000, 10_000), long(40_000, 10_000), voucher(50_000), long(60_000, 29_900)]
  const channel = new FakeChannel('peer')
  const join = { digest, sizeBytes: 2 ** 40, mediaType: '', chunks: new Uint8Array(131_072), complete: false }
  sendJoin(channel, { ...join, reply: true, freeSlots: 6 }, vouchers)
  const [first, ...rest] = said(channel.sent)
  assert.equal(first?.type, 'swarm-join')
  assert.deepEqual([first.vouchers, ...rest.map((message) => message.vouchers)].flat(), vouchers)

  const indices = Array.from({ length: 100_000 }, (_, chunk) => chunk)
  const other = new FakeChannel('peer')
  sendHave(other, { digest, indices, vouchers, complete: true, freeSlots: 6 })
  const news = said(other.sent).map((message) => (message.type === 'have' ? message : assert.fail()))
  assert.deepEqual(news.flatMap((message) => message.indices).length, indices.length)
  assert.deepEqual(
    news.flatMap((message) => message.vouchers),
    vouchers,
  )
  assert.ok(
    news.findLastIndex((message) => message.vouchers.length > 0) <= news.findIndex((have) => have.indices.length > 0),
  )
  assert.deepEqual([news.filter((have) => have.complete).length, news.at(-1)?.complete], [1, true])
})

test('what a hash belongs to is told with it where it fits, and after it where it does not', () => {
  const channel = new FakeChannel('peer')
  sendHave(channel, { digest, indices: [5], vouchers: [voucher(5)], complete: false, freeSlots: 6 })
  assert.deepEqual(said(channel.take('have')).length, 1)
  sendHave(channel, { digest, indices: [5], vouchers: [long(0, 29_900)], complete: false, freeSlots: 6 })
  const [hashes, chunks, ...more] = channel.take('have')
  assert.deepEqual([hashes?.vouchers.length, hashes?.indices, chunks?.indices, more], [1, [], [5], []])
})

test('a media type that is too long to be told is left out', () => {
  const channel = new FakeChannel('peer')
  const join = { digest, sizeBytes: 1, chunks: new Uint8Array(), complete: false, reply: false, freeSlots: 6 }
  for (const mediaType of ['x'.repeat(255), 'x'.repeat(256), 'ü'.repeat(128)])
    sendJoin(channel, { ...join, mediaType }, [])
  const told = said(channel.sent).map((message) => (message.type === 'swarm-join' ? message.mediaType.length : -1))
  assert.deepEqual(told, [255, 0, 0])
})
