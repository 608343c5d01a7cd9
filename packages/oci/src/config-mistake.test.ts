import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ConfigMistakeError, loadMistakes } from './config-mistake.ts'

const refuse = (key: string, code?: string) => () => {
  const cause = Object.assign(new Error('the system said no'), { code })
  throw new ConfigMistakeError(key, 'is wrong', { cause })
}

test('all that loaders refuse is told, and what only another user may read is marked', async () => {
  const loads = [refuse('a', 'ENOENT'), () => 'fine', refuse('b', 'EACCES'), refuse('c', 'EPERM'), refuse('d')]
  const mistakes = await loadMistakes(ConfigMistakeError, loads, ({ mistake }, index) => ({
    ...mistake,
    below: [index],
  }))
  const message = 'is wrong'
  assert.deepEqual(mistakes, [
    { key: 'a', below: [0], message },
    { key: 'b', below: [2], message, isForbidden: true },
    { key: 'c', below: [3], message, isForbidden: true },
    { key: 'd', below: [4], message },
  ])
})

test('a fault of a loader is no mistake of the configuration', async () => {
  const fault = () => {
    throw new TypeError('x is not a function')
  }
  await assert.rejects(
    loadMistakes(ConfigMistakeError, [fault], ({ mistake }) => mistake),
    TypeError,
  )
})
