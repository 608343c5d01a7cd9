import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { rememberedRescues, rescueOf } from './rescue.ts'

test('help comes sooner and with more each time, but never faster than the origin gives a chunk', () => {
  fc.assert(
    fc.property(fc.nat(20), fc.double({ min: 0, max: 60_000, noNaN: true }), (rescues, usualChunkMs) => {
      const after = (count: number) => rescueOf({ rescues: count, discredited: false }, usualChunkMs, true)
      const [one, next] = [after(rescues), after(rescues + 1)]
      assert.ok(next.afterMs <= one.afterMs && next.chunks >= one.chunks && next.chunks <= 16)
      assert.ok(one.afterMs >= usualChunkMs && one.afterMs > 0)
    }),
  )
})

test('at an origin that is fast, or not known yet, the first help comes after four seconds with one chunk', () => {
  for (const usualChunkMs of [0, 10, 1000]) {
    assert.deepEqual(rescueOf({ rescues: 0, discredited: false }, usualChunkMs, true), { afterMs: 4000, chunks: 1 })
  }
})

test('who does not deliver is helped no faster each time while others wait, and like anybody afterwards', () => {
  const member = { rescues: 3, discredited: true }
  assert.deepEqual(rescueOf(member, 100, true), { afterMs: 4000, chunks: 1 })
  assert.deepEqual(rescueOf(member, 100, false), { afterMs: 500, chunks: 8 })
})

test('who had to be rescued elsewhere waits a second for the first chunk, however often that was', () => {
  for (const elsewhere of [2, 3, 100]) {
    const rescues = rememberedRescues(elsewhere)
    assert.deepEqual(rescueOf({ rescues, discredited: false }, 10, true), { afterMs: 1000, chunks: 4 })
  }
  assert.equal(rememberedRescues(0), 0)
})
