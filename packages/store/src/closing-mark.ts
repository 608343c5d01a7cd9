// The mark beside a store's index that the store was closed in order and has not been opened since. It is no row of the index:
// whether that can be read is what the next start wants to know.
import { rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { isThere, syncFolder } from './blob-file.ts'

function markOf(location: string): string {
  return `${location}.closed`
}

/** Takes the mark away, which is certain to be gone then. @returns whether it was there. @throws the system's error */
export async function takeClosingMark(location: string): Promise<boolean> {
  const mark = markOf(location)
  if (!(await isThere(mark))) return false
  await rm(mark)
  await syncFolder(dirname(mark))
  return true
}

/** @throws the system's error */
export async function leaveClosingMark(location: string): Promise<void> {
  const mark = markOf(location)
  await writeFile(mark, '')
  await syncFolder(dirname(mark))
}
