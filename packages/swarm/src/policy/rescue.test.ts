import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { rescueOf } from './rescue.ts'

test('help comes sooner and with more each time, but never faster than the origin gives a chunk', () => {
  fc.assert(
    fc.property(fc.nat(20), fc.double({ min: 0, max: 60_000, noNaN: true }), (rescues, usualChunkMs) => {
      const [one, next] = [rescueOf(rescues, usualChunkMs), rescueOf(rescues + 1, usualChunkMs)]
      assert.ok(next.starvedMs <= one.starvedMs && next.chunks >= one.chunks && next.chunks <= 16)
      assert.ok(one.starvedMs >= usualChunkMs && one.starvedMs > 0)
      assert.ok(one.coveredMs >= 4 * usualChunkMs && one.starvedMs <= one.coveredMs)
    }),
  )
})

test('at an origin that is fast, or not known yet, the first help comes after four seconds with one chunk', () => {
  for (const usualChunkMs of [0, 10, 1000]) {
    assert.deepEqual(rescueOf(0, usualChunkMs), { starvedMs: 4000, coveredMs: 4000, chunks: 1 })
  }
})
