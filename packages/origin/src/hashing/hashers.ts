// Hashes blobs that are arriving, off the main thread where the bytes are in a file. Measured: a push hashed inline kept
// the main thread busy for 3.4 CPU seconds per GB, which held up all other requests.
import type { Readable } from 'node:stream'
import { Worker } from 'node:worker_threads'
import type { Digest } from '@shoal/oci'
import { freeBytes, piecesOf } from '@shoal/store'
import type { Logger } from 'pino'
import { BlobHash, type HashJob, type HashPlan, type HashResult } from './hash-jobs.ts'
import type { ThreadReply, ThreadRequest } from './hash-thread.ts'

/** Longest part for one message, so that several uploads take turns. */
const MAX_JOB_BYTES = 8 * 1024 * 1024

/** Where the bytes can be read back from. */
export interface HashSource {
  /** Of an open file; without one the bytes are hashed as they pass. */
  readonly descriptor?: number | undefined
}

export interface ReadableSource {
  /** All bytes, from the first. */
  stream(): Promise<Readable>
}

export interface HashOutcome {
  digest: Digest | undefined
  chunkHashes: Uint8Array | undefined
}

/** The hashes of one blob that is growing. */
export interface BlobHashing {
  readonly plan: HashPlan
  /** Bytes that it was told of. What comes next must follow on them. */
  readonly bytes: number
  /** The next `pieces`, which are in the source by now. Does not wait. */
  advance(source: HashSource, pieces: Uint8Array[]): void
  /** The next `length` bytes of a source that has a descriptor. */
  advanceBy(source: HashSource, length: number): void
  /** Waits for what is under way: the source may be closed afterwards. Never fails. */
  settle(): Promise<void>
  /** The hashes of all bytes; ends it. Undefined when they were lost, and must be computed anew. */
  finish(): Promise<HashOutcome | undefined>
  /** Lets go of it. */
  drop(): void
}

export class Hashers {
  readonly #log: Logger
  readonly #waiting = new Map<
    number,
    { resolve: (result: HashResult | undefined) => void; reject: (e: Error) => void }
  >()
  #worker: Worker | undefined
  #nextTicket = 1
  #nextId = 1

