import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { MessageStream } from '@libp2p/interface'
import { LengthPrefixedDecoder } from '@libp2p/utils'
import type { Digest } from '@shoal/oci'
import { checkLengthsFirst } from './noise-lengths.ts'
import { Inbox, nextChannel, patience, startPlane } from './testing/planes.ts'

const DIGEST: Digest = `sha256:${'ab'.repeat(32)}`

function checkedDecoder(): { read: (bytes: number[]) => number[][] } {
  const never = (): number => {
    throw new Error('the decoder of before was asked')
  }
  const decoder = new LengthPrefixedDecoder({ lengthDecoder: never, encodingLength: () => 2 })
  checkLengthsFirst({ decoder } as unknown as MessageStream)
  return { read: (bytes) => [...decoder.decode(Uint8Array.from(bytes))].map((message) => [...message.subarray()]) }
}

test('messages come out wherever the reads are cut', () => {
  const { read } = checkedDecoder()
  assert.deepEqual(read([0, 2, 7, 8]), [[7, 8]])
  assert.deepEqual(read([0]), [])
  assert.deepEqual(read([3, 1, 2]), [])
  assert.deepEqual(read([3, 0, 1, 9, 0]), [[1, 2, 3], [9]])
  assert.deepEqual(read([1]), [])
  assert.deepEqual(read([4]), [[4]])
})

test('lengths are of two bytes, the high one first', () => {
  const { read } = checkedDecoder()
  assert.deepEqual(read([1, 0, ...Array<number>(256).fill(5)]), [Array<number>(256).fill(5)])
})

test('a stream of another kind is left alone', () => {
  const other = { send: () => true }
  checkLengthsFirst(other as unknown as MessageStream)
  assert.deepEqual(Object.keys(other), ['send'])
})

test('no message over a real connection makes noise read a length from nothing', async (t) => {
  const a = await startPlane(t)
  const b = await startPlane(t)
  const atB = nextChannel(b).then((channel) => new Inbox(channel))
  const channel = await a.channel(b.address, patience())
  const inbox = await atB
  // What noise's own way of reading a length ends in. Handshakes, which use it, are over.
  const { buffer } = new LengthPrefixedDecoder() as unknown as { buffer: { getUint16: () => number } }
  const getUint16 = t.mock.method(Object.getPrototypeOf(buffer) as typeof buffer, 'getUint16')
  for (let index = 0; index < 10; index++) channel.send({ type: 'lost', digest: DIGEST, indices: [index] })
  await inbox.has(10)
  assert.equal(getUint16.mock.callCount(), 0)
})
