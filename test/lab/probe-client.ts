// The test's end of a probe: starts it at a node's place, sends it commands, waits for what it answers.
import { spawn, type ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { ImageSpec } from '../support/image-spec.ts'
import { findProgram } from '../support/requirements.ts'
import type { Link } from './network.ts'
import type { ProbeAnswer, ProbeCommand, ProbePage } from './probe.ts'
import type { PullRequest, PullResult } from './pull-client.ts'

/** What was asked of a node failed there. */
export class ProbeError extends Error {
  override name = 'ProbeError'
  /** HTTP status, if it was an answer. */
  readonly status: number | undefined
  /** The system's code, such as ECONNREFUSED. */
  readonly code: string | undefined
  /** Digests of blobs that came whole and wrong in a pull that failed for another reason. */
  readonly wrong: readonly string[]

  constructor(message: string, status?: number, code?: string, wrong: readonly string[] = []) {
    super(message)
    this.status = status
    this.code = code
    this.wrong = wrong
  }
}

interface Waiting {
  resolve: (answer: unknown) => void
  reject: (error: Error) => void
  onProgress: (bytes: number) => void
}

export class Probe {
  readonly ready: Promise<unknown>
  readonly #name: string
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, Waiting>()
  #next = 1

  constructor(link: Link) {
    this.#name = link.name
    const program = [process.execPath, '--disable-warning=ExperimentalWarning', join(import.meta.dirname, 'probe.ts')]
    const [command = '', ...args] = link.command(program)
    const setpriv = findProgram('setpriv') ?? 'setpriv'
    this.#child = spawn(setpriv, ['--pdeathsig', 'KILL', '--', command, ...args], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    this.ready = this.#expect(0, () => {})
    this.ready.catch(() => {})
    if (this.#child.stdout) createInterface({ input: this.#child.stdout }).on('line', (line) => this.#hear(line))
    this.#child.stdin?.on('error', () => {})
    const gone = (why: string): void => {
      for (const { reject } of this.#waiting.values()) reject(new ProbeError(`probe of ${this.#name}: ${why}`))
      this.#waiting.clear()
    }
    this.#child.once('error', (error) => gone(error.message))
    this.#child.once('exit', (code, signal) => gone(`ended with ${code ?? signal}`))
  }

  /** A small answer as text. Any status is an answer. */
  get(url: string, options: Omit<Extract<ProbeCommand, { op: 'get' }>, 'op' | 'url'> = {}): Promise<ProbePage> {
    return this.#send({ op: 'get', url, ...options }) as Promise<ProbePage>
  }

  pull(request: PullRequest, onProgress: (bytes: number) => void = () => {}): Promise<PullResult> {
    return this.#send({ op: 'pull', request }, onProgress) as Promise<PullResult>
  }

  /** Gives back the digest under the tag. */
  push(base: string, repository: string, tag: string, spec: ImageSpec): Promise<string> {
    return this.#send({ op: 'push', base, repository, tag, spec }) as Promise<string>
  }

  close(): void {
    this.#child.stdin?.end()
    this.#child.kill('SIGKILL')
  }

  #expect(id: number, onProgress: (bytes: number) => void): Promise<unknown> {
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject, onProgress }))
  }

  #send(command: ProbeCommand, onProgress: (bytes: number) => void = () => {}): Promise<unknown> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) {
      return Promise.reject(new ProbeError(`probe of ${this.#name} has ended`))
    }
    const id = this.#next++
    const answer = this.#expect(id, onProgress)
    this.#child.stdin?.write(`${JSON.stringify({ id, command })}\n`)
    return answer
  }

  #hear(line: string): void {
    const { id, progress, result, error } = JSON.parse(line) as ProbeAnswer
    const waiting = this.#waiting.get(id)
    if (waiting === undefined) return
    if (progress !== undefined) {
      waiting.onProgress(progress)
      return
    }
    this.#waiting.delete(id)
    if (error) waiting.reject(new ProbeError(`${this.#name}: ${error.message}`, error.status, error.code, error.wrong))
    else waiting.resolve(result)
  }
}
