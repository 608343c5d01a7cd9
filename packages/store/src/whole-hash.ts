// The digest of a whole blob, computed while its chunks arrive in any order: it goes along with the front, so that
// little is left to do at the end.
import { digestAlgorithm, type Digest } from '@shoal/oci'
import { MAX_CHUNK_SIZE_BYTES } from './chunk-geometry.ts'
import type { ChunkMap } from './chunk-map.ts'
import type { HashService } from './hash-service.ts'
import type { HashResult, WholeReference } from './hash-jobs.ts'
import type { BlobFile } from './blob-file.ts'

/** How often the hash begins again from the start when the service loses it, before `digest()` gives up. */
const MAX_ATTEMPTS = 3

let nextId = 1

export class WholeHash {
  readonly #service: HashService
  readonly #file: BlobFile
  readonly #chunks: ChunkMap
  readonly #chunkSizeBytes: number
  readonly #sizeBytes: number
  readonly #algorithm: WholeReference['algorithm']
  #whole: WholeReference
  #hashedChunks = 0
  #running: Promise<void> | undefined
  #failures = 0
  #failure: unknown = new Error('not all chunks are there')
  #stopped = false

  constructor(options: {
    service: HashService
    file: BlobFile
    digest: Digest
    chunks: ChunkMap
    chunkSizeBytes: number
    sizeBytes: number
  }) {
    this.#service = options.service
    this.#file = options.file
    this.#chunks = options.chunks
    this.#chunkSizeBytes = options.chunkSizeBytes
    this.#sizeBytes = options.sizeBytes
    this.#algorithm = digestAlgorithm(options.digest)
    this.#whole = { id: nextId++, algorithm: this.#algorithm }
  }

  /** Goes on in the background as far as the chunks reach. */
  advance(): void {
    if (this.#running !== undefined || this.#stopped || this.#failures >= MAX_ATTEMPTS) return
    if (!this.#chunks.has(this.#hashedChunks)) return
    this.#track(this.#run())
  }

  #track(work: Promise<void>): void {
    this.#running = work.finally(() => {
      this.#running = undefined
      // A chunk may have come in since the work looked for one.
      this.advance()
    })
  }

  /**
   * Checks chunk `index`, which was just written, and continues the whole with it in the same pass when it is the next.
   * @throws when the file cannot be read
   */
  async check(index: number, length: number, expected: Uint8Array | undefined): Promise<HashResult> {
    const job = {
      kind: 'range' as const,
      descriptor: this.#file.descriptor,
      position: index * this.#chunkSizeBytes,
      length,
      chunk: true,
      ...(expected === undefined ? {} : { expected }),
    }
    const inPass = index === this.#hashedChunks && this.#running === undefined && !this.#stopped
    if (!inPass) return this.#service.run(job)
    const whole = this.#whole
    const pass = this.#service.run({ ...job, whole })
    this.#track(
      pass
        .then((result) => {
          if (result.accepted && whole === this.#whole) this.#hashedChunks = index + 1
        })
        .catch(() => this.#restart()),
    )
    try {
      return await pass
    } catch {
      // The state of the whole may have been lost with its thread; the chunk itself can still be checked.
      return this.#service.run(job)
    }
  }

  /** Must be called when a chunk is forgotten: the hash begins again if it went over it. */
  forget(index: number): void {
    if (index >= this.#hashedChunks && this.#running === undefined) return
    this.#restart()
    this.#failures = 0
  }

  /** The digest, when all chunks are there. @throws when the file cannot be read */
  async digest(): Promise<string> {
    this.#failures = 0
    for (;;) {
      this.advance()
      if (this.#running !== undefined) {
        await this.#running
        continue
      }
      const unfinished = this.#hashedChunks * this.#chunkSizeBytes < this.#sizeBytes
      if (unfinished || this.#failures >= MAX_ATTEMPTS) throw this.#failure
      const whole = this.#whole
      try {
        const { hash, wholeBytes } = await this.#service.run({ kind: 'digest', whole })
        if (whole === this.#whole && wholeBytes === this.#sizeBytes && hash !== undefined) {
          return `${this.#algorithm}:${Buffer.from(hash).toString('hex')}`
        }
        this.#fail(new Error('the hash of the blob was lost'))
      } catch (error) {
        this.#fail(error)
      }
    }
  }

  /** Lets go of the state; waits for the job that is under way, which still reads from the file. */
  async stop(): Promise<void> {
    this.#stopped = true
    while (this.#running !== undefined) await this.#running
    await this.#service.run({ kind: 'drop', whole: this.#whole }).catch(() => undefined)
  }

  async #run(): Promise<void> {
    while (this.#chunks.has(this.#hashedChunks) && !this.#stopped) {
      const whole = this.#whole
      const first = this.#hashedChunks
      let end = first + 1
      // Small chunks go together: one message for up to 4 MiB.
      const most = MAX_CHUNK_SIZE_BYTES / this.#chunkSizeBytes
      while (end - first < most && this.#chunks.has(end)) end++
      const position = first * this.#chunkSizeBytes
      const length = Math.min(end * this.#chunkSizeBytes, this.#sizeBytes) - position
      const descriptor = this.#file.descriptor
      try {
        await this.#service.run({ kind: 'range', descriptor, position, length, chunk: false, whole })
        if (whole === this.#whole) this.#hashedChunks = end
      } catch (error) {
        this.#fail(error)
        if (this.#failures >= MAX_ATTEMPTS) return
      }
    }
  }

  #fail(error: unknown): void {
    this.#failures++
    this.#failure = error
    this.#restart()
  }

  #restart(): void {
    const old = this.#whole
    this.#whole = { id: nextId++, algorithm: this.#algorithm }
    this.#hashedChunks = 0
    this.#service.run({ kind: 'drop', whole: old }).catch(() => undefined)
  }
}
