import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import { parseScenario, ScenarioError } from './scenario.ts'

const GOOD = {
  name: 'x',
  title: 'x',
  nodes: 2,
  blobsBytes: [1000],
  nodeBytesPerSecond: 1,
  originBytesPerSecond: 1,
}

test('a scenario that cannot be used is refused, naming the key', () => {
  const cases: [object, RegExp][] = [
    [{ nodes: 0 }, /nodes must be/],
    [{ nodes: 1e9 }, /nodes must be/],
    [{ blobsBytes: [] }, /blobsBytes/],
    [{ blobsBytes: ['a'] }, /blobsBytes/],
    [{ controlDelay: 1 }, /unknown key controlDelay/],
    [{ controlDelayMs: -1 }, /controlDelayMs must be a number/],
    [{ targets: { p95: 1 } }, /unknown target p95/],
  ]
  for (const [change, message] of cases) {
    assert.throws(
      () => parseScenario(JSON.stringify({ ...GOOD, ...change }), 'file'),
      (error) => error instanceof ScenarioError && message.test(error.message),
    )
  }
  assert.throws(() => parseScenario('{', 'file'), /file is not JSON/)
  assert.throws(() => parseScenario('{"name":"x"}', 'file'), /title is missing/)
  assert.equal(parseScenario(JSON.stringify(GOOD), 'file').nodes, 2)
})
