// Uploads of blobs: what comes in survives broken connections and restarts, and becomes a blob when the digest is right.
import { digestAlgorithm, OciError, type Digest } from '@shoal/oci'
import { UploadRangeError, type UploadPart, type UploadState } from '@shoal/registry'
import { freeBytes, piecesOf } from '@shoal/store'
import type { Logger } from 'pino'
import { NO_STEPS, storeBlob, type BlobSteps } from './blob-steps.ts'
import type { ChunkLists } from './chunk-lists.ts'
import type { Retention } from './collection/retention.ts'
import type { HashPlan } from './hashing/hash-jobs.ts'
import { hashWhole, type Hashers, type HashOutcome } from './hashing/hashers.ts'
import { blobPath } from './layout.ts'
import { NO_HOLD } from './quotas.ts'
import type { StorageDriver, UploadFile } from './storage/driver.ts'
import { UploadSessions, type Session } from './upload-sessions.ts'

/** Bytes gathered before they are written: the size decides the cost (DESIGN section 6). */
const WRITE_BYTES = 1024 * 1024

/** What most blobs are named by, while nobody has said how this one is. */
const DEFAULT_PLAN: HashPlan = { algorithm: 'sha256' }

export interface UploadsOptions {
  driver: StorageDriver
  /** Shared with garbage collection. */
  retention: Retention
  chunkLists: ChunkLists
  hashers: Hashers
  /** An upload that nobody goes on with is dropped after this time. */
  expiryMs: number
  logger: Logger
  onBytes?: (count: number) => void
}

export class Uploads {
  readonly #driver: StorageDriver
  readonly #sessions: UploadSessions
  readonly #chunkLists: ChunkLists
  readonly #retention: Retention
  readonly #hashers: Hashers
  readonly #log: Logger
  readonly #onBytes: (count: number) => void

  constructor(options: UploadsOptions) {
    this.#driver = options.driver
    this.#sessions = new UploadSessions(options.driver, options.expiryMs, options.logger)
    this.#chunkLists = options.chunkLists
    this.#retention = options.retention
    this.#hashers = options.hashers
    this.#log = options.logger
    this.#onBytes = options.onBytes ?? (() => undefined)
  }

  async start(name: string): Promise<UploadState> {
    const session = await this.#create(name)
    return { id: session.id, receivedBytes: 0 }
  }

  /** @throws OciError(BLOB_UPLOAD_UNKNOWN) */
  async state(name: string, id: string): Promise<UploadState> {
    await this.#sessions.find(name, id)
    const file = await this.#driver.openUpload(id)
    try {
      return { id, receivedBytes: file.sizeBytes }
    } finally {
      await file.close()
    }
  }

