// An upload in a bucket: a row of objects ("pieces"), each written once under a name of its own, which says where it
// begins. Any process can list them and go on. All but the last have full size, so that they become the parts of one
// object by copies inside the store. A short last piece is taken back into memory when more bytes come, and its place is
// taken by a longer one.
import { createHash, randomUUID } from 'node:crypto'
import { Readable } from 'node:stream'
import { PutObjectCommand } from '@aws-sdk/client-s3'
import { OciError } from '@shoal/oci'
import { freeBytes, piecesOf } from '@shoal/store'
import type { UploadFile } from '../driver.ts'
import { attempt, isMissing, type Bucket } from './bucket.ts'
import { MAX_PARTS, MultipartCopy } from './multipart-copy.ts'
import { PIECE_BYTES, type PieceBuffers } from './piece-buffers.ts'

/** Name of the object that tells of a promotion under way. */
export const PROMOTION = 'promotion'

/** From here on pieces are larger, so that the number of parts does not limit a blob to 78 GiB. */
const LARGE_FROM_BYTES = (MAX_PARTS / 2) * PIECE_BYTES
const LARGE_PIECE_BYTES = 4 * PIECE_BYTES

/** Enough digits for every safe integer, so that names sort like numbers. */
const DIGITS = 16

interface Piece {
  path: string
  start: number
  sizeBytes: number
}

export class S3Upload implements UploadFile {
  readonly #bucket: Bucket
  readonly #buffers: PieceBuffers
  readonly #folder: string
  /** In the store, without gaps from the first byte. */
  readonly #pieces: Piece[]
  /** Pieces whose bytes are in others, or not wanted, once the rest is stored. */
  #stale: string[] = []
  /** What follows on the pieces. */
  #buffer: Buffer | undefined
  #bufferedBytes = 0
  /** The piece on its way to the store; the buffer fills meanwhile. */
  #storing: Promise<void> | undefined
  #storingBytes = 0
  #failure: unknown

  private constructor(bucket: Bucket, buffers: PieceBuffers, folder: string, pieces: Piece[]) {
    this.#bucket = bucket
    this.#buffers = buffers
    this.#folder = folder
    this.#pieces = pieces
  }

  static async open(bucket: Bucket, buffers: PieceBuffers, id: string): Promise<S3Upload> {
    const folder = uploadFolder(id)
    const found: Piece[] = []
    for await (const { objects } of bucket.pages(folder)) {
      for (const { Key = '', Size = 0 } of objects) {
        const path = bucket.pathOf(Key)
        const start = /^([0-9]{16})-[0-9a-f-]{36}$/.exec(path.slice(folder.length + 1))?.[1]
        if (start !== undefined) found.push({ path, start: Number(start), sizeBytes: Size })
      }
    }
    return new S3Upload(bucket, buffers, folder, rowOf(found))
  }

  get sizeBytes(): number {
    return this.#storedBytes + this.#storingBytes + this.#bufferedBytes
  }

