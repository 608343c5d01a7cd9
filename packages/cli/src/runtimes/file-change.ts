// Changes of other programs' configuration files: shown as a difference first, then made all at once or not at all.
import { randomUUID } from 'node:crypto'
import { mkdir, open, readFile, realpath, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { CommandError } from '../exit-codes.ts'

/** What a file shall hold; undefined is no file. */
export interface FileChange {
  path: string
  before: string | undefined
  after: string | undefined
}

/** The text of a file, undefined if there is none. @throws CommandError when it cannot be read */
export async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw new CommandError(`${path} cannot be read: ${message}`)
  }
}

/** The lines that go and come, with the name of the file; the empty text when nothing changes. */
export function showChange({ path, before, after }: FileChange): string {
  if (before === after) return ''
  const lines = (text: string | undefined): string[] => (text === undefined ? [] : text.replace(/\n$/, '').split('\n'))
  const [old, now] = [lines(before), lines(after)]
  let start = 0
  while (start < old.length && start < now.length && old[start] === now[start]) start++
  let end = 0
  while (end < Math.min(old.length, now.length) - start && old.at(-1 - end) === now.at(-1 - end)) end++
  const rows = [
    `--- ${before === undefined ? '/dev/null' : path}`,
    `+++ ${after === undefined ? '/dev/null' : path}`,
    ...old.slice(0, start).map((line) => ` ${line}`),
    ...old.slice(start, old.length - end).map((line) => `-${line}`),
    ...now.slice(start, now.length - end).map((line) => `+${line}`),
    ...old.slice(old.length - end).map((line) => ` ${line}`),
  ]
  return `${rows.join('\n')}\n`
}

/**
 * Makes the change. A reader sees the old file or the new one; owner and mode stay, and a link stays a link.
 * @throws CommandError when it cannot be written
 */
export async function applyChange({ path, before, after }: FileChange): Promise<void> {
  if (before === after) return
  try {
    if (after === undefined) await rm(path)
    else await replaceFile(path, after)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const advice = code === 'EACCES' || code === 'EPERM' || code === 'EROFS' ? '; run this as root' : ''
    throw new CommandError(`${path} cannot be written: ${message}${advice}`)
  }
}

async function replaceFile(path: string, text: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  const target = await realpath(path).catch(() => path)
  const known = await stat(target).catch(() => undefined)
  const partial = join(dirname(target), `.shoal-${randomUUID()}`)
  try {
    const file = await open(partial, 'wx', 0o644)
    try {
      await file.writeFile(text)
      if (known !== undefined) {
        await file.chmod(known.mode & 0o7777)
        await file.chown(known.uid, known.gid)
      }
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(partial, target)
  } catch (error) {
    await rm(partial, { force: true })
    throw error
  }
}
