import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { rescueOf } from './rescue.ts'

test('help comes sooner and with more each time, but never faster than the origin gives a chunk', () => {
  fc.assert(
    fc.property(fc.nat(20), fc.double({ min: 0, max: 60_000, noNaN: true }), (rescues, usualChunkMs) => {
      const after = (count: number) =>
        rescueOf({ rescues: count, rescuedElsewhere: 0, discredited: false }, usualChunkMs, true)
      const [one, next] = [after(rescues), after(rescues + 1)]
      assert.ok(next.starvedMs <= one.starvedMs && next.chunks >= one.chunks && next.chunks <= 16)
      assert.ok(one.starvedMs >= usualChunkMs && one.starvedMs > 0)
      assert.ok(one.coveredMs >= 4 * usualChunkMs && one.starvedMs <= one.coveredMs)
    }),
  )
})

test('at an origin that is fast, or not known yet, the first help comes after four seconds with one chunk', () => {
  for (const usualChunkMs of [0, 10, 1000]) {
    assert.deepEqual(rescueOf({ rescues: 0, rescuedElsewhere: 0, discredited: false }, usualChunkMs, true), {
      starvedMs: 4000,
      coveredMs: 4000,
      chunks: 1,
    })
  }
})

test('who does not deliver is helped no faster each time while others wait, and like anybody afterwards', () => {
  const member = { rescues: 3, rescuedElsewhere: 2, discredited: true }
  assert.deepEqual(rescueOf(member, 100, true), { starvedMs: 4000, coveredMs: 4000, chunks: 1 })
  const alone = { ...member, rescuedElsewhere: 0 }
  assert.deepEqual(rescueOf(alone, 100, false), { starvedMs: 500, coveredMs: 4000, chunks: 8 })
})

test('who had to be rescued elsewhere waits a second for the first chunk, however often that was', () => {
  const after = (rescuedElsewhere: number, rescues = 0) =>
    rescueOf({ rescues, rescuedElsewhere, discredited: false }, 10, true)
  for (const elsewhere of [2, 3, 100]) {
    assert.deepEqual(after(elsewhere), { starvedMs: 1000, coveredMs: 1000, chunks: 4 })
    assert.deepEqual(after(elsewhere, 1), { starvedMs: 500, coveredMs: 1000, chunks: 8 })
    assert.deepEqual(after(elsewhere, 9), { starvedMs: 250, coveredMs: 1000, chunks: 16 })
  }
})
