// Whether a LevelDB database can be read without harm to the process that reads it. LevelDB compares no checksums of its tables'
// blocks when it reads them, and some damage it meets with an assertion or by reading past an end: that ends the process, and
// would do so at every start. So another process reads first what the disk may have harmed.
import { fork } from 'node:child_process'
import { rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Logger } from 'pino'
import { isThere } from './blob-file.ts'
import { DAMAGED_EXIT_CODE } from './level-damage.ts'

const READER = fileURLToPath(new URL('./level-reader.ts', import.meta.url))

/** How a process ends that LevelDB, or what LevelDB stands on, has ended. Not among them: what others send (SIGTERM, SIGKILL). */
const FATAL_SIGNALS = new Set<NodeJS.Signals>(['SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGSEGV', 'SIGTRAP'])

/** Disks that take longer than this are read by whoever opens the database. */
const LIMIT_MS = 60_000

/** The end of what the process says is enough to see what LevelDB did not like. */
const KEPT_OUTPUT_CHARACTERS = 2000

interface Reading {
  result: 'whole' | 'damaged' | 'deadly' | 'unknown'
  /** What the process said at last. */
  output: string
}

/**
 * Reads all of a database, which must not be open, in a process of its own (0.1 s, and the time to read its files). Where damage is
 * found, what can be read of it is kept; where reading ends the process even so, the database is moved aside (`.corrupt`), and
 * a new one can be made in its place. Whatever else is the matter shows when it is opened.
 * @returns whether it was moved aside
 * @throws the system's error when it cannot be moved
 */
export async function moveAsideIfDeadly(location: string, log: Logger): Promise<boolean> {
  // Without this file there is no database yet.
  if (!(await isThere(join(location, 'CURRENT')))) return false
  let reading = await readElsewhere(location, 'read')
  if (reading.result === 'damaged') {
    log.warn({ database: location, reason: reading.output }, 'a database is damaged: what can be read of it is kept')
    reading = await readElsewhere(location, 'repair')
  }
  const { result, output } = reading
  if (result === 'unknown') log.warn({ database: location, reason: output }, 'a database could not be looked through')
  if (result !== 'deadly') return false
  log.error({ database: location, reason: output }, 'a database ends the process that reads it: it is moved aside')
  await moveAside(location)
  return true
}

/** Takes a database out of the way, and what was there before. */
export async function moveAside(location: string): Promise<void> {
  const aside = `${location}.corrupt`
  await rm(aside, { recursive: true, force: true })
  await rename(location, aside)
}

function readElsewhere(location: string, mode: 'read' | 'repair'): Promise<Reading> {
  return new Promise((resolve) => {
    const child = fork(READER, [location, mode], {
      execArgv: ['--disable-warning=ExperimentalWarning'],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      timeout: LIMIT_MS,
      killSignal: 'SIGKILL',
    })
    let output = ''
    let isReading = false
    child.on('message', () => (isReading = true))
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-KEPT_OUTPUT_CHARACTERS)
    })
    child.on('error', (error) => resolve({ result: 'unknown', output: error.message }))
    child.on('close', (code, signal) => {
      const isFatal = isReading && signal !== null && FATAL_SIGNALS.has(signal)
      const result = code === 0 ? 'whole' : code === DAMAGED_EXIT_CODE ? 'damaged' : isFatal ? 'deadly' : 'unknown'
      resolve({ result, output: output.trim() || `it ended with ${signal ?? code}` })
    })
  })
}
