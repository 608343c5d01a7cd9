// The one error of this folder, and reading small JSON files of an archive.
import { HostileJsonError, parseBoundedJson } from '@shoal/oci'

/** An archive cannot be read, lacks something, or is not what it says. Nothing was pushed under a tag. */
export class ArchiveError extends Error {
  override readonly name = 'ArchiveError'

  constructor(archive: string, reason: string, options?: { cause?: unknown }) {
    super(`${archive}: ${reason}`, options)
  }
}

/** Most that an index, a manifest or a config of an archive may have. */
export const MAX_JSON_BYTES = 4 * 1024 * 1024

/** @throws ArchiveError */
export function parseArchiveJson(archive: string, name: string, bytes: Uint8Array): unknown {
  try {
    return parseBoundedJson(bytes, { maxBytes: MAX_JSON_BYTES, maxDepth: 32 })
  } catch (error) {
    if (!(error instanceof HostileJsonError)) throw error
    throw new ArchiveError(archive, `${name} cannot be read: ${error.message}`, { cause: error })
  }
}
