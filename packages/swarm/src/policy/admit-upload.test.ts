import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import fc from 'fast-check'
import { admitUpload, busyRetryMs, busyWaitMs } from './admit-upload.ts'
import { DEFAULT_PARAMETERS } from './parameters.ts'

test('slots are never exceeded, an idle node always serves, and one peer never gets all slots', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 64 }), fc.array(fc.nat({ max: 5 }), { maxLength: 200 }), (slots, askers) => {
      const parameters = { ...DEFAULT_PARAMETERS, uploadSlots: slots }
      const byPeer = new Map<number, number>()
      let active = 0
      for (const asker of askers) {
        const activeToPeer = byPeer.get(asker) ?? 0
        const admitted = admitUpload({ active, activeToPeer }, parameters)
        if (active === 0) assert.ok(admitted)
        if (!admitted) continue
        active++
        byPeer.set(asker, activeToPeer + 1)
      }
      assert.ok(active <= slots)
      for (const toPeer of byPeer.values()) assert.ok(toPeer <= Math.max(1, slots / 2))
    }),
  )
})

test('the wait after a busy is bounded, and grows with the time that a chunk takes', () => {
  fc.assert(
    fc.property(fc.double({ min: 0, max: 0.999999, noNaN: true }), fc.nat({ max: 60_000 }), (chance, usualMs) => {
      const waitMs = busyRetryMs(DEFAULT_PARAMETERS, () => chance, usualMs)
      const scale = Math.max(1, usualMs / 100)
      assert.ok(waitMs >= DEFAULT_PARAMETERS.busyRetryMinMs * scale)
      assert.ok(waitMs <= DEFAULT_PARAMETERS.busyRetryMaxMs * scale)
      // It stays below the time of a chunk: a slot is never left free for longer than it was taken.
      if (usualMs >= 100) assert.ok(waitMs < usualMs)
    }),
  )
})

test('a chunk that its rate would hold back for long is not promised, not even by an idle node', () => {
  for (const lengthBytes of [100, 1e6]) {
    assert.equal(admitUpload({ active: 0, activeToPeer: 0, lengthBytes, waitMs: 500 }, DEFAULT_PARAMETERS), true)
    assert.equal(admitUpload({ active: 0, activeToPeer: 0, lengthBytes, waitMs: 501 }, DEFAULT_PARAMETERS), false)
  }
})

test('a peer is left alone for as long as it wants, but not for ever', () => {
  const wait = (hintMs: number, usualMs = 0) => busyWaitMs(hintMs, DEFAULT_PARAMETERS, () => 0, usualMs)
  assert.deepEqual(
    [0, 700, 0xffff_ffff].map((hintMs) => wait(hintMs)),
    [5, 700, 2000],
  )
  assert.equal(wait(0xffff_ffff, 100_000), 5000)
})
