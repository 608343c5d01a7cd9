// What is missing is named, and a skip is refused where nothing may be skipped.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import type { Counts } from './count-reporter.ts'
import { findProgram, missingRequirements } from './requirements.ts'

test('programs are found by name, and what is missing is named', () => {
  assert.ok(findProgram('sh')?.endsWith('/sh'))
  assert.equal(findProgram('no-such-program'), undefined)
  assert.deepEqual(missingRequirements(['sh', 'no-such-program', 'nor-this']), ['no-such-program', 'nor-this'])
})

test('every way a test can end is counted once, and a skip is a failure with CI=true', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-counts-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const file = join(folder, 'sample.test.mts')
  writeFileSync(
    file,
    `import { describe, test } from 'node:test'
     import { requires } from ${JSON.stringify(join(import.meta.dirname, 'requirements.ts'))}
     test('passes', () => {})
     test('lacks', (t) => { if (!requires(t, 'no-such-program')) return })
     describe('suite', () => {
       test('passes too', () => {})
       test('fails', () => { throw new Error('as meant') })
     })
     test('has a failing part', async (t) => { await t.test('part', () => { throw new Error('as meant') }) })`,
  )
  const broken = join(folder, 'broken.test.mts')
  writeFileSync(broken, `import './not-there.ts'`)
  const count = (ci: string): Counts => {
    const report = join(folder, 'report.json')
    const reporter = join(import.meta.dirname, 'count-reporter.ts')
    const { NODE_TEST_CONTEXT: _, ...env } = process.env
    spawnSync(
      process.execPath,
      ['--test', `--test-reporter=${reporter}`, `--test-reporter-destination=${report}`, file, broken],
      { env: { ...env, CI: ci }, encoding: 'utf8' },
    )
    return JSON.parse(readFileSync(report, 'utf8')) as Counts
  }
  const usual = count('')
  assert.deepEqual(usual.skippedNames, ['lacks (missing: no-such-program)'])
  assert.equal(usual.passed, 2)
  assert.equal(usual.skipped, 1)
  assert.deepEqual(usual.failedNames.toSorted(), [broken, 'fails', 'part'].toSorted())
  const strict = count('true')
  assert.equal(strict.skipped, 0)
  assert.deepEqual(strict.failedNames.toSorted(), [broken, 'fails', 'lacks', 'part'].toSorted())
})
