// What to do when all chunks of a blob are here, but together they do not have its digest.
import type { PartialBlob } from '@shoal/store'
import { findLiars, type Audit } from './audit.ts'
import { DownloadError } from './errors.ts'

export interface Repair extends Audit {
  partial: PartialBlob
  /** Chunks of an earlier run of this node: it is not known any more who vouched for them. */
  resumed: number[]
  mismatch: Error
  drop: (chunks: number[]) => Promise<void>
}

/**
 * Takes back the chunks that are wrong, or may be, so that they are fetched again.
 * @throws DownloadError(CORRUPT) when nobody but the origin can be at fault, or there is no origin to compare with
 */
export async function repair(options: Repair): Promise<void> {
  const { book, partial, resumed, drop } = options
  // Chunks that were kept on a word that was withdrawn meanwhile.
  const stale = [...partial.chunks.indices()].filter((chunk) => {
    const hash = book.hash(chunk)
    return hash === undefined || Buffer.compare(partial.hashOf(chunk) ?? hash, hash) !== 0
  })
  if (stale.length > 0) return await drop(stale)
  const liars = await caught(options)
  if (liars.size > 0) return
  if (resumed.length > 0) {
    book.forget(resumed)
    return await drop(resumed)
  }
  await drop([...partial.chunks.indices()])
  const message = 'what the origin and the peers sent does not match the digest'
  throw new DownloadError('CORRUPT', partial.digest, message, options.mismatch)
}

async function caught({ partial, ...audit }: Repair): Promise<Set<string>> {
  try {
    return await findLiars(audit)
  } catch (error) {
    const message = 'the blob does not match its digest, and there was no origin to compare it with'
    throw new DownloadError('CORRUPT', partial.digest, message, error)
  }
}
