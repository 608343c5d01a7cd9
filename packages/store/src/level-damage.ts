// How LevelDB says that the disk has harmed its files, in contrast to one that is full or does not answer.
import { readdir } from 'node:fs/promises'
import { basename } from 'node:path'
import { ClassicLevel } from 'classic-level'
import { errorCode } from './errors.ts'

/** How the process that reads a database for others (`level-reader.ts`) ends when it has met damage and lived. */
export const DAMAGED_EXIT_CODE = 2

/** Whether what was to be read of a LevelDB database is damaged. */
export function isDamagedRow(error: unknown): boolean {
  return ['LEVEL_DECODING_ERROR', 'LEVEL_CORRUPTION'].includes(errorCode(error) ?? '') || isCutOff(error)
}

/** A table that is shorter than LevelDB knows it to be is read past its end, which the system calls an invalid argument. */
function isCutOff(error: unknown): boolean {
  return error instanceof Error && /\.(ldb|sst): Invalid argument/.test(error.message)
}

/**
 * Whether a LevelDB database could not be opened because it is damaged. LevelDB reports damage as corruption, and files of its own
 * that are missing or cut off as an input/output error.
 */
export async function isDamagedDatabase(error: Error, location: string): Promise<boolean> {
  if (errorCode(error) === 'LEVEL_CORRUPTION' || isCutOff(error)) return true
  const missing = /([^/\s]+): No such file or directory/.exec(error.message)?.[1]
  if (missing === undefined) return false
  return !(await readdir(location).catch((): string[] => [])).includes(basename(missing))
}

/** Makes a damaged database, which is not open, one that can be opened, of what can be read of it. */
export async function repairDatabase(location: string): Promise<void> {
  await ClassicLevel.repair(location)
}
