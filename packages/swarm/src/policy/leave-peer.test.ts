import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import { isCheapElsewhere, isToBeLeft } from './leave-peer.ts'

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
