// Uploads of blobs: sessions that survive broken connections and restarts, and become a blob when the digest is right.
import { randomUUID } from 'node:crypto'
import type { Readable } from 'node:stream'
import { digestAlgorithm, OciError, type Digest } from '@shoal/oci'
import { UploadRangeError, type UploadPart, type UploadState } from '@shoal/registry'
import { freeBytes, piecesOf } from '@shoal/store'
import type { Logger } from 'pino'
import { NO_STEPS, storeBlob, type BlobSteps } from './blob-steps.ts'
import type { ChunkLists } from './chunk-lists.ts'
import type { Retention } from './collection/retention.ts'
import type { HashPlan } from './hashing/hash-jobs.ts'
import { hashWhole, type BlobHashing, type Hashers, type HashOutcome } from './hashing/hashers.ts'
import { blobPath, uploadInfoPath } from './layout.ts'
import { NO_HOLD, type Hold } from './quotas.ts'
import type { StorageDriver, UploadFile } from './storage/driver.ts'

/** Bytes gathered before they are written: the size decides the cost (DESIGN section 6). */
const WRITE_BYTES = 1024 * 1024

/** What most blobs are named by, while nobody has said how this one is. */
const DEFAULT_PLAN: HashPlan = { algorithm: 'sha256' }

interface UploadInfo {
  name: string
  startedMs: number
}

