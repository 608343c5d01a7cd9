// The storage driver for a folder. Whatever is written goes to a temporary file first, is synced, and then renamed into
// place; the folder is synced after that. So a crash at any instant leaves the old or the new object, never a part.
import { randomUUID } from 'node:crypto'
import { constants } from 'node:fs'
import { mkdir, open, readdir, readFile, rename, rm, stat, unlink, utimes, type FileHandle } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { OciError } from '@shoal/oci'
import { BlobStream, type StreamSource } from '@shoal/store'
import type { ListedEntry, ObjectStat, StorageDriver, StoredFile, StoredObject, UploadFile } from './driver.ts'

/** A small object is written in much less, so a temporary file of this age is what a crash has left. */
const LEFT_OVER_MS = 3_600_000

/** A guest was told of a folder that holds no registry. */
export class MissingFolderError extends Error {
  override readonly name = 'MissingFolderError'

  constructor(root: string) {
    super(`${root} holds no registry: is it the right dataDirectory, or place?`)
  }
}

export class FilesystemDriver implements StorageDriver {
  /** A folder belongs to one process. */
  readonly isShared = false
  readonly #root: string
  readonly #temporary: string
  readonly #uploads: string

  private constructor(root: string) {
    this.#root = root
    this.#temporary = join(root, 'tmp')
    this.#uploads = join(root, 'uploads')
  }

