// Buffers in which the pieces of uploads are gathered. They are used again and again, so that memory does not depend on
// when garbage is collected.

/** Size of most pieces of an upload. At least 5 MiB, the least part of a multipart upload (Amazon S3 User Guide). */
export const PIECE_BYTES = 8 * 2 ** 20
/** Buffers that are kept for the next upload. */
const MAX_SPARE = 4

export class PieceBuffers {
  readonly #spare: Buffer[] = []

  take(sizeBytes: number): Buffer {
    return (sizeBytes === PIECE_BYTES ? this.#spare.pop() : undefined) ?? Buffer.allocUnsafeSlow(sizeBytes)
  }

  /** Only what nobody reads any more may be given back. */
  giveBack(buffer: Buffer): void {
    if (buffer.length === PIECE_BYTES && this.#spare.length < MAX_SPARE) this.#spare.push(buffer)
  }
}
