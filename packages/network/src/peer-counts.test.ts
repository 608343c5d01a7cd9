import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Registry } from 'prom-client'
import { countByPeer } from './peer-counts.ts'

test('the last hundred peers are named, each with its own count', async () => {
  const registry = new Registry()
  const count = countByPeer(registry, 'test_faults', 'Faults.')
  count('first', 'silent')
  for (let peer = 0; peer < 99; peer++) count(`peer ${peer}`, 'silent')
  count('first', 'silent')
  count('one more', 'silent')
  const page = await registry.metrics()
  assert.match(page, /^test_faults\{peer="first",reason="silent"\} 2$/m)
  assert.match(page, /^test_faults\{peer="one more",reason="silent"\} 1$/m)
  assert.doesNotMatch(page, /peer="peer 0"/)
  assert.equal(page.split('\n').filter((line) => line.startsWith('test_faults{')).length, 100)
})