/** What is remembered of an upload between two requests. Losing it costs a second pass over the bytes, no more. */
interface Session {
  readonly id: string
  readonly name: string
  /** Hashes of the bytes so far; undefined when they have to be computed anew. */
  hashing: BlobHashing | undefined
  /** Which bytes those are: see UploadFile. */
  version: string
  lastUsedMs: number
  /** Room for the bytes so far. */
  hold: Hold
  /** The request that is appending right now. */
  active: { body: Readable; done: Promise<void> } | undefined
}

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
  readonly #chunkLists: ChunkLists
  readonly #retention: Retention
  readonly #hashers: Hashers
  readonly #expiryMs: number
  readonly #log: Logger
  readonly #onBytes: (count: number) => void
  readonly #sessions = new Map<string, Session>()
  readonly #timer: NodeJS.Timeout

  constructor(options: UploadsOptions) {
    this.#driver = options.driver
    this.#chunkLists = options.chunkLists
    this.#retention = options.retention
    this.#hashers = options.hashers
    this.#expiryMs = options.expiryMs
    this.#log = options.logger
    this.#onBytes = options.onBytes ?? (() => undefined)
    const everyMs = Math.min(Math.max(this.#expiryMs / 4, 1_000), 600_000)
    this.#timer = setInterval(() => {
      this.removeExpired().catch((error: unknown) => this.#log.warn({ err: error }, 'expired uploads not removed'))
    }, everyMs)
    this.#timer.unref()
  }

  async start(name: string): Promise<UploadState> {
    const session = await this.#create(name)
    return { id: session.id, receivedBytes: 0 }
  }

  /** @throws OciError(BLOB_UPLOAD_UNKNOWN) */
  async state(name: string, id: string): Promise<UploadState> {
    await this.#find(name, id)
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
    const session = await this.#find(name, id)
    return this.#alone(session, part.body, () =>
      this.#orDropped(session, hold, async () => {
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
    const session = await this.#find(name, id)
    return this.#alone(session, part?.body, async () => {
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
      const { sizeBytes, hashes } = await this.#orDropped(session, hold, () => this.#withFile(session, work))
      if (hashes.digest !== digest) {
        await this.#remove(id)
        throw new OciError('DIGEST_INVALID', `the ${sizeBytes} bytes received have the digest ${hashes.digest}`, {
          detail: { expected: digest, actual: hashes.digest },
        })
      }
      await this.#remove(id)
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
      await this.#remove(session.id)
      throw error
    }
  }

  async cancel(name: string, id: string): Promise<void> {
    const session = await this.#find(name, id)
    await this.#alone(session, undefined, () => this.#remove(id))
  }

  /** Drops what nobody has gone on with for the time of expiry. */
  async removeExpired(nowMs: number = Date.now()): Promise<string[]> {
    const removed: string[] = []
    const known = new Map((await this.#driver.listUploads()).map(({ id, modifiedMs }) => [id, modifiedMs]))
    for (const { name: id } of await this.#driver.list('sessions')) {
      const info = await this.#driver.stat(uploadInfoPath(id))
      if (info) known.set(id, Math.max(known.get(id) ?? 0, info.modifiedMs))
    }
    // What another process has ended or dropped.
    for (const [id, session] of this.#sessions) {
      if (!known.has(id) && !session.active && nowMs - session.lastUsedMs >= this.#expiryMs) this.#forget(id)
    }
    for (const [id, modifiedMs] of known) {
      const session = this.#sessions.get(id)
      const usedMs = Math.max(modifiedMs, session?.lastUsedMs ?? 0)
      if (session?.active || nowMs - usedMs < this.#expiryMs) continue
      await this.#remove(id)
      removed.push(id)
    }
    if (removed.length > 0) this.#log.info({ uploads: removed.length }, 'dropped uploads that nobody finished')
    return removed
  }

  /** Breaks off what is arriving; it can be resumed after a restart. */
  async close(): Promise<void> {
    clearInterval(this.#timer)
    const active = [...this.#sessions.values()].flatMap((session) => session.active ?? [])
    for (const { body } of active) body.destroy(new Error('the registry is closing'))
    await Promise.allSettled(active.map(({ done }) => done))
  }

  async #create(name: string): Promise<Session> {
    const id = randomUUID()
    const startedMs = Date.now()
    const info: UploadInfo = { name, startedMs }
    await this.#driver.write(uploadInfoPath(id), Buffer.from(JSON.stringify(info)), { durable: false })
    const session: Session = {
      id,
      name,
      hashing: this.#hashers.create(DEFAULT_PLAN),
      version: '',
      lastUsedMs: startedMs,
      hold: NO_HOLD,
      active: undefined,
    }
    this.#sessions.set(id, session)
    return session
  }

  async #find(name: string, id: string): Promise<Session> {
    let session = this.#sessions.get(id)
    // Another process may have finished it.
    if (session && this.#driver.isShared && !(await this.#driver.stat(uploadInfoPath(id)))) {
      this.#forget(id)
      session = undefined
    }
    if (!session) {
      const bytes = await this.#driver.read(uploadInfoPath(id))
      if (!bytes) throw unknownUpload()
      const info = JSON.parse(bytes.toString()) as UploadInfo
      // Left by an earlier run: what was hashed then is hashed again when it is needed.
      session = this.#sessions.get(id) ?? {
        id,
        name: info.name,
        hashing: undefined,
        version: '',
        lastUsedMs: Date.now(),
        hold: NO_HOLD,
        active: undefined,
      }
      this.#sessions.set(id, session)
    }
    if (session.name !== name) throw unknownUpload()
    session.lastUsedMs = Date.now()
    return session
  }

  /**
   * Runs a request that changes an upload. One that is still appending is broken off first: its client has given up on
   * it, or it would not ask anew.
   */
  async #alone<T>(session: Session, body: Readable | undefined, work: () => Promise<T>): Promise<T> {
    while (session.active) {
      session.active.body.destroy(new Error('another request goes on with this upload'))
      await session.active.done
    }
    // The other one has ended it: what came now would lie there for nobody.
    if (this.#sessions.get(session.id) !== session) throw unknownUpload()
    // It may be broken off before anybody reads from it.
    body?.on('error', () => undefined)
    const running = Promise.withResolvers<void>()
    session.active = { body: body ?? NO_BODY, done: running.promise }
    try {
      return await work()
    } finally {
      session.active = undefined
      session.lastUsedMs = Date.now()
      running.resolve()
    }
  }

  /** What is denied cannot be finished: it does not lie there until it expires. */
  async #orDropped<T>(session: Session, hold: Hold, work: () => Promise<T>): Promise<T> {
    if (session.hold === NO_HOLD) session.hold = hold
    try {
      return await work()
    } catch (error) {
      if (error instanceof OciError && error.code === 'DENIED') await this.#remove(session.id)
      throw error
    }
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

  #forget(id: string): void {
    const session = this.#sessions.get(id)
    session?.hashing?.drop()
    session?.hold.release()
    this.#sessions.delete(id)
  }

  async #remove(id: string): Promise<void> {
    try {
      await this.#driver.removeUpload(id)
      await this.#driver.remove(uploadInfoPath(id))
    } finally {
      // Last: a request that comes meanwhile must find the one that is under way, not begin anew from what is still there.
      this.#forget(id)
    }
  }
}

function planFor(digest: Digest, sizeBytes: number | undefined): HashPlan {
  const algorithm = digestAlgorithm(digest)
  return sizeBytes === undefined ? { algorithm } : { algorithm, sizeBytes }
}

const NO_BODY = { destroy: () => undefined } as unknown as Readable

function unknownUpload(): OciError {
  return new OciError('BLOB_UPLOAD_UNKNOWN', 'there is no such upload, or it has expired: start one with POST')
}
