// What scripts/test runs: the static checks, then every suite of tests, then one line with the sum over all of them.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join, resolve } from 'node:path'
import type { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { parseArgs } from 'node:util'
import type { Counts } from './count-reporter.ts'

const ROOT = resolve(import.meta.dirname, '../..')
const REPORTS = join(ROOT, '.reports')

interface Suite {
  files: string[]
  /** Whole-system suites have the machine to themselves, one file at a time. */
  wholeSystem: boolean
  /** No single test may take longer. */
  testLimitMs: number
}

const SUITES: Record<string, Suite> = {
  unit: {
    files: ['packages/*/src/**/*.test.ts', 'test/support/**/*.test.ts', 'test/fuzz/**/*.test.ts'],
    wholeSystem: false,
    testLimitMs: 120_000,
  },
  conformance: { files: ['test/conformance/**/*.test.ts'], wholeSystem: true, testLimitMs: 300_000 },
  clients: { files: ['test/clients/**/*.test.ts'], wholeSystem: true, testLimitMs: 300_000 },
  lab: { files: ['test/lab/**/*.test.ts'], wholeSystem: true, testLimitMs: 300_000 },
  chaos: { files: ['test/chaos/**/*.test.ts'], wholeSystem: true, testLimitMs: 300_000 },
}

const STATIC: Record<string, string[]> = {
  format: ['node_modules/prettier/bin/prettier.cjs', '--check', '.'],
  lint: ['node_modules/eslint/bin/eslint.js', '.'],
  types: ['node_modules/typescript/bin/tsc', '--noEmit'],
  dependencies: ['--disable-warning=ExperimentalWarning', 'test/support/dependencies.ts'],
}

const HELP = `scripts/test [NAME]...

Runs the named parts, in this order, or all: static ${Object.keys(SUITES).join(' ')}
  --file PATTERN   only test files whose path holds PATTERN
  --only PATTERN   only tests whose name matches PATTERN
With CI=true a skipped test is a failure.`

interface RunOptions {
  /** Added to this process's. */
  env?: NodeJS.ProcessEnv
  /** Where it writes: like this process, or to be given back. @default inherit */
  output?: 'inherit' | 'pipe'
}

/** Runs a command; it is told to stop when this process is. Gives back how it ended, and what it wrote where that is piped. */
async function run(command: string, args: string[], options: RunOptions = {}): Promise<{ code: number; said: string }> {
  const { env = {}, output = 'inherit' } = options
  const child = spawn(command, args, { cwd: ROOT, stdio: ['inherit', output, output], env: { ...process.env, ...env } })
  const forward = (signal: NodeJS.Signals): void => void child.kill(signal)
  process.on('SIGINT', forward).on('SIGTERM', forward)
  try {
    const read = async (stream: Readable | null): Promise<string> => (stream === null ? '' : await text(stream))
    const [closed, ...said] = await Promise.all([once(child, 'close'), read(child.stdout), read(child.stderr)])
    const [code] = closed as [number | null]
    return { code: code ?? 1, said: said.join('') }
  } finally {
    process.off('SIGINT', forward).off('SIGTERM', forward)
  }
}

/** The static checks, all at once. What they say is printed when all are over, in their order. */
async function runStatic(): Promise<{ name: string; code: number }[]> {
  const checks = Object.entries(STATIC).map(async ([name, args]) => {
    return { name, ...(await run(process.execPath, args, { output: 'pipe' })) }
  })
  const results = await Promise.all(checks)
  for (const { name, said } of results) process.stdout.write(`\n# ${name}\n${said}`)
  return results
}

function readCounts(file: string): Counts {
  const lines = readFileSync(file, 'utf8').trim().split('\n')
  return JSON.parse(lines.at(-1) ?? '') as Counts
}

async function runSuite(name: string, suite: Suite, only: { file?: string; name?: string }): Promise<Counts> {
  const { glob } = await import('node:fs/promises')
  const files: string[] = []
  for (const pattern of suite.files) {
    for await (const file of glob(pattern, { cwd: ROOT })) {
      if (!file.includes('node_modules') && file.includes(only.file ?? '')) files.push(file)
    }
  }
  const none: Counts = { passed: 0, failed: 0, skipped: 0, skippedNames: [], failedNames: [] }
  if (files.length === 0) return none
  const report = join(REPORTS, `${name}.json`)
  rmSync(report, { force: true })
  const args = [
    '--disable-warning=ExperimentalWarning',
    '--test',
    // Many unit tests wait for timers and sockets: one more than there are processors keeps these busy.
    `--test-concurrency=${suite.wholeSystem ? 1 : availableParallelism() + 1}`,
    `--test-timeout=${suite.testLimitMs}`,
    '--test-reporter=spec',
    '--test-reporter-destination=stdout',
    `--test-reporter=${join(import.meta.dirname, 'count-reporter.ts')}`,
    `--test-reporter-destination=${report}`,
    ...(only.name === undefined ? [] : [`--test-name-pattern=${only.name}`]),
    ...files.sort(),
  ]
  // Hundreds of processes load the same files. Daemons of the whole-system suites have a cache of their own.
  const env = suite.wholeSystem ? {} : { NODE_COMPILE_CACHE: join(ROOT, 'node_modules/.cache/tests') }
  const { code } = await run(process.execPath, args, { env })
  let counts = none
  try {
    counts = readCounts(report)
  } catch {
    // The runner died before it could count; its exit code says the rest.
  }
  if (code !== 0 && counts.failed === 0) {
    counts.failed++
    counts.failedNames.push(`${name}: the test runner ended with ${code}`)
  }
  return counts
}

function sum({ passed, failed, skipped }: Counts): number {
  return passed + failed + skipped
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { file: { type: 'string' }, only: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
  })
  if (values.help) {
    process.stdout.write(`${HELP}\n`)
    return 0
  }
  const parts = ['static', ...Object.keys(SUITES)]
  const unknown = positionals.filter((name) => !parts.includes(name))
  if (unknown.length > 0) {
    process.stderr.write(`no part named ${unknown.join(', ')}\n${HELP}\n`)
    return 2
  }
  const narrowed = values.file !== undefined || values.only !== undefined
  const chosen = positionals.length > 0 ? positionals : narrowed ? Object.keys(SUITES) : parts
  mkdirSync(REPORTS, { recursive: true })

  const total: Counts = { passed: 0, failed: 0, skipped: 0, skippedNames: [], failedNames: [] }
  const started = performance.now()
  if (chosen.includes('static')) {
    for (const { name, code } of await runStatic()) {
      if (code === 0) total.passed++
      else {
        total.failed++
        total.failedNames.push(name)
      }
    }
  }
  if (chosen.some((name) => SUITES[name]?.wholeSystem)) {
    await run('bash', [join(ROOT, 'scripts/install-test-tools')])
  }
  for (const [name, suite] of Object.entries(SUITES)) {
    if (!chosen.includes(name)) continue
    process.stdout.write(`\n# ${name}\n`)
    const counts = await runSuite(name, suite, {
      ...(values.file === undefined ? {} : { file: values.file }),
      ...(values.only === undefined ? {} : { name: values.only }),
    })
    // A pattern may be about another part; without one a part that runs nothing has lost its tests.
    if (!narrowed && sum(counts) === 0) {
      counts.failed++
      counts.failedNames.push(`${name}: no test was found`)
    }
    total.passed += counts.passed
    total.failed += counts.failed
    total.skipped += counts.skipped
    total.skippedNames.push(...counts.skippedNames)
    total.failedNames.push(...counts.failedNames)
  }

  if (sum(total) === 0) {
    total.failed++
    total.failedNames.push('no test was found that the patterns fit')
  }
  process.stdout.write('\n')
  for (const name of total.skippedNames) process.stdout.write(`skipped: ${name}\n`)
  for (const name of total.failedNames) process.stdout.write(`failed: ${name}\n`)
  process.stdout.write(`took ${Math.round((performance.now() - started) / 1000)} s\n`)
  process.stdout.write(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped\n`)
  const noSkips = process.env['CI'] === 'true'
  return total.failed > 0 || (noSkips && total.skipped > 0) ? 1 : 0
}

process.exitCode = await main()
