import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import { isCheapElsewhere, isToBeLeft, judgeBusy } from './leave-peer.ts'

test('who is silent from the beginning is left at once where its chunk is cheap to have elsewhere, everybody else after three failures in a row', () => {
  const silent = { hasDelivered: false, isSilent: true }
  assert.equal(isToBeLeft({ ...silent, failures: 1 }, true), true)
  for (const [record, cheapElsewhere] of [
    [{ ...silent, hasDelivered: true }, true],
    [{ ...silent, isSilent: false }, true],
    // Nobody delivers, and there is much to fetch: it may be this node's own link.
    [silent, false],
  ] as const) {
    assert.equal(isToBeLeft({ ...record, failures: 2 }, cheapElsewhere), false)
    assert.equal(isToBeLeft({ ...record, failures: 3 }, cheapElsewhere), true)
  }
})

test('a blob of one chunk is cheap to have elsewhere, a longer one while others deliver it', () => {
  assert.equal(isCheapElsewhere(false, 1), true)
  assert.equal(isCheapElsewhere(false, 2), false)
  assert.equal(isCheapElsewhere(true, 2), true)
})

test('a busy counts against a peer only when it has given nothing, and for long nothing has come from anywhere', () => {
  const vain = { hasDelivered: false, busyForMs: 2000, silentMs: 2000, usualMs: 0, sizeBytes: 1024 * 1024 }
  assert.equal(judgeBusy(vain), 'in vain')
  assert.equal(judgeBusy({ ...vain, hasDelivered: true }), 'in order')
  assert.equal(judgeBusy({ ...vain, busyForMs: 1999 }), 'in order')
  assert.equal(judgeBusy({ ...vain, silentMs: 1999 }), 'in order')
  // On a slow link a slot is taken for as long.
  assert.equal(judgeBusy({ ...vain, usualMs: 1000 }), 'in order')
  assert.equal(judgeBusy({ ...vain, usualMs: 1000, busyForMs: 4000, silentMs: 4000 }), 'in vain')
})

test('who is busy for half a second where only a manifest is asked for is left', () => {
  const small = { hasDelivered: false, busyForMs: 500, silentMs: 500, usualMs: 0, sizeBytes: 1000 }
  assert.equal(judgeBusy(small), 'to be left')
  assert.equal(judgeBusy({ ...small, busyForMs: 499 }), 'in order')
  assert.equal(judgeBusy({ ...small, silentMs: 499 }), 'in order')
  assert.equal(judgeBusy({ ...small, hasDelivered: true }), 'in order')
})
