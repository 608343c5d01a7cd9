import assert from 'node:assert/strict'
import { test } from 'node:test'
import { rankResults } from './search.ts'

const found = (...names: string[]) => names.map((name) => ({ name, description: '' }))
const names = (term: string, ...all: string[]) => rankResults(found(...all), term).map(({ name }) => name)

test('slashes around a term mean nothing, however many there are', { timeout: 20_000 }, () => {
  assert.deepEqual(names('/team/', 'other', 'team/app', 'a/team'), ['a/team', 'team/app'])
  assert.deepEqual(names('///', 'a', 'b'), ['a', 'b'])
  // A pattern that backtracks took minutes for this, and nobody else was answered meanwhile.
  assert.deepEqual(names(`a${'/'.repeat(500_000)}b`, 'a', 'b'), [])
})
