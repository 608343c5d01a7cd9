// Whole-system tests need programs and rights that not every machine has. This names what is missing, skips the test
// by that name, and makes the skip a failure where nothing may be skipped (CI=true).
import { accessSync, constants, readFileSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import { delimiter, join, resolve } from 'node:path'
import type { TestContext } from 'node:test'

/** Where scripts/install-test-tools puts what it builds. */
const BUILT = resolve(import.meta.dirname, '../../.cache/bin')

const SYSTEM_PATH = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin', '/usr/local/sbin']

/** Full path of a program, looked for in PATH, in the administrator's folders and among what was built for the tests. */
export function findProgram(name: string): string | undefined {
  for (const folder of [...SYSTEM_PATH, BUILT]) {
    if (folder === '') continue
    const path = join(folder, name)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // Not here.
    }
  }
  return undefined
}

let namespaces: string | undefined

/** Why network namespaces with shaped links cannot be made here; the empty string if they can. */
function whyNoNamespaces(): string {
  if (namespaces !== undefined) return namespaces
  const ip = findProgram('ip')
  const lacking = ['ip', 'tc', 'setpriv', 'nsenter'].filter((name) => findProgram(name) === undefined)
  if (ip === undefined || lacking.length > 0) namespaces = `${lacking.join(', ')} not installed`
  else if (process.getuid?.() !== 0) namespaces = 'needs root'
  else {
    const name = `shoal-probe-${process.pid}`
    const added = spawnSync(ip, ['netns', 'add', name], { encoding: 'utf8' })
    namespaces = added.status === 0 ? '' : `ip netns add: ${added.stderr.trim()}`
    if (added.status === 0) spawnSync(ip, ['netns', 'del', name])
  }
  return namespaces
}

/** Whether disk images can be mounted. */
function canLoop(): boolean {
  try {
    accessSync('/dev/loop-control', constants.W_OK)
    return readFileSync('/proc/filesystems', 'utf8').includes('ext4')
  } catch {
    return false
  }
}

/** What `descriptors` stands for: a few thousand connections, and what else a process has open. */
const MANY_DESCRIPTORS = 8000

/** How many descriptors this process and its children may have. Node raises its own limit to this. */
function descriptorLimit(): number {
  const [, limit = ''] = /^Max open files\s+\S+\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []
  return limit === 'unlimited' ? Infinity : Number(limit)
}

/** What is missing here of what a test names; empty if nothing. */
export function missingRequirements(names: readonly string[]): string[] {
  const missing: string[] = []
  for (const name of names) {
    if (name === 'root') {
      if (process.getuid?.() !== 0) missing.push('root')
    } else if (name === 'namespaces') {
      const why = whyNoNamespaces()
      if (why !== '') missing.push(`network namespaces (${why})`)
    } else if (name === 'loop') {
      if (!canLoop()) missing.push('loop devices with ext4')
    } else if (name === 'descriptors') {
      const limit = descriptorLimit()
      if (limit < MANY_DESCRIPTORS) missing.push(`${MANY_DESCRIPTORS} descriptors (ulimit -Hn says ${limit})`)
    } else if (findProgram(name) === undefined) missing.push(name)
  }
  return missing
}

/**
 * True if everything named is there. Else the test is marked as skipped, with the names of what is missing, and false
 * comes back: `if (!requires(t, 'containerd', 'root')) return`.
 *
 * @param names - programs, and the words `root`, `namespaces`, `loop` and `descriptors`
 * @throws Error where skipping is not allowed (CI=true)
 */
export function requires(t: TestContext, ...names: string[]): boolean {
  const missing = missingRequirements(names)
  if (missing.length === 0) return true
  const message = `missing: ${missing.join(', ')}`
  if (process.env['CI'] === 'true') throw new Error(`${message} (with CI=true nothing may be skipped)`)
  t.skip(message)
  return false
}
