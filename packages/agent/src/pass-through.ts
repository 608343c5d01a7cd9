// A blob that the store cannot take (the disk is full or failing) is streamed from the origin without being kept: pulls
// go on. The digest is checked on the way, and the last bytes are held back until it has matched.
import { once } from 'node:events'
import { PassThrough, type Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createDigestHash, type Digest } from '@shoal/oci'
import type { BlobReadable } from '@shoal/registry'
import { StoreFailedError, StoreFullError, type ReadOptions } from '@shoal/store'
import { UpstreamError, type RepositoryTarget, type Upstream } from '@shoal/upstream'
import type { Requester } from './origin-sources.ts'

/** Bytes at the end that are held back until the digest is known to match. */
const HELD_BACK_BYTES = 64 * 1024

export interface PassThroughBlob {
  upstream: Upstream
  target: RepositoryTarget
  digest: Digest
  sizeBytes: number
  requester: Requester
}

/**
 * A stream of the blob, or of a part of it: then there is no digest to check it against, and the client checks. The
 * first `have` bytes of it are left out, because the client has them already.
 */
export function passThrough(blob: PassThroughBlob, options: ReadOptions, have = 0): Readable {
  const start = options.start ?? 0
  const end = options.end ?? blob.sizeBytes - 1
  const whole = start === 0 && end === blob.sizeBytes - 1
  const output = new PassThrough({ highWaterMark: 1024 * 1024 })
  const abort = new AbortController()
  output.once('close', () => abort.abort())
  const signal = options.signal === undefined ? abort.signal : AbortSignal.any([abort.signal, options.signal])
  carry(blob, { start, end, whole, have }, output, signal).catch((error: unknown) => {
    output.destroy(error instanceof Error ? error : new Error(String(error)))
  })
  return output
}

interface Part {
  start: number
  end: number
  /** It is all of the blob, so that there is a digest to check. */
  whole: boolean
  have: number
}

async function carry(blob: PassThroughBlob, part: Part, output: PassThrough, signal: AbortSignal): Promise<void> {
  const { upstream, target, digest, sizeBytes, requester } = blob
  const { end, whole, have } = part
  // All of it is read even when the client has some: the digest is worth more than the bytes.
  const start = whole ? 0 : part.start + have
  const range = whole ? undefined : { start, end }
  const body = await upstream.openBlob(target, digest, range, { ...requester, signal }, sizeBytes)
  const cut = (source: AsyncIterable<Buffer>) => onlyRange(source, body.start, start, end)
  const check = (source: AsyncIterable<Buffer>) => (whole ? onlyRange(checked(source, blob), 0, have, end) : source)
  await pipeline(body.body, cut, check, output, { signal })
}

/**
 * A stream over what `open` gives; when the store fails on the way, what the client does not have yet comes from the
 * origin instead.
 */
export function orPassThrough(
  blob: PassThroughBlob,
  open: (options: ReadOptions) => Readable,
  options: ReadOptions,
  onFailure: (error: Error) => void,
): Readable {
  const output: PassThrough & BlobReadable = new PassThrough({ highWaterMark: 1024 * 1024 })
  const abort = new AbortController()
  let sent = 0
  let source: BlobReadable = open(options)
  // Pieces go through unchanged, so they can go back the same way.
  output.recycle = (piece) => source.recycle?.(piece)
  output.once('close', () => {
    abort.abort()
    source.destroy()
  })
  const copy = async () => {
    for await (const piece of source as AsyncIterable<Buffer>) {
      sent += piece.length
      if (!output.write(piece)) await once(output, 'drain', { signal: abort.signal })
    }
  }
  const run = async () => {
    try {
      await copy()
    } catch (error) {
      if (!(error instanceof StoreFullError || error instanceof StoreFailedError) || output.destroyed) throw error
      onFailure(error)
      source = passThrough(blob, options, sent)
      await copy()
    }
    output.end()
  }
  run().catch((error: unknown) => output.destroy(error instanceof Error ? error : new Error(String(error))))
  return output
}

/** Drops what an origin sends beyond the range that was asked for. */
async function* onlyRange(source: AsyncIterable<Buffer>, from: number, start: number, end: number) {
  let position = from
  for await (const piece of source) {
    const first = Math.max(0, start - position)
    const last = Math.min(piece.length, end + 1 - position)
    position += piece.length
    if (last > first) yield piece.subarray(first, last)
    if (position > end) return
  }
}

async function* checked(source: AsyncIterable<Buffer>, { digest, target, sizeBytes }: PassThroughBlob) {
  const hash = createDigestHash(digest)
  const held: Buffer[] = []
  let heldBytes = 0
  let bytes = 0
  for await (const piece of source) {
    hash.update(piece)
    bytes += piece.length
    held.push(piece)
    heldBytes += piece.length
    while (held.length > 1 && heldBytes - held[0]!.length >= HELD_BACK_BYTES) {
      heldBytes -= held[0]!.length
      yield held.shift()!
    }
  }
  if (bytes !== sizeBytes || hash.digest() !== digest) {
    throw new UpstreamError('PROTOCOL', target.registry, `${target.registry} sent bytes that do not match ${digest}`)
  }
  yield* held
}