  constructor(logger: Logger, script: URL = new URL('./hash-thread.ts', import.meta.url)) {
    this.#log = logger
    const worker = new Worker(script, { name: 'shoal-origin-hash' })
    this.#worker = worker
    worker.unref()
    worker.on('message', (reply: ThreadReply) => {
      const waiting = this.#waiting.get(reply.ticket)
      this.#waiting.delete(reply.ticket)
      if (this.#waiting.size === 0) worker.unref()
      if (reply.failure === undefined) waiting?.resolve(reply.result)
      else waiting?.reject(new Error(reply.failure))
    })
    worker.on('error', (error: Error) => this.#lost(error))
    worker.on('exit', (code) => this.#lost(new Error(`the hash thread ended with code ${code}`)))
  }

  create(plan: HashPlan): BlobHashing {
    return new GrowingHash(plan, this.#nextId++, (job) => this.#run(job), this.#worker !== undefined)
  }

  /** Ends the thread; what it was hashing is lost. */
  async close(): Promise<void> {
    const worker = this.#worker
    this.#worker = undefined
    this.#reject(new Error('the registry is closing'))
    await worker?.terminate()
  }

  #run(job: HashJob): Promise<HashResult | undefined> {
    const worker = this.#worker
    if (!worker) return Promise.reject(new Error('there is no hash thread'))
    return new Promise((resolve, reject) => {
      const ticket = this.#nextTicket++
      this.#waiting.set(ticket, { resolve, reject })
      // The process must not end while a job is under way, but an idle thread must not keep it alive.
      if (this.#waiting.size === 1) worker.ref()
      worker.postMessage({ ticket, job } satisfies ThreadRequest)
    })
  }

  #lost(error: Error): void {
    if (!this.#worker) return
    this.#worker = undefined
    this.#log.warn({ err: error }, 'the hash thread is lost: hashing goes on in the main thread')
    this.#reject(error)
  }

  #reject(error: Error): void {
    for (const { reject } of this.#waiting.values()) reject(error)
    this.#waiting.clear()
  }
}

/** Both hashes of something that is there as a whole. @throws when it cannot be read */
export async function hashWhole(hashing: BlobHashing, source: HashSource & ReadableSource): Promise<HashOutcome> {
  const { sizeBytes } = hashing.plan
  if (sizeBytes === undefined) throw new TypeError('the size has to be known')
  hashing.advanceBy(source, sizeBytes)
  const outcome = await hashing.finish()
  if (outcome) return outcome
  // Without a thread, or when it failed: here, piece by piece, so that others get their turn.
  const inline = new BlobHash(hashing.plan)
  for await (const piece of piecesOf(await source.stream())) {
    inline.update(piece)
    freeBytes([piece])
  }
  if (inline.bytes !== sizeBytes) throw new Error(`the content ends at byte ${inline.bytes} of ${sizeBytes}`)
  return outcomeOf(hashing.plan, inline.result())
}

function outcomeOf(plan: HashPlan, result: HashResult): HashOutcome {
  const { algorithm } = plan
  const digest: Digest | undefined = algorithm && result.hex !== undefined ? `${algorithm}:${result.hex}` : undefined
  return { digest, chunkHashes: result.chunkHashes }
}

class GrowingHash implements BlobHashing {
  readonly plan: HashPlan
  readonly #id: number
  readonly #run: (job: HashJob) => Promise<HashResult | undefined>
  readonly #hasThread: boolean
  #inline: BlobHash | undefined
  #bytes = 0
  #hashed = 0
  #working: Promise<void> | undefined
  #isLost = false

  constructor(plan: HashPlan, id: number, run: (job: HashJob) => Promise<HashResult | undefined>, hasThread: boolean) {
    this.plan = plan
    this.#id = id
    this.#run = run
    this.#hasThread = hasThread
  }

  get bytes(): number {
    return this.#bytes
  }

  advance(source: HashSource, pieces: Uint8Array[]): void {
    let length = 0
    for (const piece of pieces) length += piece.byteLength
    if (source.descriptor !== undefined && this.#hasThread && !this.#inline) {
      this.advanceBy(source, length)
      return
    }
    // What was hashed in the thread cannot be gone on with here.
    if (this.#bytes > 0 && !this.#inline) this.#isLost = true
    this.#bytes += length
    if (this.#isLost) return
    this.#inline ??= new BlobHash(this.plan)
    try {
      for (const piece of pieces) this.#inline.update(piece)
    } catch {
      this.#isLost = true
    }
  }

  advanceBy(source: HashSource, length: number): void {
    this.#bytes += length
    if (source.descriptor === undefined || !this.#hasThread || this.#inline) this.#isLost = true
    else this.#start(source.descriptor)
  }

  #start(descriptor: number): void {
    this.#working ??= this.#work(descriptor).finally(() => {
      this.#working = undefined
      // Bytes may have come in after the work saw none left.
      if (this.#hashed < this.#bytes && !this.#isLost) this.#start(descriptor)
    })
  }

  async #work(descriptor: number): Promise<void> {
    while (this.#hashed < this.#bytes && !this.#isLost) {
      const length = Math.min(MAX_JOB_BYTES, this.#bytes - this.#hashed)
      try {
        const { plan } = this
        await this.#run({ kind: 'range', id: this.#id, plan, descriptor, position: this.#hashed, length })
        this.#hashed += length
      } catch {
        this.#isLost = true
      }
    }
  }

  async settle(): Promise<void> {
    while (this.#working) await this.#working
  }

  async finish(): Promise<HashOutcome | undefined> {
    await this.settle()
    if (this.#isLost) return undefined
    let result: HashResult | undefined
    try {
      if (this.#inline || !this.#hasThread) result = (this.#inline ?? new BlobHash(this.plan)).result()
      else if (this.#hashed === this.#bytes) {
        result = await this.#run({ kind: 'result', id: this.#id, plan: this.plan })
      }
    } catch {
      return undefined
    }
    return result && outcomeOf(this.plan, result)
  }

  drop(): void {
    this.#isLost = true
    if (this.#hasThread) this.#run({ kind: 'drop', id: this.#id }).catch(() => undefined)
  }
}
