// Where hashing happens. Measured for chunks of 4 MiB that are checked, written (to memory) and hashed as a whole: with a
// thread the main thread spends 0.15 CPU seconds per GB and all threads 1.9, inline the main thread 1.3 and all 1.7.
import { Worker } from 'node:worker_threads'
import type { Logger } from 'pino'
import { StoreClosedError } from './errors.ts'
import { HashJobs, type HashJob, type HashResult } from './hash-jobs.ts'
import type { HashThreadReply, HashThreadRequest } from './hash-thread.ts'

export interface HashService {
  /** Runs a job; jobs of one service run in order. @throws when the file cannot be read */
  run(job: HashJob): Promise<HashResult>
  close(): Promise<void>
}

/** Hashes on the thread of the caller: it stands still meanwhile, 3 ms for a chunk of 4 MiB. */
export class InlineHashService implements HashService {
  readonly #jobs = new HashJobs()

  async run(job: HashJob): Promise<HashResult> {
    return this.#jobs.run(job)
  }

  async close(): Promise<void> {}
}

interface Pending {
  job: HashJob
  resolve: (result: HashResult) => void
  reject: (error: Error) => void
}

/** A thread takes 8 MB and is there in 50 ms: it is not kept for the next pull. */
const IDLE_MS = 30_000

export interface ThreadHashOptions {
  /** What runs in the thread. */
  script?: URL
  /** After so long without a job, and without the hash of a whole that is not finished, the thread ends. @default 30000 */
  idleMs?: number
}

/**
 * Hashes in a thread of its own, which is there while there is something to hash. If the thread cannot run, it goes on
 * inline: slower, but right.
 */
export class ThreadHashService implements HashService {
  readonly #log: Logger
  readonly #script: URL
  readonly #idleMs: number
  readonly #pending = new Map<number, Pending>()
  /** Whose hashes so far are in the thread. */
  readonly #wholes = new Set<number>()
  #worker: Worker | undefined
  #idle: NodeJS.Timeout | undefined
  readonly #inline = new InlineHashService()
  #nextId = 1
  #broken = false
  #closed = false

  constructor(log: Logger, { script, idleMs = IDLE_MS }: ThreadHashOptions = {}) {
    this.#log = log
    this.#script = script ?? new URL('./hash-thread.ts', import.meta.url)
    this.#idleMs = idleMs
  }

  /** Whether the thread is there. */
  get running(): boolean {
    return this.#worker !== undefined
  }

  async run(job: HashJob): Promise<HashResult> {
    if (this.#closed) throw new StoreClosedError('the store is closed')
    if (this.#broken) return this.#inline.run(job)
    if (job.kind === 'drop') {
      if (!this.#wholes.delete(job.whole.id)) return { hash: undefined, accepted: true, wholeBytes: 0 }
    } else if (job.whole !== undefined) {
      this.#wholes.add(job.whole.id)
    }
    const worker = (this.#worker ??= this.#start())
    clearTimeout(this.#idle)
    return new Promise((resolve, reject) => {
      const id = this.#nextId++
      this.#pending.set(id, { job, resolve, reject })
      // The process must not end while a job is under way, but an idle thread must not keep it alive.
      if (this.#pending.size === 1) worker.ref()
      worker.postMessage({ id, job } satisfies HashThreadRequest)
    })
  }

  #start(): Worker {
    const worker = new Worker(this.#script, { name: 'shoal-hash' })
    worker.unref()
    worker.on('message', (reply: HashThreadReply) => this.#settle(reply))
    worker.on('error', (error: Error) => this.#lost(worker, error))
    worker.on('exit', (code) => this.#lost(worker, new Error(`the hash thread ended with code ${code}`)))
    return worker
  }

  #settle(reply: HashThreadReply): void {
    const pending = this.#pending.get(reply.id)
    this.#pending.delete(reply.id)
    if (this.#pending.size === 0) {
      this.#worker?.unref()
      if (this.#wholes.size === 0) this.#idle = setTimeout(() => this.#rest(), this.#idleMs).unref()
    }
    if ('result' in reply) pending?.resolve(reply.result)
    else pending?.reject(Object.assign(new Error(reply.error.message), { code: reply.error.code }))
  }

  #rest(): void {
    const worker = this.#worker
    this.#worker = undefined
    worker?.terminate().catch(() => undefined)
  }

  #lost(worker: Worker, error: Error): void {
    if (this.#worker !== worker) return
    this.#worker = undefined
    this.#broken = true
    if (!this.#closed) this.#log.warn({ err: error }, 'the hash thread is lost; hashing goes on in the main thread')
    for (const { job, resolve, reject } of this.#pending.values()) {
      // What needs the lost hash of a whole fails there, and its owner begins again.
      if (this.#closed) reject(error)
      else this.#inline.run(job).then(resolve, reject)
    }
    this.#pending.clear()
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#idle)
    const worker = this.#worker
    if (worker === undefined) return
    this.#lost(worker, new StoreClosedError('the store is closed'))
    await worker.terminate()
  }
}
