// The rows beside the blobs, in one level database. What grows with the number of chunks (their hashes) has keys of its
// own, so that a start reads only a small row for each blob.
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { Level } from 'level'
import type { Logger } from 'pino'
import { isDigest, type Digest } from '@shoal/oci'
import { isBlobSize } from './chunk-geometry.ts'
import { leaveClosingMark, takeClosingMark } from './closing-mark.ts'
import { asStoreError, errorCode, StoreClosedError, StoreFailedError, StoreLockedError } from './errors.ts'
import { moveAside, moveAsideIfDeadly } from './level-check.ts'
import { isDamagedDatabase, isDamagedRow, repairDatabase } from './level-damage.ts'
import type { StoreRecords } from './store.ts'

/** A whole blob. */
export interface BlobRow {
  sizeBytes: number
  mediaType?: string
  lastUsedMs: number
}

/** A blob that is arriving. */
export interface PartialRow {
  sizeBytes: number
  lastUsedMs: number
}

/** What was verified of a file in a content store that is not ours. */
export interface ForeignRow {
  sizeBytes: number
  modifiedMs: number
}

/**
 * Whether the numbers of such a row can be true. What LevelDB reads has no check sum: one flipped bit makes another number,
 * or another name, of which there is then no number at all.
 */
export function isPlausible(row: unknown, time: 'lastUsedMs' | 'modifiedMs'): boolean {
  if (typeof row !== 'object' || row === null) return false
  const values = row as Record<string, unknown>
  return isBlobSize(values['sizeBytes']) && Number.isFinite(values[time])
}

/** One kind of row: its keys begin with the name. */
export interface Table<V> {
  readonly prefix: string
  readonly valueEncoding: 'json' | 'view'
  /** Carries the type of the values only. */
  readonly type?: V
}

function table<V>(prefix: string, valueEncoding: 'json' | 'view'): Table<V> {
  return { prefix: `${prefix}!`, valueEncoding }
}

export const BLOBS = table<BlobRow>('blobs', 'json')
/** 32 bytes for each chunk of a whole blob. */
export const HASHES = table<Uint8Array>('hashes', 'view')
export const PARTIALS = table<PartialRow>('partials', 'json')
/** Bit field of the chunks that are certainly on the disk. */
export const PARTIAL_MAPS = table<Uint8Array>('partial-maps', 'view')
/** Hash of one chunk, under `chunkKey`, whether it is certainly on the disk or not. */
export const PARTIAL_HASHES = table<Uint8Array>('partial-hashes', 'view')
export const PINS = table<true>('pins', 'json')
export const FOREIGN = table<ForeignRow>('foreign', 'json')
export const FOREIGN_HASHES = table<Uint8Array>('foreign-hashes', 'view')

function recordTable<T>(name: string): Table<T> {
  return table<T>(`records!${encodeURIComponent(name).replaceAll('!', '%21')}`, 'json')
}

/** See `Store.records`. */
export function recordsIn<T>(index: StoreIndex, name: string): StoreRecords<T> {
  const table = recordTable<T>(name)
  return {
    get: (key) => index.get(table, key),
    put: (key, value) => index.write([put(table, key, value)], true),
    delete: (key) => index.write([del(table, key)], true),
    entries: () => index.rows(table),
  }
}

/** All keys that begin with a prefix: its last character is plain ASCII, so the next one ends the range. */
function keysWith(prefix: string): { gte: string; lt: string } {
  return { gte: prefix, lt: prefix.slice(0, -1) + String.fromCharCode(prefix.charCodeAt(prefix.length - 1) + 1) }
}

export type IndexChange =
  { type: 'put'; key: string; value: unknown; valueEncoding: 'json' | 'view' } | { type: 'del'; key: string }

export function put<V>(into: Table<V>, key: string, value: V): IndexChange {
  return { type: 'put', key: into.prefix + key, value, valueEncoding: into.valueEncoding }
}

export function del(from: Table<unknown>, key: string): IndexChange {
  return { type: 'del', key: from.prefix + key }
}

/** Key of the hash of one chunk: in the order of the chunks. */
export function chunkKey(digest: Digest, index: number): string {
  return `${digest}/${index.toString(16).padStart(8, '0')}`
}

