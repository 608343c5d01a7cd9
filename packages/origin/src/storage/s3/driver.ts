// The storage driver for a bucket of an S3-compatible object store. Nothing is kept in the process between two calls, so
// several registries may serve one bucket. An object is replaced as a whole, and there once a request was answered.
import { HeadObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3'
import { Readable } from 'node:stream'
import type { Logger } from 'pino'
import { freeBytes } from '@shoal/store'
import type { ListedEntry, ObjectStat, StorageDriver, StoredObject, UploadFile } from '../driver.ts'
import { attempt, Bucket, orUndefined, type S3Settings } from './bucket.ts'
import { MultipartCopy } from './multipart-copy.ts'
import { PieceBuffers } from './piece-buffers.ts'
import { PROMOTION, S3Upload, uploadFolder } from './upload.ts'

/** Whoever starts a registry is told by then what it waits for. */
const PATIENCE_MS = 5_000

export class S3Driver implements StorageDriver {
  readonly isShared = true
  readonly #bucket: Bucket
  readonly #buffers = new PieceBuffers()

  private constructor(bucket: Bucket) {
    this.#bucket = bucket
  }

  /**
   * @param log - told when the bucket does not answer soon
   * @throws OciError(UNAVAILABLE) when the bucket cannot be read
   */
  static async open(settings: S3Settings, log?: Logger, patienceMs = PATIENCE_MS): Promise<S3Driver> {
    const driver = new S3Driver(new Bucket(settings))
    const { bucket, endpoint } = settings
    const patience = setTimeout(() => {
      log?.warn({ bucket, endpoint }, 'the object store does not answer yet: the registry starts when it does')
    }, patienceMs)
    try {
      await driver.read('registry')
      return driver
    } catch (error) {
      await driver.close()
      throw error
    } finally {
      clearTimeout(patience)
    }
  }

  async read(path: string): Promise<Buffer | undefined> {
    const body = await orUndefined(this.#bucket.get(path))
    return body && Buffer.from(await body.transformToByteArray())
  }

  async write(path: string, bytes: Uint8Array): Promise<void> {
    await attempt(this.#bucket.client.send(new PutObjectCommand({ ...this.#bucket.at(path), Body: bytes })))
  }

  async stat(path: string): Promise<ObjectStat | undefined> {
    const command = new HeadObjectCommand(this.#bucket.at(path))
    const found = await orUndefined(attempt(this.#bucket.client.send(command)))
    return found && { sizeBytes: found.ContentLength ?? 0, modifiedMs: found.LastModified?.getTime() ?? 0 }
  }

  async touch(path: string): Promise<boolean> {
    const found = await this.stat(path)
    if (!found) return false
    if (found.sizeBytes === 0) {
      await this.write(path, Buffer.alloc(0))
      return true
    }
    // Not CopyObject: of an object onto itself some servers take it for a change of metadata, which leaves the time.
    const copy = await MultipartCopy.begin(this.#bucket, path)
    const done = await orUndefined(copy.complete([{ path, sizeBytes: found.sizeBytes }]).then(() => true))
    return done ?? false
  }

  async openRead(path: string, start: number, end: number): Promise<Readable> {
    if (end < start) return Readable.from([])
    const body = (await this.#bucket.get(path, start, end)) as Readable
    return Object.assign(body, { recycle: (piece: Buffer) => freeBytes([piece]) })
  }

  async remove(path: string): Promise<boolean> {
    if (!(await this.stat(path))) return false
    await this.#bucket.delete([path])
    return true
  }

  async list(folder: string): Promise<ListedEntry[]> {
    const entries: ListedEntry[] = []
    const nameOf = (key: string): string => this.#bucket.pathOf(key).slice(folder === '' ? 0 : folder.length + 1)
    for await (const { objects, folders } of this.#bucket.pages(folder, '/')) {
      for (const key of folders) entries.push({ name: nameOf(key).slice(0, -1), isFolder: true })
      for (const { Key = '' } of objects) entries.push({ name: nameOf(Key), isFolder: false })
    }
    // A folder may be an object of its own, made by other tools.
    return entries.filter(({ name }) => name !== '').sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  async *walk(folder: string): AsyncGenerator<StoredObject> {
    for await (const { objects } of this.#bucket.pages(folder)) {
      for (const { Key = '', Size = 0, LastModified } of objects) {
        if (Key.endsWith('/')) continue
        yield { path: this.#bucket.pathOf(Key), sizeBytes: Size, modifiedMs: LastModified?.getTime() ?? 0 }
      }
    }
  }

  async openUpload(id: string): Promise<UploadFile> {
    return S3Upload.open(this.#bucket, this.#buffers, id)
  }

  async removeUpload(id: string): Promise<void> {
    const paths: string[] = []
    for await (const { path } of this.walk(uploadFolder(id))) {
      if (path.endsWith(`/${PROMOTION}`)) {
        const copy = await this.read(path)
        if (copy) await MultipartCopy.of(this.#bucket, copy).abort()
      }
      paths.push(path)
    }
    await this.#bucket.delete(paths)
  }

  async listUploads(): Promise<{ id: string; modifiedMs: number }[]> {
    const found = new Map<string, number>()
    for await (const { path, modifiedMs } of this.walk('uploads')) {
      const id = path.split('/')[1] ?? ''
      found.set(id, Math.max(found.get(id) ?? 0, modifiedMs))
    }
    return [...found].map(([id, modifiedMs]) => ({ id, modifiedMs }))
  }

  async close(): Promise<void> {
    this.#bucket.close()
  }
}
