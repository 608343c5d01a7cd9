// What bounds a node: buffers, requests, rates.
import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { BufferPool } from './buffer-pool.ts'
import { RateLimits } from './rate-limits.ts'
import { RequestBudget } from './request-budget.ts'

test('the pool gives buffers up to its limit, and again what was given back', () => {
  const pool = new BufferPool(1000)
  const one = pool.take(400)!
  const two = pool.take(400)!
  assert.equal(one.length, 400)
  assert.equal(pool.take(400), undefined)
  pool.give(two)
  assert.ok(pool.take(400))
  assert.equal(pool.usedBytes, 800)
})

test('one buffer is always given, however small the limit', () => {
  const pool = new BufferPool(10)
  assert.equal(pool.take(400)?.length, 400)
  assert.equal(pool.take(400), undefined)
})

test('a buffer is never given to two, and idle ones stay within a quarter of the limit', () => {
  const sizes = fc.constantFrom(100, 250, 600)
  fc.assert(
    fc.property(fc.array(fc.record({ take: fc.boolean(), size: sizes, which: fc.nat(20) })), (steps) => {
      const pool = new BufferPool(2000)
      const held: Buffer[] = []
      const idle = new Set<Buffer>()
      for (const { take, size, which } of steps) {
        if (take) {
          const buffer = pool.take(size)
          if (buffer === undefined) continue
          assert.ok(!held.includes(buffer))
          assert.equal(buffer.length, size)
          idle.delete(buffer)
          held.push(buffer)
        } else if (held.length > 0) {
          const [buffer] = held.splice(which % held.length, 1)
          pool.give(buffer!)
          idle.add(buffer!)
        }
        assert.equal(
          pool.usedBytes,
          held.reduce((sum, { length }) => sum + length, 0),
        )
        assert.ok(pool.usedBytes <= 2000)
      }
      pool.trim()
      const fresh = pool.take(100)
      assert.ok(fresh === undefined || !idle.has(fresh))
    }),
  )
})

class Holder {
  woken = 0
  wake(): void {
    this.woken++
  }
}

test('downloads share the budget; each may always have one request', () => {
  const budget = new RequestBudget(2)
  const [one, two, three] = [new Holder(), new Holder(), new Holder()]
  for (const holder of [one, two, three]) budget.join(holder)
  assert.deepEqual([budget.take(one), budget.take(one), budget.take(one)], [true, true, false])
  assert.equal(budget.take(two), true, 'the first request of a small blob')
  assert.equal(budget.take(two), false)
  assert.equal(budget.canTake(three), true)
  budget.give(one)
  assert.equal(budget.canTake(one), false, 'two are still under way')
  assert.deepEqual([one.woken, two.woken, three.woken], [0, 1, 1])
})

test('who leaves gives back all it has, and what it gives back later counts for nothing', () => {
  const budget = new RequestBudget(2)
  const [one, two] = [new Holder(), new Holder()]
  budget.join(one)
  budget.join(two)
  budget.take(one)
  budget.take(one)
  budget.leave(one)
  budget.give(one)
  budget.give(one)
  assert.equal(budget.take(one), false)
  assert.deepEqual([budget.take(two), budget.take(two), budget.take(two)], [true, true, false])
})

test('a rate makes those wait who come after the burst; none makes nobody wait', async () => {
  const limits = new RateLimits({ uploadRate: 0, downloadRate: 1000, originRate: 0 })
  await limits.upload(1e12)
  const { signal } = new AbortController()
  await limits.download(64 * 1024, signal)
  const waiting = new AbortController()
  const waits = limits.download(1e9, waiting.signal)
  waiting.abort()
  await assert.rejects(waits, { name: 'AbortError' })
})

test('bytes of the origin count as downloaded, too', async () => {
  const limits = new RateLimits({ uploadRate: 0, downloadRate: 1000, originRate: 0 })
  const stop = new AbortController()
  const waits = limits.origin(1e9, stop.signal)
  stop.abort()
  await assert.rejects(waits, { name: 'AbortError' })
})

test('rates change while running', async () => {
  const limits = new RateLimits({ uploadRate: 0, downloadRate: 1000, originRate: 0 })
  limits.set({ downloadRate: 0, uploadRate: 5 })
  assert.deepEqual(limits.rates, { uploadRate: 5, downloadRate: 0, originRate: 0 })
  await limits.download(1e12, new AbortController().signal)
})
