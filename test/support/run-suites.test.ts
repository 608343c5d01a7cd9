import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'

test('a pattern that fits no test is a failure', () => {
  const args = ['--disable-warning=ExperimentalWarning', join(import.meta.dirname, 'run-suites.ts')]
  const { status, stdout } = spawnSync(process.execPath, [...args, 'unit', '--file', 'no/such/file'], {
    encoding: 'utf8',
  })
  assert.equal(status, 1)
  assert.match(stdout, /no test was found/)
  assert.match(stdout, /0 passed, 1 failed, 0 skipped/)
})
