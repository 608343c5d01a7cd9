// Each lab is a run with an id: a folder in the temporary directory and namespaces that carry it. Here runs begin, end
// whatever happens, and are found again when the one who made them died without cleaning up.
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { listNamespaces, removeNamespaces } from './network.ts'

const FOLDER_PREFIX = 'shoal-lab-'
const NAMESPACE = /^(shoal-[A-Za-z0-9]{6})-/

interface Owner {
  pid: number
  started: string
}

/** Start time of a process in the kernel's words: tells a process from a later one with the same id. */
function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // Field 22, counted behind the name, which may hold spaces.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
  } catch {
    return undefined
  }
}

export class Run {
  /** First part of the names of this run's namespaces. */
  readonly prefix: string
  /** Everything the run writes to disk. */
  readonly folder: string
  #closers: (() => void)[] = []
  #closed = false

  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), FOLDER_PREFIX))
    this.prefix = `shoal-${basename(this.folder).slice(FOLDER_PREFIX.length)}`
    const owner: Owner = { pid: process.pid, started: startOf(process.pid) ?? '' }
    writeFileSync(join(this.folder, 'owner.json'), JSON.stringify(owner))
    open.add(this)
  }

  /** Makes a folder inside the run's. */
  directory(name: string): string {
    const path = join(this.folder, name)
    mkdirSync(path, { recursive: true })
    return path
  }

  /** Done at the end, last come first. */
  atEnd(closer: () => void): void {
    this.#closers.push(closer)
  }

  /** Removes everything of the run. Synchronous, so that it works while the process exits; may be called twice. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    open.delete(this)
    for (const closer of this.#closers.reverse()) closer()
    removeNamespaces(this.prefix)
    removeFolder(this.folder)
  }
}

/** Container runtimes that were killed leave mounts behind, and what is mounted cannot be removed. */
function removeFolder(folder: string): void {
  const mounts = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((path) => path.startsWith(`${folder}/`))
  for (const path of mounts.reverse()) spawnSync('umount', ['-l', path])
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
}

const open = new Set<Run>()

process.on('exit', () => {
  for (const run of open) run.close()
})
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => process.exit(130))
}

/** Removes the runs whose makers are gone; gives back what it removed. */
export function cleanStaleRuns(): string[] {
  const alive = new Set<string>()
  const removed: string[] = []
  for (const name of readdirSync(tmpdir())) {
    if (!name.startsWith(FOLDER_PREFIX)) continue
    const folder = join(tmpdir(), name)
    const prefix = `shoal-${name.slice(FOLDER_PREFIX.length)}`
    let owner: Owner | undefined
    try {
      owner = JSON.parse(readFileSync(join(folder, 'owner.json'), 'utf8')) as Owner
    } catch {
      // Being made this very moment, or its maker died in that moment.
    }
    const young = Date.now() - statSync(folder).mtimeMs < 60_000
    if (owner === undefined ? young : startOf(owner.pid) === owner.started) {
      alive.add(prefix)
      continue
    }
    removeNamespaces(prefix)
    removeFolder(folder)
    removed.push(prefix)
  }
  const orphans = new Set(listNamespaces().map((name) => NAMESPACE.exec(name)?.[1] ?? ''))
  orphans.delete('')
  for (const prefix of orphans) {
    if (alive.has(prefix) || removed.includes(prefix)) continue
    removeNamespaces(prefix)
    removed.push(prefix)
  }
  return removed
}
