// What Shoal is shipped with: every production dependency must have a licence that may be passed on, and no known hole.
// Licences are read from the lock file, without a network. Holes are asked of the registry; where it does not answer such
// questions (a mirror, no network) that is said and is no failure.
//
//   node test/support/dependencies.ts          the check, as scripts/test runs it
//   node test/support/dependencies.ts --list   name, version and licence of each
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'

const ROOT = resolve(import.meta.dirname, '../..')
const AUDIT_LIMIT_MS = 20_000

/** SPDX identifiers of licences that ask for no more than to be named. */
const ALLOWED = new Set([
  '0BSD',
  'Apache-2.0',
  'BlueOak-1.0.0',
  'BSD-2-Clause',
  'BSD-3-Clause',
  'CC0-1.0',
  'ISC',
  'MIT',
  'Python-2.0',
  'Unlicense',
])

export interface Dependency {
  name: string
  version: string
  /** SPDX expression; empty where the package says none. */
  licence: string
}

interface LockEntry {
  version?: string
  license?: string
  dev?: boolean
  link?: boolean
}

/** The production dependencies in a package-lock.json (version 3). */
export function dependenciesIn(lockText: string): Dependency[] {
  const { packages } = JSON.parse(lockText) as { packages: Record<string, LockEntry> }
  const found: Dependency[] = []
  for (const [path, { version = '', license = '', dev, link }] of Object.entries(packages)) {
    const at = path.lastIndexOf('node_modules/')
    if (at === -1 || dev === true || link === true) continue
    found.push({ name: path.slice(at + 'node_modules/'.length), version, licence: license })
  }
  return found.sort((a, b) => a.name.localeCompare(b.name))
}

/** Whether an SPDX expression can be met with licences that are allowed. Exceptions (WITH) and unknown words are not. */
export function isAllowed(expression: string): boolean {
  const words = expression.replaceAll('(', ' ').replaceAll(')', ' ').trim()
  // A choice needs one that is allowed; where both count, both must be. No dependency mixes the two without brackets.
  if (/ OR /.test(words) && / AND /.test(words))
    return words.split(/ OR | AND /).every((each) => ALLOWED.has(each.trim()))
  if (/ AND /.test(words)) return words.split(' AND ').every((each) => ALLOWED.has(each.trim()))
  return words.split(' OR ').some((each) => ALLOWED.has(each.trim()))
}

type Audit = { kind: 'answered'; severe: string[] } | { kind: 'unanswered'; why: string }

/** What `npm audit --json` printed. */
export function readAudit(text: string): Audit {
  let report: { vulnerabilities?: Record<string, { severity: string }>; message?: string }
  try {
    report = JSON.parse(text) as typeof report
  } catch {
    return { kind: 'unanswered', why: 'no answer' }
  }
  if (report.vulnerabilities === undefined) return { kind: 'unanswered', why: report.message ?? 'no answer' }
  const severe = Object.entries(report.vulnerabilities).filter(([, { severity }]) => /^(high|critical)$/.test(severity))
  return { kind: 'answered', severe: severe.map(([name, { severity }]) => `${name} (${severity})`) }
}

async function audit(): Promise<Audit> {
  const text = await new Promise<string>((done) => {
    const args = ['audit', '--omit=dev', '--json', '--fetch-retries=0']
    execFile('npm', args, { cwd: ROOT, timeout: AUDIT_LIMIT_MS, maxBuffer: 64 * 1024 * 1024 }, (_error, stdout) => {
      done(stdout)
    })
  })
  return readAudit(text)
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { list: { type: 'boolean', default: false } } })
  const dependencies = dependenciesIn(readFileSync(join(ROOT, 'package-lock.json'), 'utf8'))
  if (values.list) {
    const lines = dependencies.map(({ name, version, licence }) => `${name}\t${version}\t${licence}\n`)
    process.stdout.write(lines.join(''))
    return 0
  }
  const refused = dependencies.filter(({ licence }) => !isAllowed(licence))
  for (const { name, version, licence } of refused) {
    process.stderr.write(`${name}@${version}: the licence "${licence || 'none'}" is not on the list of those allowed\n`)
  }
  process.stdout.write(`${dependencies.length} production dependencies, ${refused.length} with a licence not allowed\n`)
  const holes = await audit()
  if (holes.kind === 'unanswered') process.stdout.write(`not audited: the registry did not answer (${holes.why})\n`)
  else
    process.stdout.write(`${holes.severe.length} known holes of high severity: ${holes.severe.join(', ') || 'none'}\n`)
  return refused.length > 0 || (holes.kind === 'answered' && holes.severe.length > 0) ? 1 : 0
}

if (import.meta.main) process.exitCode = await main()
