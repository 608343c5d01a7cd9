import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import { isToBeLeft } from './leave-peer.ts'

test('who is silent from the beginning while others deliver is left at once, everybody else after three failures in a row', () => {
  const silent = { hasDelivered: false, isSilent: true }
  assert.equal(isToBeLeft({ ...silent, failures: 1 }, true), true)
  for (const [record, othersDeliver] of [
    [{ ...silent, hasDelivered: true }, true],
    [{ ...silent, isSilent: false }, true],
    // Nobody delivers: it may be this node's own link.
    [silent, false],
  ] as const) {
    assert.equal(isToBeLeft({ ...record, failures: 2 }, othersDeliver), false)
    assert.equal(isToBeLeft({ ...record, failures: 3 }, othersDeliver), true)
  }
})
