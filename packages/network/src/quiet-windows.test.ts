import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Stream } from '@libp2p/interface'
import { quietWindowUpdates } from './quiet-windows.ts'

const KIB = 1024

function streamInState(state: number) {
  let updates = 0
  const stream = {
    state,
    recvWindow: 256 * KIB,
    recvWindowCapacity: 256 * KIB,
    sendWindowUpdate() {
      updates++
      this.recvWindowCapacity = this.recvWindow
    },
    receive(bytes: number) {
      this.recvWindowCapacity -= bytes
      this.sendWindowUpdate()
    },
  }
  quietWindowUpdates(stream as unknown as Stream)
  return { stream, updates: () => updates }
}

test('an established stream tells of its window when half of it is used, and not before', () => {
  const { stream, updates } = streamInState(3)
  for (let received = 0; received < 127; received++) stream.receive(KIB)
  assert.equal(updates(), 0)
  stream.receive(KIB)
  assert.equal(updates(), 1)
  assert.equal(stream.recvWindowCapacity, stream.recvWindow)
})

test('a stream that is being opened answers at once: the answer carries a flag', () => {
  const { stream, updates } = streamInState(2)
  stream.receive(KIB)
  assert.equal(updates(), 1)
})

test('a stream of another kind is left alone', () => {
  const other = { send: () => true }
  quietWindowUpdates(other as unknown as Stream)
  assert.deepEqual(Object.keys(other), ['send'])
})