/** Changes that remove everything known of an arriving blob. */
export function forgetPartial(digest: Digest, chunkCount: number): IndexChange[] {
  const changes = [del(PARTIALS, digest), del(PARTIAL_MAPS, digest)]
  for (let index = 0; index < chunkCount; index++) changes.push(del(PARTIAL_HASHES, chunkKey(digest, index)))
  return changes
}

/** The same where the number of chunks is not to be relied upon. */
export async function forgetPartialIn(index: StoreIndex, digest: Digest): Promise<IndexChange[]> {
  const changes = forgetPartial(digest, 0)
  for await (const [key] of index.rows(PARTIAL_HASHES, `${digest}/`)) changes.push(del(PARTIAL_HASHES, key))
  return changes
}

/**
 * What LevelDB may write while it opens: the rest of its log as a table (4 MiB at most), and its list of files. An index that
 * the disk took no write of is opened anew before the next one, so that needs as much.
 */
export const ROOM_TO_OPEN_BYTES = 5 * 1024 * 1024

type Database = Level<string, unknown>

interface Waiting {
  changes: IndexChange[]
  sync: boolean
  resolve: () => void
  reject: (error: unknown) => void
}

export class StoreIndex {
  /** Whether the store was closed in order the last time. */
  readonly wasClosedInOrder: boolean
  readonly #location: string
  readonly #log: Logger
  #db: Database
  #queue: Waiting[] = []
  #writing: Promise<void> | undefined
  #broken = false
  #damaged = false
  #closed = false

  private constructor(location: string, db: Database, log: Logger, wasClosedInOrder: boolean) {
    this.wasClosedInOrder = wasClosedInOrder
    this.#location = location
    this.#db = db
    this.#log = log
  }

  /**
   * Opens the index. One that is corrupt is moved aside (`index.corrupt`) and a new one begun: the blobs themselves are
   * found again by the reconciliation. After a stop that was not in order it is looked through first.
   * @throws StoreLockedError when another process has it open
   * @throws StoreFailedError, StoreFullError when the disk is the cause
   */
  static async open(location: string, log: Logger): Promise<StoreIndex> {
    let wasClosed
    try {
      wasClosed = await takeClosingMark(location)
      if (!wasClosed) await moveAsideIfDeadly(location, log)
    } catch (error) {
      throw asStoreError(error, `looking through the index ${location}`)
    }
    const first = await openDatabase(location)
    if (!(first instanceof Error)) return new StoreIndex(location, first, log, wasClosed)
    log.warn({ err: first, index: location }, 'the index is corrupt: it is moved aside and rebuilt from the blobs')
    await moveAside(location)
    const second = await openDatabase(location)
    if (second instanceof Error)
      throw new StoreFailedError(`no new index can be made in ${location}`, { cause: second })
    return new StoreIndex(location, second, log, false)
  }

