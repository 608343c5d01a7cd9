// A blob on its way through the agent: the client's bytes lie in a file until the origin has them all, so that broken
// connections on either side cost neither side what it has sent.
import { randomBytes } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, rm, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { OciError } from '@shoal/oci'
import { UploadRangeError, type UploadPart, type UploadState } from '@shoal/registry'
import { freeBytes, piecesOf } from '@shoal/store'

/** Bytes read from the file at once. */
const READ_BYTES = 1024 * 1024

/** The bytes of one upload that came so far. One request may use it at a time. */
export class PushSpool {
  readonly id = randomBytes(16).toString('hex')
  readonly #path: string
  readonly #file: FileHandle
  /** Asked for room before bytes are written; throws where there is none. */
  readonly #reserve: (bytes: number) => void
  #receivedBytes = 0
  #busy = false

  private constructor(path: string, file: FileHandle, reserve: (bytes: number) => void) {
    this.#path = path
    this.#file = file
    this.#reserve = reserve
  }

  static async create(directory: string, reserve: (bytes: number) => void): Promise<PushSpool> {
    const path = join(directory, randomBytes(16).toString('hex'))
    return new PushSpool(path, await open(path, 'wx+', 0o600), reserve)
  }

  get state(): UploadState {
    return { id: this.id, receivedBytes: this.#receivedBytes }
  }

  get sizeBytes(): number {
    return this.#receivedBytes
  }

  get busy(): boolean {
    return this.#busy
  }

  /** Runs one request's work. @throws OciError(BLOB_UPLOAD_INVALID) while another one is at it */
  async exclusively<T>(work: () => Promise<T>): Promise<T> {
    if (this.#busy) throw new OciError('BLOB_UPLOAD_INVALID', 'another request for this upload is under way')
    this.#busy = true
    try {
      return await work()
    } finally {
      this.#busy = false
    }
  }

  /**
   * Adds what comes; bytes that came before a connection broke stay.
   * @throws UploadRangeError, OciError(SIZE_INVALID), or what writing failed with
   */
  async append({ body, start, lengthBytes }: UploadPart): Promise<void> {
    if (start !== undefined && start !== this.#receivedBytes) {
      throw new UploadRangeError(this.state, `the upload stands at ${this.#receivedBytes}, not at ${start}`)
    }
    const before = this.#receivedBytes
    for await (const piece of piecesOf(body)) {
      if (this.#receivedBytes - before + piece.length > (lengthBytes ?? Infinity)) {
        throw new OciError('SIZE_INVALID', `more than the announced ${lengthBytes} bytes came`)
      }
      this.#reserve(piece.length)
      await this.#write(piece)
      freeBytes([piece])
    }
    const came = this.#receivedBytes - before
    if (lengthBytes !== undefined && came !== lengthBytes) {
      throw new OciError('SIZE_INVALID', `${came} bytes came instead of ${lengthBytes}`)
    }
  }

  /** The bytes from `start` on. */
  read(start: number): Readable {
    return createReadStream(this.#path, { start, highWaterMark: READ_BYTES })
  }

  /** Fills `into` with bytes from `position` on. */
  async readAt(position: number, into: Uint8Array): Promise<void> {
    for (let filled = 0; filled < into.length;) {
      const { bytesRead } = await this.#file.read(into, filled, into.length - filled, position + filled)
      if (bytesRead === 0) throw new Error(`the spool of a push ends at ${position + filled}`)
      filled += bytesRead
    }
  }

  async remove(): Promise<void> {
    await this.#file.close().catch(() => undefined)
    await rm(this.#path, { force: true })
  }

  async #write(piece: Buffer): Promise<void> {
    for (let written = 0; written < piece.length;) {
      const { bytesWritten } = await this.#file.write(piece, written, piece.length - written, this.#receivedBytes)
      written += bytesWritten
      this.#receivedBytes += bytesWritten
    }
  }
}
