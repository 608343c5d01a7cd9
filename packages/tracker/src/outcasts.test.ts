import assert from 'node:assert/strict'
import test from 'node:test'
import { FakeChannel } from '@shoal/swarm/testing'
import { Outcasts } from './outcasts.ts'

test('an outcast is not heard until its time is over; then the channel over which it spoke last is told of', () => {
  const outcasts = new Outcasts(1000)
  const [liar, other, honest] = [new FakeChannel('liar'), new FakeChannel('other'), new FakeChannel('honest')]
  outcasts.add(liar, 0)
  outcasts.add(other, 500)
  assert.equal(outcasts.isOutcast(honest), false)
  const again = new FakeChannel('liar')
  assert.equal(outcasts.isOutcast(again), true)
  assert.deepEqual(outcasts.expire(999), [])
  assert.deepEqual(outcasts.expire(1000), [again])
  assert.equal(outcasts.isOutcast(again), false)
  assert.deepEqual(outcasts.expire(1500), [other])
})
