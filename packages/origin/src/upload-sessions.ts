// The sessions of uploads: which there are, whose turn it is with each, and when they go. They outlive a restart, as who
// an upload belongs to is stored beside its bytes.
import { randomUUID } from 'node:crypto'
import type { Readable } from 'node:stream'
import { OciError } from '@shoal/oci'
import type { Logger } from 'pino'
import type { BlobHashing } from './hashing/hashers.ts'
import { uploadInfoPath } from './layout.ts'
import { NO_HOLD, type Hold } from './quotas.ts'
import type { StorageDriver } from './storage/driver.ts'

interface UploadInfo {
  name: string
  startedMs: number
}

/** What is remembered of an upload between two requests. Losing it costs a second pass over the bytes, no more. */
export interface Session {
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

export class UploadSessions {
  readonly #driver: StorageDriver
  readonly #expiryMs: number
  readonly #log: Logger
  readonly #sessions = new Map<string, Session>()
  readonly #timer: NodeJS.Timeout

  /** @param expiryMs - an upload that nobody goes on with is dropped after this time */
  constructor(driver: StorageDriver, expiryMs: number, logger: Logger) {
    this.#driver = driver
    this.#expiryMs = expiryMs
    this.#log = logger
    const everyMs = Math.min(Math.max(expiryMs / 4, 1_000), 600_000)
    this.#timer = setInterval(() => {
      this.removeExpired().catch((error: unknown) => logger.warn({ err: error }, 'expired uploads not removed'))
    }, everyMs)
    this.#timer.unref()
  }

  /** @param hashing - begins the hashes of no bytes yet */
  async create(name: string, hashing: () => BlobHashing): Promise<Session> {
    const id = randomUUID()
    const info: UploadInfo = { name, startedMs: Date.now() }
    await this.#driver.write(uploadInfoPath(id), Buffer.from(JSON.stringify(info)), { durable: false })
    const session = newSession(id, name, hashing())
    this.#sessions.set(id, session)
    return session
  }

  /** @throws OciError(BLOB_UPLOAD_UNKNOWN) */
  async find(name: string, id: string): Promise<Session> {
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
      session = this.#sessions.get(id) ?? newSession(id, info.name, undefined)
      this.#sessions.set(id, session)
    }
    if (session.name !== name) throw unknownUpload()
    session.lastUsedMs = Date.now()
    return session
  }

  /**
   * Runs a request that changes an upload. One that is still appending is broken off first: its client has given up on
   * it, or it would not ask anew.
   * @param body - what the request appends, to break it off in its turn
   * @throws OciError(BLOB_UPLOAD_UNKNOWN) when the upload was ended meanwhile
   */
  async alone<T>(session: Session, body: Readable | undefined, work: () => Promise<T>): Promise<T> {
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

  /**
   * What is denied cannot be finished: it does not lie there until it expires.
   * @param hold - that of the upload, unless it has one already
   */
  async orDropped<T>(session: Session, hold: Hold, work: () => Promise<T>): Promise<T> {
    if (session.hold === NO_HOLD) session.hold = hold
    try {
      return await work()
    } catch (error) {
      if (error instanceof OciError && error.code === 'DENIED') await this.remove(session.id)
      throw error
    }
  }

  /** Drops all that an upload has left. */
  async remove(id: string): Promise<void> {
    try {
      await this.#driver.removeUpload(id)
      await this.#driver.remove(uploadInfoPath(id))
    } finally {
      // Last: a request that comes meanwhile must find the one that is under way, not begin anew from what is still there.
      this.#forget(id)
    }
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
      await this.remove(id)
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

  #forget(id: string): void {
    const session = this.#sessions.get(id)
    session?.hashing?.drop()
    session?.hold.release()
    this.#sessions.delete(id)
  }
}

function newSession(id: string, name: string, hashing: BlobHashing | undefined): Session {
  return { id, name, hashing, version: '', lastUsedMs: Date.now(), hold: NO_HOLD, active: undefined }
}

const NO_BODY = { destroy: () => undefined } as unknown as Readable

function unknownUpload(): OciError {
  return new OciError('BLOB_UPLOAD_UNKNOWN', 'there is no such upload, or it has expired: start one with POST')
}
