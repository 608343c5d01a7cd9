import { test } from 'node:test'
import assert from 'node:assert/strict'
import { readdir, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { temporaryFolder } from '../testing.ts'
import { driverConformance } from './conformance.ts'
import { FilesystemDriver } from './filesystem.ts'

driverConformance('filesystem', async () => {
  const folder = await temporaryFolder()
  const driver = await FilesystemDriver.open(folder.path)
  return {
    driver,
    again: () => FilesystemDriver.open(folder.path),
    [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
  }
})

test('what a crash left is removed at a start, and nothing that another process may be writing', async () => {
  await using folder = await temporaryFolder()
  const temporary = join(folder.path, 'tmp')
  await FilesystemDriver.open(folder.path)
  for (const name of ['left', 'written']) await writeFile(join(temporary, name), 'half')
  const then = new Date(Date.now() - 2 * 3_600_000)
  await utimes(join(temporary, 'left'), then, then)
  await FilesystemDriver.open(folder.path, { isGuest: true })
  assert.deepEqual((await readdir(temporary)).sort(), ['left', 'written'])
  await FilesystemDriver.open(folder.path)
  assert.deepEqual(await readdir(temporary), ['written'])
})