  /** The value of a row. One that cannot be read because of damage counts as missing. */
  async get<V>(from: Table<V>, key: string): Promise<V | undefined> {
    try {
      const encoding = { valueEncoding: from.valueEncoding }
      return (await this.#db.get<string, unknown>(from.prefix + key, encoding)) as V | undefined
    } catch (error) {
      if (isDamagedRow(error)) {
        this.#log.warn({ err: error }, 'a row of the index is damaged')
        return undefined
      }
      throw asStoreError(error, 'reading the index')
    }
  }

  /** All rows of a table (whose keys begin with `within`), in the order of their keys, as far as they can be read. */
  async *rows<V>(from: Table<V>, within = ''): AsyncGenerator<[key: string, value: V]> {
    const prefix = from.prefix + within
    const options = { ...keysWith(prefix), valueEncoding: 'view', fillCache: false }
    const iterator = this.#db.iterator<string, Uint8Array>(options)
    try {
      for (;;) {
        const some = await iterator.nextv(1000)
        if (some.length === 0) return
        for (const [key, bytes] of some) {
          const value = from.valueEncoding === 'view' ? bytes : parseJson(bytes)
          if (value !== undefined) yield [key.slice(from.prefix.length), value as V]
        }
      }
    } catch (error) {
      if (!isDamagedRow(error)) throw asStoreError(error, 'reading the index')
      this.#log.warn({ err: error }, 'rows of the index are damaged')
    } finally {
      await iterator.close()
    }
  }

  /** Rows of a table whose keys are digests. */
  async *digestRows<V>(from: Table<V>): AsyncGenerator<[Digest, V]> {
    for await (const [key, value] of this.rows(from)) if (isDigest(key)) yield [key, value]
  }

  /**
   * Applies changes together, after all changes that were handed in before. Many callers share one write.
   * @param sync whether to wait until they are on the disk
   * @throws StoreFullError, StoreFailedError
   */
  write(changes: IndexChange[], sync: boolean): Promise<void> {
    if (this.#closed) return Promise.reject(new StoreClosedError('the store is closed'))
    return new Promise((resolve, reject) => {
      this.#queue.push({ changes, sync, resolve, reject })
      this.#writing ??= this.#drain()
    })
  }

  async #drain(): Promise<void> {
    // The first of a burst goes together with those that follow it in the same turn.
    await Promise.resolve()
    while (this.#queue.length > 0) {
      const taken = this.#queue
      this.#queue = []
      const changes = taken.flatMap((entry) => entry.changes)
      const options = { sync: taken.some((entry) => entry.sync) }
      try {
        await this.#batch(changes, options)
        for (const entry of taken) entry.resolve()
      } catch (error) {
        const reason = asStoreError(error, 'writing the index')
        for (const entry of taken) entry.reject(reason)
      }
    }
    // In the same turn as the last look at the queue, so that nothing is left in it.
    this.#writing = undefined
  }

  /**
   * After a failed write LevelDB's log is not to be relied upon, so it is opened anew before the next one. But not while
   * the disk takes nothing: an open database can still be read, and one that fails to open cannot. Where the write failed
   * because a table is damaged, which may show only when LevelDB merges it with others, what is left of it is kept: rows
   * that are missing are made anew from the blobs.
   */
  async #batch(changes: IndexChange[], options: { sync: boolean }): Promise<void> {
    if (!this.#broken) {
      try {
        return await this.#db.batch<string, unknown>(changes, options)
      } catch (error) {
        this.#note(error)
      }
    }
    const probe = `${this.#location}.probe`
    try {
      await writeFile(probe, Buffer.alloc(ROOM_TO_OPEN_BYTES), { flush: true })
    } finally {
      await rm(probe, { force: true })
    }
    await this.#reopen()
    this.#broken = false
    try {
      await this.#db.batch<string, unknown>(changes, options)
    } catch (error) {
      this.#note(error)
      throw error
    }
  }

  #note(error: unknown): void {
    this.#log.warn({ err: error }, 'a write to the index failed')
    this.#broken = true
    this.#damaged ||= isDamagedRow(error)
  }

  async #reopen(): Promise<void> {
    await this.#db.close()
    if (this.#damaged) {
      this.#log.warn({ index: this.#location }, 'the index is damaged: what can be read of it is kept')
      await repairDatabase(this.#location)
      this.#damaged = false
    }
    const db = await openDatabase(this.#location)
    if (db instanceof Error) throw db
    this.#db = db
  }

  /**
   * Writes what is queued, then closes. Idempotent.
   * @param isInOrder whether the next start finds the blobs as the index says
   */
  async close(isInOrder = false): Promise<void> {
    const wasOpen = !this.#closed
    this.#closed = true
    await this.#writing
    await this.#db.close()
    if (!wasOpen || !isInOrder) return
    await leaveClosingMark(this.#location).catch((error: unknown) => {
      this.#log.warn({ err: error }, 'the next start will look the store through')
    })
  }
}

/** The open database, or the reason why what is there is none any more. @throws when something else is the matter */
async function openDatabase(location: string): Promise<Database | Error> {
  const db: Database = new Level<string, unknown>(location, { keyEncoding: 'utf8', valueEncoding: 'json' })
  try {
    await mkdir(location, { recursive: true })
    await db.open()
    // A damaged table only shows when it is read; these are the rows that a start reads anyway.
    for (const small of [BLOBS, PARTIALS, PINS, FOREIGN]) {
      for await (const _ of db.keys(keysWith(small.prefix))) continue
    }
    return db
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
    await db.close().catch(() => undefined)
    if (errorCode(cause) === 'LEVEL_LOCKED') throw new StoreLockedError(dirname(location), { cause })
    if (cause instanceof Error && (await isDamagedDatabase(cause, location))) return cause
    throw asStoreError(cause, `opening the index ${location}`)
  }
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString()) as unknown
  } catch {
    return undefined
  }
}
