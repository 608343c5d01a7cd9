// Child processes that are gone when the demo is: each is known by its pid, has its log in a file, and holds a channel to
// this process, at whose end it stops by itself even if this process is killed.
import { spawn, type ChildProcess } from 'node:child_process'
import { open, readFile } from 'node:fs/promises'
import { once } from 'node:events'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { request } from 'undici'
import { CommandError } from '../exit-codes.ts'

const STOP_LIMIT_MS = 10_000
const READY_LIMIT_MS = 60_000
const POLL_MS = 50

export interface ManagedProcess {
  name: string
  logFile: string
  child: ChildProcess
  /** Set once it is over, with the reason in words. */
  ended?: string
}

export class Processes {
  readonly #all: ManagedProcess[] = []
  readonly #logDirectory: string
  readonly #command: readonly string[]
  #isClosed = false
  readonly #onExit = () => {
    for (const { child, ended } of this.#all) if (ended === undefined) child.kill('SIGKILL')
  }

  /** @param command - arguments of node before those of `start`. @default this same command */
  constructor(logDirectory: string, command: readonly string[] = [...process.execArgv, process.argv[1] ?? '']) {
    this.#logDirectory = logDirectory
    this.#command = command
    process.on('exit', this.#onExit)
  }

  /** Starts the command with these arguments. */
  async start(name: string, args: string[]): Promise<ManagedProcess> {
    const logFile = join(this.#logDirectory, `${name}.log`)
    const log = await open(logFile, 'a', 0o600)
    try {
      // What is being started while all is stopped would stay behind.
      if (this.#isClosed) throw new CommandError(`${name} is not started: everything is being stopped`)
      const child = spawn(process.execPath, [...this.#command, ...args], {
        stdio: ['ignore', log.fd, log.fd, 'ipc'],
        // A process group of its own: Ctrl-C reaches this process alone, which then stops the others in order.
        detached: true,
        env: withoutSettings(process.env),
      })
      const managed: ManagedProcess = { name, logFile, child }
      child.once('error', (error) => (managed.ended = error.message))
      child.once('exit', (code, signal) => (managed.ended ??= signal ? `killed by ${signal}` : `exit code ${code}`))
      this.#all.push(managed)
      return managed
    } finally {
      await log.close()
    }
  }

  /** Waits until the process answers 200 at the URL. @throws CommandError when it ends first or takes too long */
  async ready(managed: ManagedProcess, url: string, signal: AbortSignal): Promise<void> {
    const deadline = AbortSignal.timeout(READY_LIMIT_MS)
    let last = 'no answer'
    while (!deadline.aborted) {
      signal.throwIfAborted()
      if (managed.ended !== undefined) throw new CommandError(`${managed.name} ended: ${managed.ended}`)
      try {
        const answer = await request(url, { headersTimeout: 2_000, bodyTimeout: 2_000, signal })
        const body = (await answer.body.text()).slice(0, 200)
        if (answer.statusCode === 200) return
        last = `${answer.statusCode} ${body}`
      } catch (error) {
        last = error instanceof Error ? error.message : String(error)
      }
      await delay(POLL_MS, undefined, { signal })
    }
    throw new CommandError(`${managed.name} is not ready after ${READY_LIMIT_MS / 1_000} s: ${last}`)
  }

  /** Processes that have ended though nobody told them to. */
  ended(): ManagedProcess[] {
    return this.#all.filter(({ ended }) => ended !== undefined)
  }

  /** The last lines of every log. */
  async tails(lines: number): Promise<string> {
    const tails = await Promise.all(
      this.#all.map(async ({ name, logFile, ended }) => {
        const text = await readFile(logFile, 'utf8').catch(() => '')
        const tail = text.trimEnd().split('\n').slice(-lines).join('\n')
        return `--- ${name}${ended === undefined ? '' : ` (${ended})`}\n${tail}`
      }),
    )
    return tails.join('\n')
  }

  /** Stops all, the last started first; who does not go is killed. */
  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.all(
      this.#all.toReversed().map(async (managed) => {
        if (managed.ended !== undefined || managed.child.pid === undefined) return
        const gone = once(managed.child, 'exit')
        managed.child.kill('SIGTERM')
        const timer = setTimeout(() => managed.child.kill('SIGKILL'), STOP_LIMIT_MS)
        await gone
        clearTimeout(timer)
      }),
    )
    process.off('exit', this.#onExit)
  }
}

/** The demo's daemons are configured by their files alone. */
function withoutSettings(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(environment).filter(([name]) => !/^(SHOAL_|https?_proxy$)/i.test(name)))
}
