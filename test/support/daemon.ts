// A process under test: its log in a file, its end by its own process id, its last words when something fails.
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { findProgram } from './requirements.ts'
import { within } from './until.ts'

/** A process ended that should have gone on. The message holds the end of its log. */
export class DaemonError extends Error {
  override name = 'DaemonError'
}

export interface DaemonOptions {
  /** What messages call it. */
  name: string
  command: readonly string[]
  /** Standard output and standard error are appended here. */
  logFile: string
  env?: NodeJS.ProcessEnv
  cwd?: string
  /** SIGTERM first, SIGKILL after this. @default 10000 */
  stopLimitMs?: number
}

/** Live daemons of this process: whatever ends it, they are killed. */
const live = new Set<Daemon>()

process.on('exit', () => {
  for (const daemon of live) daemon.kill('SIGKILL')
})

export class Daemon {
  readonly name: string
  readonly logFile: string
  readonly pid: number
  /** The exit code, or the signal's name. */
  readonly ended: Promise<number | string>
  #child: ChildProcess
  #end: number | string | undefined
  #stopLimitMs: number

  constructor({ name, command, logFile, env, cwd, stopLimitMs = 10_000 }: DaemonOptions) {
    this.name = name
    this.logFile = logFile
    this.#stopLimitMs = stopLimitMs
    // The kernel ends the daemon with us, even if we are killed without a word.
    const setpriv = findProgram('setpriv')
    const [program = '', ...args] = setpriv ? [setpriv, '--pdeathsig', 'KILL', '--', ...command] : command
    const log = openSync(logFile, 'a')
    try {
      this.#child = spawn(program, args, { stdio: ['ignore', log, log], env: env ?? process.env, cwd })
    } finally {
      closeSync(log)
    }
    this.pid = this.#child.pid ?? 0
    live.add(this)
    this.ended = new Promise((resolve) => {
      const end = (how: number | string): void => {
        this.#end = how
        live.delete(this)
        resolve(how)
      }
      this.#child.once('error', (error) => end(error.message))
      this.#child.once('exit', (code, signal) => end(code ?? signal ?? 'unknown'))
    })
  }

  get running(): boolean {
    return this.#end === undefined
  }

  /** False if it has ended already. */
  kill(signal: NodeJS.Signals): boolean {
    return this.running && this.#child.kill(signal)
  }

  /** @throws DaemonError with the log's end if it is not running */
  assertRunning(): void {
    if (!this.running) {
      throw new DaemonError(`${this.name} ended (${this.#end}). Its last lines:\n${this.logTail()}`)
    }
  }

  /** Gives back how it ended. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | string> {
    if (this.kill(signal)) {
      // A stopped process takes no other signal.
      if (signal !== 'SIGKILL') this.kill('SIGCONT')
      await within(this.ended, this.#stopLimitMs, `end of ${this.name}`).catch(() => this.kill('SIGKILL'))
    }
    return this.ended
  }

  log(): string {
    return readFileSync(this.logFile, 'utf8')
  }

  logTail(lines = 30): string {
    const last = this.log().trimEnd().split('\n').slice(-lines)
    return last.map((line) => (line.length > 400 ? `${line.slice(0, 400)}…` : line)).join('\n')
  }
}
