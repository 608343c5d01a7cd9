// Why a download did not deliver.
import type { Digest } from '@shoal/oci'

export type DownloadErrorCode =
  | 'NO_SOURCE' // no peer has it and the origin does not give it; `cause` has the origin's error
  | 'NO_PROGRESS' // nothing came from anywhere for the time allowed
  | 'CORRUPT' // all chunks came, but the digest does not match, and nobody could say why
  | 'WRONG_SIZE' // other nodes or a manifest named the size, and the origin names another one
  | 'STOPPED' // nobody waits for it any more, or the agent stops

/** A blob could not be downloaded. */
export class DownloadError extends Error {
  override readonly name = 'DownloadError'
  readonly code: DownloadErrorCode
  readonly digest: Digest

  constructor(code: DownloadErrorCode, digest: Digest, message: string, cause?: unknown) {
    super(message, { cause })
    this.code = code
    this.digest = digest
  }
}
