import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import { isLate, isStalled, usualTime } from './end-game.ts'

test('a request is late after twice the usual time, never under 200 ms', () => {
  const request = { startedMs: 1000, lastBytesMs: 1000 }
  assert.equal(isLate(request, 10, 1200), false)
  assert.equal(isLate(request, 10, 1201), true)
  assert.equal(isLate(request, 500, 2000), false)
  assert.equal(isLate(request, 500, 2001), true)
})

test('a chunk that still moves is never stalled, one without bytes is', () => {
  assert.equal(isStalled({ startedMs: 0, lastBytesMs: 60_000 }, 100, 1000, 60_900), false)
  assert.equal(isStalled({ startedMs: 0, lastBytesMs: 60_000 }, 100, 1000, 61_001), true)
  assert.equal(isStalled({ startedMs: 0, lastBytesMs: 60_000 }, 1500, 1000, 61_500), false)
  assert.equal(isStalled({ startedMs: 0, lastBytesMs: 60_000 }, 1500, 1000, 61_501), true)
  assert.equal(isStalled({ startedMs: 0, lastBytesMs: 60_000 }, 50_000, 1000, 63_000), false)
  assert.equal(isStalled({ startedMs: 0, lastBytesMs: 60_000 }, 50_000, 1000, 63_001), true)
})

test('the first byte may wait behind what the peer sends to others', () => {
  const silent = { startedMs: 0, lastBytesMs: 0 }
  assert.equal(isStalled(silent, 1500, 1000, 3000), false)
  assert.equal(isStalled(silent, 1500, 1000, 3001), true)
  assert.equal(isStalled(silent, 0, 1000, 1001), true)
})

test('one slow peer hardly moves the usual time, a slow swarm does', () => {
  let usualMs = 0
  for (let round = 0; round < 20; round++) usualMs = usualTime(usualMs, 80)
  assert.ok(Math.abs(usualMs - 80) < 1e-6)
  assert.ok(usualTime(usualMs, 60_000) <= 88.1)
  for (let round = 0; round < 40; round++) usualMs = usualTime(usualMs, 1000)
  assert.ok(usualMs > 900)
})
