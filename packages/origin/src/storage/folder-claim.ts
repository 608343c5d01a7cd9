// That a folder belongs to one registry at a time. Node has no lock that the kernel takes back from the dead, but LevelDB has:
// so the claim is a database that stays empty.
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { Level } from 'level'

/** Another registry runs on the folder. */
export class FolderInUseError extends Error {
  override readonly name = 'FolderInUseError'
  readonly folder: string

  constructor(folder: string, options?: ErrorOptions) {
    super(`${folder} is in use by another registry: stop that one, or give this one a folder of its own`, options)
    this.folder = folder
  }
}

/**
 * Claims a folder, made when missing, until the function that it gives back is called or the process ends. Where the file system has
 * no locks nothing is claimed.
 * @throws FolderInUseError; the error of the file system when the folder cannot be made
 */
export async function claimFolder(folder: string): Promise<() => Promise<void>> {
  const location = join(folder, 'in-use')
  await mkdir(location, { recursive: true })
  const claim = new Level(location)
  try {
    await claim.open()
  } catch (error) {
    const { code } = (error as { cause?: { code?: string } }).cause ?? {}
    if (code === 'LEVEL_LOCKED') throw new FolderInUseError(folder, { cause: error })
  }
  return () => claim.close()
}
