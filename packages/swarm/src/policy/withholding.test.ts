import assert from 'node:assert/strict'
import test from 'node:test'
import { spreadPatienceMs, withholds } from './withholding.ts'

const swarm = { spread: 20, alone: 2 }

test('who gives nobody what it has fetched withholds it', () => {
  assert.ok(withholds({ spread: 0, alone: 3 }, swarm))
})

test('one chunk that has spread, or too few to judge by, clear a member', () => {
  assert.ok(!withholds({ spread: 1, alone: 10 }, swarm))
  assert.ok(!withholds({ spread: 0, alone: 2 }, swarm))
})

test('where nothing spreads nobody is judged', () => {
  assert.ok(!withholds({ spread: 0, alone: 10 }, { spread: 0, alone: 0 }))
  assert.ok(!withholds({ spread: 0, alone: 10 }, { spread: 2, alone: 0 }))
  assert.ok(!withholds({ spread: 0, alone: 10 }, { spread: 20, alone: 10 }))
})

test('patience grows with what a chunk takes from the origin, and until there is a second copy', () => {
  assert.equal(spreadPatienceMs(0, 0), 2000)
  assert.equal(spreadPatienceMs(3000, 100), 12_000)
  assert.equal(spreadPatienceMs(100, 1000), 4000)
})
