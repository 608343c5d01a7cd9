// One change of a file at a time, whichever process makes it: a lock file beside it. Node has no locks that the kernel
// takes back from the dead, so a lock that does not change hands for long is taken away from its owner, who finds out
// before it writes.
import { randomUUID } from 'node:crypto'
import { link, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'

/** A change takes milliseconds; an owner that is seen for this long was killed, or stopped. */
const STALE_MS = 10_000
const LONGEST_WAIT_MS = 60_000

export interface FileLockOptions {
  /** How long one owner may be watched before the lock is taken away, in ms. @default 10000 */
  staleMs?: number
  /** @default 60000 */
  longestWaitMs?: number
}

/** Others change the file all the time, or its folder takes no lock file. */
export class FileLockError extends Error {
  override readonly name = 'FileLockError'
  readonly code = 'ERR_SHOAL_FILE_LOCK'
}

/** The right to change the file. */
export interface HeldLock {
  /** False when it was taken away: what was read may have changed since. */
  isHeld(): Promise<boolean>
}

/**
 * Runs `change` while no other process that asks here runs its own for the same `path`.
 * @throws FileLockError when the lock cannot be had in a minute; the error of the file system where none can be made
 */
export async function withFileLock<T>(
  path: string,
  change: (lock: HeldLock) => Promise<T>,
  options: FileLockOptions = {},
): Promise<T> {
  const lockPath = `${path}.lock`
  const owner = await acquire(lockPath, options)
  const isHeld = async (): Promise<boolean> => (await ownerOf(lockPath)) === owner
  try {
    return await change({ isHeld })
  } finally {
    if (await isHeld()) await rm(lockPath, { force: true })
  }
}

/** Gives back the name that the lock is held under. */
async function acquire(lockPath: string, options: FileLockOptions): Promise<string> {
  const { staleMs = STALE_MS, longestWaitMs = LONGEST_WAIT_MS } = options
  const me = randomUUID()
  const mine = `${lockPath}.${me}`
  const startMs = performance.now()
  // Linked into place, so that nobody ever reads a lock whose owner is not written yet.
  await writeFile(mine, me, { flag: 'wx', mode: 0o600 })
  try {
    let seen: { owner: string; sinceMs: number } | undefined
    for (;;) {
      if (await linked(mine, lockPath)) return me
      const nowMs = performance.now()
      const owner = await ownerOf(lockPath)
      if (owner === undefined) continue
      if (seen?.owner !== owner) seen = { owner, sinceMs: nowMs }
      // Watched with a clock of one's own: those of other machines and of their file server may be wrong.
      if (nowMs - seen.sinceMs >= staleMs) await takeAway(lockPath, owner)
      else if (nowMs - startMs > longestWaitMs) {
        throw new FileLockError(`others have been changing it for ${Math.round(longestWaitMs / 1000)} s: try again`)
      } else await delay(5 + Math.random() * 20)
    }
  } finally {
    await rm(mine, { force: true })
  }
}

/** Puts a lock that has changed hands in the last moment back. */
async function takeAway(lockPath: string, staleOwner: string): Promise<void> {
  const aside = `${lockPath}.${randomUUID()}`
  try {
    if ((await ownerOf(lockPath)) !== staleOwner) return
    await rename(lockPath, aside)
    if ((await ownerOf(aside)) !== staleOwner) await linked(aside, lockPath)
  } catch (error) {
    if (!isCode(error, 'ENOENT')) throw error
  } finally {
    await rm(aside, { force: true })
  }
}

async function linked(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to)
    return true
  } catch (error) {
    if (isCode(error, 'EEXIST')) return false
    throw error
  }
}

async function ownerOf(lockPath: string): Promise<string | undefined> {
  try {
    return await readFile(lockPath, 'utf8')
  } catch (error) {
    if (isCode(error, 'ENOENT')) return undefined
    throw error
  }
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}
