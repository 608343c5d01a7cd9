import assert from 'node:assert/strict'
import test from 'node:test'
import { encodeControlMessage, MAX_CONTROL_MESSAGE_BYTES, type ChunkVoucher } from '@shoal/network'
import { digestOf } from '@shoal/oci'
import { sendJoin } from './join-message.ts'
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