  /**
   * Appends a part. What came in stays, also when the connection breaks; an upload that has no room is dropped.
   * @param hold - that of the upload, unless it has one already
   */
  async append(name: string, id: string, part: UploadPart, hold = NO_HOLD): Promise<UploadState> {
    const session = await this.#sessions.find(name, id)
    return this.#sessions.alone(session, part.body, () =>
      this.#sessions.orDropped(session, hold, async () => {
        const receivedBytes = await this.#withFile(session, async (file) => {
          await this.#receive(session, file, part)
          return file.sizeBytes
        })
        return { id, receivedBytes }
      }),
    )
  }

  /**
   * Takes a last part, checks the digest, and stores the blob if `admit` takes it: what is denied is dropped.
   * @param hold - as for `append`; released before `admit` is asked
   */
  async finish(
    name: string,
    id: string,
    digest: Digest,
    part: UploadPart | undefined,
    steps: BlobSteps = NO_STEPS,
    hold = NO_HOLD,
  ): Promise<{ sizeBytes: number }> {
    const session = await this.#sessions.find(name, id)
    return this.#sessions.alone(session, part?.body, async () => {
      const work = async (file: UploadFile): Promise<{ sizeBytes: number; hashes: HashOutcome }> => {
        if (part) {
          if (file.sizeBytes === 0) this.#plan(session, planFor(digest, part.lengthBytes))
          await this.#receive(session, file, part)
        }
        const found = { sizeBytes: file.sizeBytes, hashes: await this.#hashes(session, file, digest) }
        if (found.hashes.digest === digest) {
          const path = blobPath(digest)
          session.hold.release()
          await storeBlob(digest, file.sizeBytes, steps, async () => {
            await this.#retention.alone(path, () => file.promote(path))
            await this.#storeChunkList(digest, file.sizeBytes, found.hashes.chunkHashes)
          })
        }
        return found
      }
      const { sizeBytes, hashes } = await this.#sessions.orDropped(session, hold, () => this.#withFile(session, work))
      if (hashes.digest !== digest) {
        await this.#sessions.remove(id)
        throw new OciError('DIGEST_INVALID', `the ${sizeBytes} bytes received have the digest ${hashes.digest}`, {
          detail: { expected: digest, actual: hashes.digest },
        })
      }
      await this.#sessions.remove(id)
      return { sizeBytes }
    })
  }

  /** A whole blob in one request. Nothing stays of it when it fails. */
  async upload(
    name: string,
    digest: Digest,
    part: UploadPart,
    steps = NO_STEPS,
    hold = NO_HOLD,
  ): Promise<{ sizeBytes: number }> {
    const session = await this.#create(name)
    try {
      return await this.finish(name, session.id, digest, part, steps, hold)
    } catch (error) {
      await this.#sessions.remove(session.id)
      throw error
    }
  }

  async cancel(name: string, id: string): Promise<void> {
    const session = await this.#sessions.find(name, id)
    await this.#sessions.alone(session, undefined, () => this.#sessions.remove(id))
  }

  /** Drops what nobody has gone on with for the time of expiry. */
  removeExpired(nowMs?: number): Promise<string[]> {
    return this.#sessions.removeExpired(nowMs)
  }

  /** Breaks off what is arriving; it can be resumed after a restart. */
  close(): Promise<void> {
    return this.#sessions.close()
  }

  #create(name: string): Promise<Session> {
    return this.#sessions.create(name, () => this.#hashers.create(DEFAULT_PLAN))
  }

  /** Opens the bytes of an upload for a request that changes them, and keeps in mind which they are afterwards. */
  async #withFile<T>(session: Session, work: (file: UploadFile) => Promise<T>): Promise<T> {
    const file = await this.#driver.openUpload(session.id)
    try {
      // Another process, or an earlier run, went on with it since: what was hashed here is of other bytes.
      if (file.version !== session.version) this.#plan(session, undefined)
      return await work(file)
    } finally {
      await file.close()
      session.version = file.version
    }
  }

  /** Begins the hashes anew; `undefined` leaves them to the end. */
  #plan(session: Session, plan: HashPlan | undefined): void {
    session.hashing?.drop()
    session.hashing = plan && this.#hashers.create(plan)
  }

  async #receive(session: Session, file: UploadFile, part: UploadPart): Promise<void> {
    const before = file.sizeBytes
    if (part.start !== undefined && part.start !== before) {
      throw new UploadRangeError(
        { id: session.id, receivedBytes: before },
        `the part starts at byte ${part.start}, but ${before} bytes are here`,
      )
    }
    // A write that failed, or an earlier run of the registry, may have left another length than was hashed.
    if (before !== session.hashing?.bytes) this.#plan(session, before === 0 ? DEFAULT_PLAN : undefined)
    await session.hold.cover(before + (part.lengthBytes ?? 0))
    let gathered: Uint8Array[] = []
    let gatheredBytes = 0
    let received = 0
    let writing: Promise<void> = Promise.resolve()
    const flush = async (): Promise<void> => {
      const pieces = gathered
      gathered = []
      gatheredBytes = 0
      await writing
      if (pieces.length === 0) return
      if (part.lengthBytes === undefined) await session.hold.cover(before + received)
      // Not waited for: the next bytes come in meanwhile.
      writing = file.append(pieces).then(() => {
        session.hashing?.advance(file, pieces)
        freeBytes(pieces)
      })
      writing.catch(() => undefined)
    }
    let failure: unknown
    try {
      for await (const piece of piecesOf(part.body)) {
        received += piece.length
        if (part.lengthBytes !== undefined && received > part.lengthBytes) {
          throw new OciError('SIZE_INVALID', `more than the announced ${part.lengthBytes} bytes came`)
        }
        gathered.push(piece)
        gatheredBytes += piece.length
        this.#onBytes(piece.length)
        if (gatheredBytes >= WRITE_BYTES) await flush()
      }
      if (part.lengthBytes !== undefined && received < part.lengthBytes) {
        throw new OciError('SIZE_INVALID', `${received} bytes came instead of ${part.lengthBytes}`)
      }
    } catch (error) {
      failure = error
    }
    if (failure instanceof OciError) {
      // The client contradicts itself: nothing of this part can be trusted.
      await writing.catch(() => undefined)
      await session.hashing?.settle()
      await file.truncate(before)
      await session.hold.cover(before)
      this.#plan(session, undefined)
      throw failure
    }
    try {
      await flush()
      await writing
    } finally {
      await session.hashing?.settle()
      // What was announced, or not written, and did not come.
      await session.hold.cover(file.sizeBytes)
    }
    if (failure !== undefined) throw failure instanceof Error ? failure : new Error('the body broke off')
  }

  /** The hashes of all bytes: at hand when they passed by here, else by one more pass over the file. */
  async #hashes(session: Session, file: UploadFile, wanted: Digest): Promise<HashOutcome> {
    const algorithm = digestAlgorithm(wanted)
    const { hashing } = session
    if (hashing?.plan.algorithm === algorithm && hashing.bytes === file.sizeBytes) {
      session.hashing = undefined
      const outcome = await hashing.finish()
      if (outcome) return outcome
    }
    const again = this.#hashers.create({ algorithm, sizeBytes: file.sizeBytes })
    return hashWhole(again, file)
  }

  async #storeChunkList(digest: Digest, sizeBytes: number, hashes: Uint8Array | undefined): Promise<void> {
    if (hashes) await this.#chunkLists.put(digest, hashes)
    else {
      // The size was not known while the bytes came in. Whoever asks before it is there, waits for it.
      this.#chunkLists
        .get(digest, sizeBytes)
        .catch((error: unknown) => this.#log.warn({ err: error, digest }, 'no chunk list yet'))
    }
  }
}

function planFor(digest: Digest, sizeBytes: number | undefined): HashPlan {
  const algorithm = digestAlgorithm(digest)
  return sizeBytes === undefined ? { algorithm } : { algorithm, sizeBytes }
}
