// A whole blob that is open: one file and one list of hashes, shared by all who have it open, and kept open for a while
// after the last of them because the next request for the same blob is near.
import type { Readable } from 'node:stream'
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import { entryLimit, type Digest } from '@shoal/oci'
import type { BlobFile } from './blob-file.ts'
import type { ChunkCheck } from './blob-trust.ts'
import { BlobStream, type StreamSource } from './blob-stream.ts'
import { BlobDamagedError, StoreClosedError } from './errors.ts'
import type { ReadOptions, StoredBlob } from './store.ts'

/** How many files stay open without a user. */
const IDLE_FILES = 64
/** For how long. A file that containerd removes takes room on the disk until then. */
const IDLE_MS = 60_000

/** What is shared by all who have the same blob open. */
export interface OpenBlob {
  readonly digest: Digest
  readonly sizeBytes: number
  readonly mediaType: string | undefined
  readonly chunkHashes: Uint8Array
  readonly file: BlobFile
  /** What bytes are to pass before they are handed out, if anything. */
  readonly check?: ChunkCheck | undefined
  /** Called when it gets its first user and when it has lost the last one, to hold it against eviction. */
  readonly held: (held: boolean) => void
}

interface Shared {
  blob: OpenBlob
  users: number
  /** Not to be handed out again. */
  discarded: boolean
}

export class OpenBlobs {
  readonly #log: Logger
  readonly #used = new Map<Digest, Shared>()
  readonly #idle: LRUCache<Digest, Shared>
  #closed = false

  constructor(log: Logger) {
    this.#log = log
    this.#idle = new LRUCache<Digest, Shared>({
      ...entryLimit(IDLE_FILES),
      ttl: IDLE_MS,
      ttlAutopurge: true,
      dispose: (shared) => {
        if (shared.users === 0) this.#closeFile(shared)
      },
    })
  }

  /** A handle on a blob that is open already. */
  get(digest: Digest): StoredBlob | undefined {
    const used = this.#used.get(digest)
    if (used !== undefined) return this.#handle(used)
    const idle = this.#idle.peek(digest)
    return idle && this.#handle(idle)
  }

  /** A handle on a blob that was just opened. */
  add(blob: OpenBlob): StoredBlob {
    return this.#handle({ blob, users: 0, discarded: false })
  }

  /** Closes the file of a blob that nobody uses, because it is to be removed. */
  forget(digest: Digest): void {
    this.#idle.delete(digest)
  }

  /** The same for one that may be in use: who has it keeps it, nobody else gets it. */
  discard(digest: Digest): void {
    const used = this.#used.get(digest)
    if (used !== undefined) used.discarded = true
    this.#used.delete(digest)
    this.#idle.delete(digest)
  }

  close(): void {
    this.#closed = true
    this.#idle.clear()
  }

  #closeFile({ blob }: Shared): void {
    blob.file.release().catch((error: unknown) => {
      this.#log.warn({ err: error, digest: blob.digest }, 'a file could not be closed')
    })
  }

  #take(shared: Shared): void {
    if (shared.users++ > 0 || shared.discarded) return
    this.#used.set(shared.blob.digest, shared)
    this.#idle.delete(shared.blob.digest)
    shared.blob.held(true)
  }

  #release(shared: Shared): void {
    if (--shared.users > 0) return
    if (this.#used.get(shared.blob.digest) === shared) this.#used.delete(shared.blob.digest)
    if (shared.discarded) this.#closeFile(shared)
    else this.#idle.set(shared.blob.digest, shared)
    if (this.#closed) this.#idle.clear()
    shared.blob.held(false)
  }

  #handle(shared: Shared): StoredBlob {
    const { blob } = shared
    let released = false
    const use = <T>(task: () => T): T => {
      if (released) throw new StoreClosedError(`${blob.digest} was released`)
      return task()
    }
    this.#take(shared)
    return {
      digest: blob.digest,
      sizeBytes: blob.sizeBytes,
      mediaType: blob.mediaType,
      chunkHashes: blob.chunkHashes,
      readAt: async (position, into) => {
        use(() => checkRange(blob, position, into.byteLength))
        await this.#checked(shared, position, into.byteLength)
        await blob.file.read(into, position)
      },
      createReadStream: (options) => use(() => this.#stream(shared, options)),
      release: () => {
        if (released) return
        released = true
        this.#release(shared)
      },
    }
  }

  /** Who meets damage is the last that gets this file. */
  async #checked(shared: Shared, position: number, length: number): Promise<void> {
    try {
      await shared.blob.check?.range(position, length)
    } catch (error) {
      if (error instanceof BlobDamagedError && this.#used.get(shared.blob.digest) === shared)
        this.discard(shared.blob.digest)
      throw error
    }
  }

  #stream(shared: Shared, options: ReadOptions | undefined): Readable {
    const { sizeBytes, file } = shared.blob
    this.#take(shared)
    const source: StreamSource = {
      sizeBytes,
      settled: () => true,
      readable: (_position, most) => most,
      wait: () => () => undefined,
      read: async (into, position) => {
        await this.#checked(shared, position, into.byteLength)
        await file.read(into, position)
        return true
      },
      release: () => this.#release(shared),
    }
    return new BlobStream(source, options)
  }
}

function checkRange(blob: OpenBlob, position: number, length: number): void {
  if (position < 0 || position + length > blob.sizeBytes) {
    throw new RangeError(`bytes ${position}-${position + length - 1} of a blob of ${blob.sizeBytes} bytes`)
  }
}
