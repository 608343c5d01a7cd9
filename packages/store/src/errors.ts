// One class per cause of failure, so that callers decide by class and operators read what to do.
import type { Digest } from '@shoal/oci'

/** Base of everything the store throws on purpose. */
export class StoreError extends Error {
  override readonly name: string = 'StoreError'
}

/** All bytes are there, but together they are not what the digest names. */
export class DigestMismatchError extends StoreError {
  override readonly name = 'DigestMismatchError'
  readonly expected: Digest
  readonly actual: string

  constructor(expected: Digest, actual: string) {
    super(`content of ${expected} has the digest ${actual}: a chunk of it is wrong`)
    this.expected = expected
    this.actual = actual
  }
}

/** The bytes of a chunk do not have the hash (or the length) they should have; nothing was kept. */
export class ChunkMismatchError extends StoreError {
  override readonly name = 'ChunkMismatchError'
  readonly digest: Digest
  readonly index: number

  constructor(digest: Digest, index: number, problem: string) {
    super(`chunk ${index} of ${digest} refused: ${problem}`)
    this.digest = digest
    this.index = index
  }
}

/** The file of a whole blob no longer holds what was once written and checked; the blob is taken out of the store. */
export class BlobDamagedError extends StoreError {
  override readonly name = 'BlobDamagedError'
  readonly digest: Digest

  constructor(digest: Digest, index: number) {
    super(`chunk ${index} of ${digest} was damaged on the disk: the blob is removed, ask again to have it fetched anew`)
    this.digest = digest
  }
}

/** Chunks that were asked for are not (or no longer) there. */
export class ChunkMissingError extends StoreError {
  override readonly name = 'ChunkMissingError'
  readonly digest: Digest
  /** At most the first hundred of the missing chunks. */
  readonly indices: readonly number[]

  constructor(digest: Digest, indices: readonly number[]) {
    super(`chunk ${indices.slice(0, 5).join(', ')}${indices.length > 5 ? ', …' : ''} of ${digest} is not in the store`)
    this.digest = digest
    this.indices = indices
  }
}

/** A blob of an impossible size, or of another size than the one under which it is already arriving. */
export class BlobSizeError extends StoreError {
  override readonly name = 'BlobSizeError'
  readonly digest: Digest

  constructor(digest: Digest, problem: string) {
    super(`size of ${digest}: ${problem}`)
    this.digest = digest
  }
}

/** The quota or the disk has no room, even after eviction. Writes succeed again once there is some. */
export class StoreFullError extends StoreError {
  override readonly name = 'StoreFullError'
  readonly limit: 'quota' | 'disk'

  constructor(limit: 'quota' | 'disk', message: string, options?: ErrorOptions) {
    super(message, options)
    this.limit = limit
  }
}

/** The disk does not do what it is told (input/output error, read-only file system, missing rights). */
export class StoreFailedError extends StoreError {
  override readonly name = 'StoreFailedError'
  /** Code of the system error behind it, such as `EIO`, when there is one. */
  readonly code: string | undefined

  constructor(message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = errorCode(options?.cause)
  }
}

/** Another process has the store open. */
export class StoreLockedError extends StoreError {
  override readonly name = 'StoreLockedError'
  readonly directory: string

  constructor(directory: string, options?: ErrorOptions) {
    super(
      `the store ${directory} is in use by another process: stop that agent, or give this one a directory of its own`,
      options,
    )
    this.directory = directory
  }
}

/** The store, or the blob that was asked, was closed. */
export class StoreClosedError extends StoreError {
  override readonly name = 'StoreClosedError'
}

/** The `code` of a system error, if it has one. */
export function errorCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined
  return typeof error.code === 'string' ? error.code : undefined
}

/** Codes that mean there is no room: disk full, quota of the file system, largest file size. */
const FULL_CODES = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])

function isOutOfSpace(error: unknown): boolean {
  if (FULL_CODES.has(errorCode(error) ?? '')) return true
  // LevelDB has one code for all failures of the disk; the reason is in the text.
  return error instanceof Error && /No space left on device|Disk quota exceeded/.test(error.message)
}

/** Whether it would go when something else were removed: not so for what is larger than a file may be. */
export function isDiskFull(error: unknown): boolean {
  if (error instanceof StoreFullError) return error.limit === 'disk' && isDiskFull(error.cause)
  return isOutOfSpace(error) && errorCode(error) !== 'EFBIG'
}

/** Turns an error of the file system into one that says what was being done; the store's own pass unchanged. */
export function asStoreError(error: unknown, doing: string): StoreError {
  if (error instanceof StoreError) return error
  const reason = error instanceof Error ? error.message : String(error)
  if (isOutOfSpace(error)) {
    return new StoreFullError('disk', `no room on the disk while ${doing}: ${reason}`, { cause: error })
  }
  return new StoreFailedError(`the disk failed while ${doing}: ${reason}`, { cause: error })
}
