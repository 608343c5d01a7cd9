import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import { isToBeLeft } from './leave-peer.ts'

test('who never gave anything while others do is left at once, everybody else after three failures in a row', () => {
  assert.equal(isToBeLeft({ failures: 1, hasDelivered: false }, true), true)
  assert.equal(isToBeLeft({ failures: 2, hasDelivered: true }, true), false)
  assert.equal(isToBeLeft({ failures: 3, hasDelivered: true }, true), true)
  // Nobody delivers: it may be this node's own link.
  assert.equal(isToBeLeft({ failures: 2, hasDelivered: false }, false), false)
  assert.equal(isToBeLeft({ failures: 3, hasDelivered: false }, false), true)
})