  get version(): string {
    if (this.#pieces.length === 0) return ''
    return createHash('sha256')
      .update(this.#pieces.map(({ path }) => path).join())
      .digest('hex')
  }

  async append(pieces: Uint8Array[]): Promise<void> {
    this.#throwFailure()
    await this.#takeBackShortPiece()
    for (const piece of pieces) {
      for (let rest = piece; rest.length > 0;) {
        const buffer = (this.#buffer ??= this.#buffers.take(pieceBytesAt(this.#storedBytes + this.#storingBytes)))
        const fitting = rest.subarray(0, buffer.length - this.#bufferedBytes)
        buffer.set(fitting, this.#bufferedBytes)
        this.#bufferedBytes += fitting.length
        rest = rest.subarray(fitting.length)
        if (this.#bufferedBytes === buffer.length) await this.#store()
      }
    }
  }

  async truncate(sizeBytes: number): Promise<void> {
    await this.#settle()
    this.#failure = undefined
    if (sizeBytes >= this.#storedBytes) {
      this.#bufferedBytes = Math.min(this.#bufferedBytes, sizeBytes - this.#storedBytes)
      return
    }
    this.#bufferedBytes = 0
    while (this.#storedBytes > sizeBytes) {
      const last = this.#pieces.at(-1) as Piece
      await this.#takeBack(last, Math.max(0, sizeBytes - last.start))
    }
  }

  async stream(): Promise<Readable> {
    await this.#settle()
    this.#throwFailure()
    return Readable.from(this.#everything(), { objectMode: false, highWaterMark: 1024 * 1024 })
  }

  async promote(path: string): Promise<void> {
    await this.#flush()
    const [first, ...others] = this.#pieces
    try {
      if (!first) {
        await this.#put(path, Buffer.alloc(0))
      } else if (others.length === 0) await this.#bucket.copy(first.path, path)
      else {
        const copy = await MultipartCopy.begin(this.#bucket, path)
        // Found by whoever drops the upload, should this process die in between.
        await this.#put(`${this.#folder}/${PROMOTION}`, copy.toBytes())
        await copy.complete(this.#pieces)
      }
    } catch (error) {
      if (!isMissing(error)) throw error
      throw new OciError('BLOB_UPLOAD_INVALID', 'another request went on with this upload: start one with POST', {
        cause: error,
      })
    }
  }

  async close(): Promise<void> {
    try {
      await this.#flush()
    } finally {
      if (this.#buffer) this.#buffers.giveBack(this.#buffer)
      this.#buffer = undefined
      this.#bufferedBytes = 0
    }
  }

  get #storedBytes(): number {
    const last = this.#pieces.at(-1)
    return last ? last.start + last.sizeBytes : 0
  }

  /** Sends the buffer off as the next piece, when the one before it has arrived. */
  async #store(): Promise<void> {
    await this.#settle()
    this.#throwFailure()
    const [buffer, sizeBytes, start] = [this.#buffer, this.#bufferedBytes, this.#storedBytes]
    if (!buffer || sizeBytes === 0) return
    if (this.#pieces.length >= MAX_PARTS) {
      this.#bufferedBytes = 0
      throw new OciError('SIZE_INVALID', `the object store takes no blob larger than ${start} bytes`, { status: 413 })
    }
    this.#buffer = undefined
    this.#bufferedBytes = 0
    this.#storingBytes = sizeBytes
    const path = `${this.#folder}/${String(start).padStart(DIGITS, '0')}-${randomUUID()}`
    this.#storing = this.#put(path, buffer.subarray(0, sizeBytes)).then(
      () => {
        this.#pieces.push({ path, start, sizeBytes })
        this.#storingBytes = 0
        this.#buffers.giveBack(buffer)
      },
      (error: unknown) => {
        // The buffer may still be on its way: it is left to the garbage collector.
        this.#storingBytes = 0
        this.#bufferedBytes = 0
        this.#failure = error
      },
    )
  }

  /** Everything into the store, then what is no longer needed out of it. */
  async #flush(): Promise<void> {
    await this.#store()
    await this.#settle()
    this.#throwFailure()
    const stale = this.#stale
    this.#stale = []
    if (stale.length > 0) await this.#bucket.delete(stale)
  }

  async #settle(): Promise<void> {
    await this.#storing
    this.#storing = undefined
  }

  /** Told once: afterwards the upload stands at what has arrived. */
  #throwFailure(): void {
    const failure = this.#failure
    this.#failure = undefined
    if (failure !== undefined) throw failure instanceof Error ? failure : new Error('the object store failed')
  }

  async #takeBackShortPiece(): Promise<void> {
    const last = this.#storing || this.#bufferedBytes > 0 ? undefined : this.#pieces.at(-1)
    if (last && last.sizeBytes < pieceBytesAt(last.start)) await this.#takeBack(last, last.sizeBytes)
  }

  /** Replaces the last piece by its first `keptBytes`, in memory. */
  async #takeBack(last: Piece, keptBytes: number): Promise<void> {
    const buffer = keptBytes === 0 ? undefined : this.#buffers.take(pieceBytesAt(last.start))
    let filled = 0
    if (buffer) {
      const body = (await this.#bucket.get(last.path, 0, keptBytes - 1)) as Readable
      for await (const bytes of piecesOf(body)) {
        buffer.set(bytes, filled)
        filled += bytes.length
        freeBytes([bytes])
      }
      if (filled !== keptBytes) throw new Error(`a piece has ${filled} bytes instead of ${keptBytes}`)
    }
    this.#pieces.pop()
    this.#stale.push(last.path)
    this.#buffer = buffer
    this.#bufferedBytes = filled
  }

  async *#everything(): AsyncGenerator<Buffer> {
    for (const { path } of this.#pieces) {
      yield* piecesOf((await this.#bucket.get(path)) as Readable)
    }
    if (this.#buffer && this.#bufferedBytes > 0) yield Buffer.from(this.#buffer.subarray(0, this.#bufferedBytes))
  }

  async #put(path: string, bytes: Buffer): Promise<void> {
    await attempt(this.#bucket.client.send(new PutObjectCommand({ ...this.#bucket.at(path), Body: bytes })))
  }
}

export function uploadFolder(id: string): string {
  return `uploads/${id}`
}

function pieceBytesAt(start: number): number {
  return start < LARGE_FROM_BYTES ? PIECE_BYTES : LARGE_PIECE_BYTES
}

/**
 * The pieces that follow on one another. Where two begin at one place the longer one counts: it took the place of the
 * other, or was written by a process that a client has given up on, and then the digest of the whole tells.
 */
function rowOf(found: Piece[]): Piece[] {
  found.sort((a, b) => a.start - b.start || b.sizeBytes - a.sizeBytes || (a.path < b.path ? -1 : 1))
  const row: Piece[] = []
  let end = 0
  for (const piece of found) {
    if (piece.start !== end || piece.sizeBytes === 0) continue
    row.push(piece)
    end += piece.sizeBytes
    if (piece.sizeBytes < pieceBytesAt(piece.start)) break
  }
  return row
}