  /**
   * Opens a folder, made when missing, and removes what a crash left of unfinished writes, but nothing that another process may
   * be writing: a second registry may be started here by mistake. A guest does neither.
   * @throws MissingFolderError for a guest that finds no registry there
   */
  static async open(root: string, { isGuest = false }: { isGuest?: boolean } = {}): Promise<FilesystemDriver> {
    const driver = new FilesystemDriver(root)
    if (isGuest) {
      const found = (await orUndefined(readdir(root))) ?? []
      if (!['blobs', 'repositories', 'uploads'].some((name) => found.includes(name))) throw new MissingFolderError(root)
    }
    await mkdir(driver.#temporary, { recursive: true })
    await mkdir(driver.#uploads, { recursive: true })
    if (!isGuest) await driver.#removeLeftOver()
    return driver
  }

  async read(path: string): Promise<Buffer | undefined> {
    return orUndefined(readFile(join(this.#root, path)))
  }

  async write(path: string, bytes: Uint8Array, { durable = true }: { durable?: boolean } = {}): Promise<void> {
    const target = join(this.#root, path)
    const temporary = join(this.#temporary, randomUUID())
    try {
      await using file = await open(temporary, 'wx')
      await file.writeFile(bytes)
      if (durable) await file.datasync()
    } catch (error) {
      await unlink(temporary).catch(() => undefined)
      throw explained(error)
    }
    await this.#moveInto(temporary, target, durable)
  }

  async stat(path: string): Promise<ObjectStat | undefined> {
    const found = await orUndefined(stat(join(this.#root, path)))
    return found?.isFile() ? { sizeBytes: found.size, modifiedMs: found.mtimeMs } : undefined
  }

  async touch(path: string): Promise<boolean> {
    const now = new Date()
    return (await orUndefined(utimes(join(this.#root, path), now, now).then(() => true))) ?? false
  }

  async openRead(path: string, start: number, end: number): Promise<Readable> {
    return rangeOf(await open(join(this.#root, path), 'r'), start, end)
  }

  async openFile(path: string): Promise<StoredFile> {
    const file = await open(join(this.#root, path), 'r')
    return {
      descriptor: file.fd,
      read: async (position, into) => (await file.read(into, 0, into.byteLength, position)).bytesRead,
      close: () => file.close(),
    }
  }

  async remove(path: string): Promise<boolean> {
    const target = join(this.#root, path)
    const removed = await orUndefined(unlink(target).then(() => true))
    if (removed) await syncFolder(dirname(target))
    return removed ?? false
  }

  async list(folder: string): Promise<ListedEntry[]> {
    const entries = await orUndefined(readdir(join(this.#root, folder), { withFileTypes: true }))
    return (entries ?? [])
      .map((entry) => ({ name: entry.name, isFolder: entry.isDirectory() }))
      .sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  async *walk(folder: string): AsyncGenerator<StoredObject> {
    const entries = await orUndefined(readdir(join(this.#root, folder), { withFileTypes: true }))
    for (const entry of entries ?? []) {
      const path = `${folder}/${entry.name}`
      if (entry.isDirectory()) yield* this.walk(path)
      else {
        const found = await this.stat(path)
        if (found) yield { path, ...found }
      }
    }
  }

  async openUpload(id: string): Promise<UploadFile> {
    const path = join(this.#uploads, id)
    const file = await open(path, constants.O_RDWR | constants.O_CREAT)
    const moveTo = (target: string): Promise<void> => this.#moveInto(path, join(this.#root, target), true)
    return new UploadOnDisk(file, path, (await file.stat()).size, moveTo)
  }

  async removeUpload(id: string): Promise<void> {
    await orUndefined(unlink(join(this.#uploads, id)))
  }

  async listUploads(): Promise<{ id: string; modifiedMs: number }[]> {
    const found = []
    for (const id of await readdir(this.#uploads)) {
      const known = await orUndefined(stat(join(this.#uploads, id)))
      if (known) found.push({ id, modifiedMs: known.mtimeMs })
    }
    return found
  }

  async close(): Promise<void> {}

  async #removeLeftOver(): Promise<void> {
    const beforeMs = Date.now() - LEFT_OVER_MS
    for (const name of await readdir(this.#temporary)) {
      const path = join(this.#temporary, name)
      const found = await orUndefined(stat(path))
      if (found && found.mtimeMs < beforeMs) await rm(path, { recursive: true, force: true })
    }
  }

  async #moveInto(source: string, target: string, durable: boolean): Promise<void> {
    const folder = dirname(target)
    try {
      await rename(source, target)
    } catch (error) {
      if (!isCode(error, 'ENOENT')) throw error
      await makeFolder(folder)
      await rename(source, target)
    }
    if (durable) await syncFolder(folder)
  }
}

/** Reads a part of a file, a MiB at a time, with a handle that it closes. */
/** Bytes of an open file, which is closed with the stream. */
function rangeOf(file: FileHandle, start: number, end: number): Readable {
  const source: StreamSource = {
    sizeBytes: end + 1,
    readable: (_position, most) => most,
    wait: () => () => undefined,
    read: async (into, position) => {
      for (let done = 0; done < into.byteLength;) {
        const { bytesRead } = await file.read(into, done, into.byteLength - done, position + done)
        if (bytesRead === 0) throw new Error('the file ends before its size')
        done += bytesRead
      }
      return true
    },
    settled: () => true,
    // Nothing was written to it.
    release: () => void file.close().catch(() => undefined),
  }
  return new BlobStream(source, { start, end })
}

class UploadOnDisk implements UploadFile {
  /** Nobody else writes to the folder. */
  readonly version = ''
  readonly #file: FileHandle
  readonly #path: string
  readonly #moveTo: (target: string) => Promise<void>
  #sizeBytes: number

  constructor(file: FileHandle, path: string, sizeBytes: number, moveTo: (target: string) => Promise<void>) {
    this.#file = file
    this.#path = path
    this.#sizeBytes = sizeBytes
    this.#moveTo = moveTo
  }

  get sizeBytes(): number {
    return this.#sizeBytes
  }

  async append(pieces: Uint8Array[]): Promise<void> {
    try {
      let rest = pieces
      while (rest.length > 0) {
        const { bytesWritten } = await this.#file.writev(rest, this.#sizeBytes)
        this.#sizeBytes += bytesWritten
        rest = dropBytes(rest, bytesWritten)
      }
    } catch (error) {
      // A write that failed may have left bytes beyond what is counted; the next one goes over them.
      await this.#file.truncate(this.#sizeBytes).catch(() => undefined)
      throw explained(error)
    }
  }

  async truncate(sizeBytes: number): Promise<void> {
    await this.#file.truncate(sizeBytes)
    this.#sizeBytes = sizeBytes
  }

  get descriptor(): number {
    return this.#file.fd
  }

  async stream(): Promise<Readable> {
    return rangeOf(await open(this.#path, 'r'), 0, this.#sizeBytes - 1)
  }

  async promote(path: string): Promise<void> {
    await this.#file.datasync()
    await this.#moveTo(path)
  }

  async close(): Promise<void> {
    await this.#file.close()
  }
}

function dropBytes(pieces: Uint8Array[], count: number): Uint8Array[] {
  let left = count
  let at = 0
  for (; at < pieces.length; at++) {
    const length = pieces[at]?.byteLength ?? 0
    if (left < length) break
    left -= length
  }
  const rest = pieces.slice(at)
  if (left > 0 && rest[0]) rest[0] = rest[0].subarray(left)
  return rest
}

/** Makes a folder and syncs every folder that got a new entry by it. */
async function makeFolder(folder: string): Promise<void> {
  const first = await mkdir(folder, { recursive: true })
  if (first === undefined) return
  for (let at = folder; at.length >= first.length; at = dirname(at)) await syncFolder(dirname(at))
}

async function syncFolder(folder: string): Promise<void> {
  await using handle = await open(folder, 'r')
  await handle.sync()
}

/** A full disk is told to the client, who can tell the operator; other failures are for the log. */
function explained(error: unknown): unknown {
  if (!isCode(error, 'ENOSPC') && !isCode(error, 'EDQUOT')) return error
  return new OciError('UNAVAILABLE', 'the registry has no space left: ask its operator to free some', {
    status: 507,
    cause: error,
  })
}

async function orUndefined<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work
  } catch (error) {
    if (isCode(error, 'ENOENT') || isCode(error, 'ENOTDIR')) return undefined
    throw error
  }
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}
