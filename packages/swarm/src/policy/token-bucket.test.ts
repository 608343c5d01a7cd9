import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import fc from 'fast-check'
import { TokenBucket } from './token-bucket.ts'

test('a sender that waits as it is told keeps to the rate, but for the burst', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1000, max: 1_000_000_000 }),
      fc.array(fc.integer({ min: 1, max: 4 * 1024 * 1024 }), { minLength: 1, maxLength: 100 }),
      (rate, pieces) => {
        const bucket = new TokenBucket(rate, 0)
        let nowMs = 0
        let sent = 0
        for (const bytes of pieces) {
          nowMs += bucket.take(bytes, nowMs)
          sent += bytes
          const allowed = (nowMs / 1000) * rate + Math.max(64 * 1024, rate / 4)
          assert.ok(sent <= allowed + 1, `${sent} bytes after ${nowMs} ms at ${rate}`)
        }
      },
    ),
  )
})

test('no limit means no wait, and a new rate holds at once', () => {
  const bucket = new TokenBucket(0, 0)
  assert.equal(bucket.take(1e12, 0), 0)
  bucket.setRate(1_000_000, 0)
  bucket.take(1_000_000, 0)
  assert.ok(bucket.take(1_000_000, 0) > 900)
  bucket.setRate(0, 0)
  assert.equal(bucket.take(1e12, 0), 0)
})

test('a debt is over in time, or when what was taken is given back; nobody gets more back than the burst', () => {
  const bucket = new TokenBucket(1_000_000, 0)
  assert.equal(bucket.debtMs(0), 0)
  bucket.take(1_250_000, 0)
  assert.equal(bucket.debtMs(0), 1000)
  assert.equal(bucket.debtMs(400), 600)
  bucket.give(600_000)
  assert.equal(bucket.debtMs(400), 0)
  bucket.give(1e12)
  assert.equal(bucket.take(251_000, 400), 1)
})
