// An open file that several users share: it is closed when the last of them has let go.
import { access, open, type FileHandle } from 'node:fs/promises'
import { asStoreError, StoreClosedError, StoreFailedError } from './errors.ts'

export class BlobFile {
  readonly path: string
  readonly #handle: FileHandle
  #users = 1

  constructor(path: string, handle: FileHandle) {
    this.path = path
    this.#handle = handle
  }

  /** Opens a file; the caller is its first user. @throws the system's error, unchanged */
  static async open(path: string, flags: 'r' | 'r+' | 'w+' | 'wx+'): Promise<BlobFile> {
    return new BlobFile(path, await open(path, flags, 0o640))
  }

  /** For the threads that hash: they read through the same descriptor. Only valid while one is a user. */
  get descriptor(): number {
    return this.#handle.fd
  }

  async sizeBytes(): Promise<number> {
    return (await this.state()).sizeBytes
  }

  /** Size, what it takes on the disk, and time of the last change in milliseconds since the epoch. */
  async state(): Promise<{ sizeBytes: number; allocatedBytes: number; modifiedMs: number }> {
    const stats = await this.#handle.stat()
    return { sizeBytes: stats.size, allocatedBytes: allocatedBytesOf(stats), modifiedMs: stats.mtimeMs }
  }

  /** One more user. @throws StoreClosedError when the last one has gone already */
  acquire(): void {
    if (this.#users === 0) throw new StoreClosedError(`${this.path} is closed`)
    this.#users++
  }

  /** One user less; the last one closes the file. */
  async release(): Promise<void> {
    if (--this.#users === 0) await this.#handle.close()
  }

  /** Fills `into` from `position`. @throws StoreFailedError when the file ends before that, or cannot be read */
  async read(into: Uint8Array, position: number): Promise<void> {
    this.acquire()
    try {
      for (let done = 0; done < into.byteLength;) {
        const { bytesRead } = await this.#handle.read(into, done, into.byteLength - done, position + done)
        if (bytesRead === 0) throw new StoreFailedError(`${this.path} ends before byte ${position + into.byteLength}`)
        done += bytesRead
      }
    } catch (error) {
      throw asStoreError(error, `reading ${this.path}`)
    } finally {
      await this.release()
    }
  }

  /** Writes all of `data` at `position`: one system call, unless the disk takes less. @throws the system's error */
  async write(data: Uint8Array, position: number): Promise<void> {
    this.acquire()
    try {
      for (let done = 0; done < data.byteLength;) {
        const { bytesWritten } = await this.#handle.write(data, done, data.byteLength - done, position + done)
        done += bytesWritten
      }
    } finally {
      await this.release()
    }
  }

  /** Gives the file its full size without writing it, so that the rest is a hole. */
  async setSize(sizeBytes: number): Promise<void> {
    await this.#handle.truncate(sizeBytes)
  }

  /** Waits until what was written is on the disk. */
  async datasync(): Promise<void> {
    this.acquire()
    try {
      await this.#handle.datasync()
    } finally {
      await this.release()
    }
  }
}

/** What a file takes on the disk, which for a sparse one is less than its size: `st_blocks` of stat(2), always of 512 bytes. */
export function allocatedBytesOf(stats: { blocks: number }): number {
  return stats.blocks * 512
}

/** A file of these bytes, which are on the disk when it resolves. @throws the system's error */
export async function writeDurably(path: string, bytes: Uint8Array): Promise<void> {
  const file = await BlobFile.open(path, 'w+')
  try {
    await file.write(bytes, 0)
    await file.datasync()
  } finally {
    await file.release()
  }
}

/** Whether there is something at a path, as far as this process may look. */
export async function isThere(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  )
}

/** Waits until what was made, moved or removed in a folder is so on the disk. @throws the system's error */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r')
  await handle.sync().finally(() => handle.close())
}
