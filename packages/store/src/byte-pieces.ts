// Streams of bytes, buffer by buffer as they came from a socket, and freed as soon as they are where they belong. What is
// left to the garbage collector gathers to some 100 MB before it runs: measured for a push of 8 GiB, that was most of what
// a registry took beyond its rest, and marking cost an agent more processor time than SHA-256.
import { on } from 'node:events'
import type { Readable } from 'node:stream'

/** Pieces, of 64 KiB mostly, that may wait before the sender has to. */
const WAITING_PIECES = 16

/**
 * All pieces of a stream. Iterating over the stream itself would copy all that has gathered into one new buffer each time.
 * When the reader stops early, the stream is not destroyed: a client shall still get its answer on the same connection.
 * @throws what the stream failed with, or an error when it broke off
 */
export async function* piecesOf(stream: Readable): AsyncGenerator<Buffer, void> {
  if (!stream.readableEnded && !stream.destroyed) {
    const limits = { close: ['end', 'close'], highWaterMark: WAITING_PIECES, lowWaterMark: WAITING_PIECES / 2 }
    for await (const [piece] of on(stream, 'data', limits) as AsyncIterable<[Buffer]>) yield piece
  }
  if (!stream.readableEnded) throw stream.errored ?? new Error('the stream broke off')
}

/**
 * Frees bytes at once. Only for those that nobody reads any more: they have no length afterwards.
 * Bytes that share their memory with others are left to the garbage collector.
 */
export function freeBytes(pieces: readonly Uint8Array[]): void {
  for (const { buffer, byteLength } of pieces) {
    if (byteLength > 0 && buffer instanceof ArrayBuffer && buffer.byteLength === byteLength) buffer.transfer(0)
  }
}
