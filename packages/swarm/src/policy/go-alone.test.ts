import assert from 'node:assert/strict'
import test from 'node:test'
import { isForsaken } from './go-alone.ts'

test('a node is forsaken when nothing comes, neither here nor at its neighbours', () => {
  const waiting = { silentMs: 10_000, neighboursSilentMs: Infinity, usualChunkMs: 0 }
  assert.equal(isForsaken(waiting, 10_000), true)
  assert.equal(isForsaken({ ...waiting, silentMs: 9999 }, 10_000), false)
  assert.equal(isForsaken({ ...waiting, neighboursSilentMs: 500 }, 10_000), false)
})

test('where chunks take long it waits for longer, and not for ever for the word of others', () => {
  const waiting = { silentMs: 12_000, neighboursSilentMs: 12_000, usualChunkMs: 4000 }
  assert.equal(isForsaken(waiting, 10_000), false)
  assert.equal(isForsaken({ silentMs: 20_000, neighboursSilentMs: 0, usualChunkMs: 0 }, 10_000), true)
})
