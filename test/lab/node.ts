// A node of the lab: a place in the network, a probe there, and at most one daemon that can be stopped, killed, frozen
// and started again.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { Daemon } from '../support/daemon.ts'
import { metricSum, parseMetrics, type Sample } from '../support/metrics.ts'
import { until } from '../support/until.ts'
import type { Link } from './network.ts'
import { Probe } from './probe-client.ts'

export interface NodeOptions {
  link: Link
  /** Holds the node's data and log. */
  folder: string
  /** What runs here, if anything; a function is asked at every start. */
  command?: readonly string[] | (() => readonly string[])
  /** Answers 200 as soon as the daemon is ready. */
  readyUrl?: string
  /** Where metrics are. */
  metricsUrl?: string
  /** @default 30000 */
  readyLimitMs?: number
}

export interface ExecResult {
  code: number
  stdout: string
  stderr: string
}

export interface ExecOptions {
  /** @default 60000 */
  limitMs?: number
  env?: NodeJS.ProcessEnv
}

/** Runs a program, waits for its end, and kills it when it takes too long. */
export function execute(program: readonly string[], { limitMs = 60_000, env }: ExecOptions = {}): Promise<ExecResult> {
  const [command = '', ...args] = program
  return new Promise<ExecResult>((resolve, reject) => {
    const child = spawn(command, args, { env: env ?? process.env, timeout: limitMs, killSignal: 'SIGKILL' })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
    child.once('error', reject)
    child.once('close', (code) => resolve({ code: code ?? -1, stdout, stderr }))
  })
}

export class LabNode {
  readonly name: string
  readonly link: Link
  readonly folder: string
  readonly probe: Probe
  readonly #options: NodeOptions
  #daemon: Daemon | undefined

  constructor(options: NodeOptions) {
    this.#options = options
    this.link = options.link
    this.name = options.link.name
    this.folder = options.folder
    this.probe = new Probe(options.link)
  }

  get address(): string {
    return this.link.address
  }

  get running(): boolean {
    return this.#daemon?.running ?? false
  }

  get pid(): number | undefined {
    return this.running ? this.#daemon?.pid : undefined
  }

  get logFile(): string {
    return join(this.folder, 'log')
  }

  /** Starts the daemon and waits until it is ready. */
  async start(): Promise<void> {
    this.launch()
    await this.ready()
  }

  /** Starts the daemon and does not wait. */
  launch(): void {
    const { command } = this.#options
    if (command === undefined) throw new Error(`${this.name} has nothing to run`)
    if (this.running) throw new Error(`${this.name} is running already`)
    this.#daemon = new Daemon({
      name: this.name,
      command: this.link.command(typeof command === 'function' ? command() : command),
      logFile: this.logFile,
    })
  }

  /** @throws DaemonError with the log's end if the daemon ends before, DeadlineError if it takes too long */
  async ready(): Promise<void> {
    const { readyUrl, readyLimitMs = 30_000 } = this.#options
    const daemon = this.#daemon
    await this.probe.ready
    if (readyUrl === undefined || daemon === undefined) return
    const look = async () => !daemon.running || (await this.probe.get(readyUrl)).status === 200
    await until(look, { what: `readiness of ${this.name}`, deadlineMs: readyLimitMs })
    daemon.assertRunning()
  }

  /** kill -9. */
  async kill(): Promise<void> {
    await this.#daemon?.stop('SIGKILL')
  }

  /** SIGTERM, and how the daemon then ended. */
  async stop(): Promise<number | string> {
    return (await this.#daemon?.stop()) ?? 0
  }

  /** Stops it in its tracks: its kernel still takes connections, nobody answers. */
  freeze(): void {
    this.#daemon?.kill('SIGSTOP')
  }

  thaw(): void {
    this.#daemon?.kill('SIGCONT')
  }

  /** @throws DaemonError with the log's end if the daemon has ended by itself */
  assertRunning(): void {
    this.#daemon?.assertRunning()
  }

  async metrics(): Promise<Sample[]> {
    const { metricsUrl } = this.#options
    if (metricsUrl === undefined) throw new Error(`${this.name} has no metrics`)
    const page = await this.probe.get(metricsUrl)
    if (page.status !== 200) throw new Error(`metrics of ${this.name}: ${page.status} ${page.text}`)
    return parseMetrics(page.text)
  }

  /** Sum over the samples of that name with these labels. */
  async metric(name: string, labels: Record<string, string> = {}): Promise<number> {
    return metricSum(await this.metrics(), name, labels)
  }

  /** Runs a program at this node's place and waits for its end. */
  exec(program: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
    return execute(this.link.command(program), options)
  }

  logTail(lines = 15): string {
    return this.#daemon?.logTail(lines) ?? ''
  }

  /** Synchronous, for the end of a run. */
  close(): void {
    this.#daemon?.kill('SIGKILL')
    this.probe.close()
  }
}
