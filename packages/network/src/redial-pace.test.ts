import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RedialPace } from './redial-pace.ts'

/** How long the peer must be left alone after `times` connections of `lastedMs` each, in milliseconds. */
function waitAfter(pace: RedialPace, times: number, lastedMs = 10): number {
  for (let n = 0; n < times; n++) pace.closed('peer', 0, lastedMs)
  let ms = 0
  while (pace.mustWait('peer', lastedMs + ms)) ms += 500
  return ms
}

test('who hangs up once or twice is dialled again at once, then after longer and longer, and never after more than 30 s', () => {
  const waits = [1, 2, 3, 4, 5, 20].map((times) => waitAfter(new RedialPace(), times))
  assert.deepEqual(waits, [0, 0, 1000, 2000, 4000, 30_000])
})

test('a connection that lasted makes up for all before', () => {
  const pace = new RedialPace()
  waitAfter(pace, 10)
  assert.equal(waitAfter(pace, 1, 2_000), 0)
  assert.equal(waitAfter(pace, 2), 0)
})

test('others are not kept waiting, and the oldest are forgotten', () => {
  const pace = new RedialPace()
  waitAfter(pace, 10)
  assert.equal(pace.mustWait('other', 10), false)
  for (let n = 0; n < 5_000; n++) pace.closed(`peer ${n}`, 0, 10)
  assert.equal(pace.mustWait('peer', 10), false)
})

test('who has a pace of his own need not wait, and the next wait is as long as it would have been', () => {
  const pace = new RedialPace()
  waitAfter(pace, 4)
  pace.allow('peer')
  assert.equal(pace.mustWait('peer', 10), false)
  assert.equal(waitAfter(pace, 1), 4000)
})
