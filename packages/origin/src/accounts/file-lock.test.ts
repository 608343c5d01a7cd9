import assert from 'node:assert/strict'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { temporaryFolder } from '../testing.ts'
import { FileLockError, withFileLock } from './file-lock.ts'

test('changes of one file are made one after the other, and leave nothing behind', async () => {
  await using folder = await temporaryFolder()
  const path = join(folder.path, 'file')
  await writeFile(path, '0')
  const addOne = () =>
    withFileLock(path, async (lock) => {
      const count = Number(await readFile(path, 'utf8'))
      assert.ok(await lock.isHeld())
      await writeFile(path, String(count + 1))
    })
  await Promise.all(Array.from({ length: 20 }, addOne))
  assert.equal(await readFile(path, 'utf8'), '20')
  assert.deepEqual(await readdir(folder.path), ['file'])
})

test('a lock that a killed process has left is taken away; others then still have it one at a time', async () => {
  await using folder = await temporaryFolder()
  const path = join(folder.path, 'file')
  await writeFile(`${path}.lock`, 'somebody who was killed')
  let inside = 0
  let done = 0
  const change = () =>
    withFileLock(
      path,
      async () => {
        assert.equal(++inside, 1)
        await readdir(folder.path)
        inside--
        done++
      },
      { staleMs: 300 },
    )
  await Promise.all(Array.from({ length: 6 }, change))
  assert.equal(done, 6)
  assert.deepEqual(await readdir(folder.path), [])
})

test('an owner that was stopped for too long learns that the lock is no longer his, and leaves that of the next', async () => {
  await using folder = await temporaryFolder()
  const path = join(folder.path, 'file')
  await withFileLock(path, async (stopped) => {
    await withFileLock(
      path,
      async (next) => {
        assert.deepEqual([await stopped.isHeld(), await next.isHeld()], [false, true])
      },
      { staleMs: 20 },
    )
    await writeFile(`${path}.lock`, 'a third')
  })
  assert.equal(await readFile(`${path}.lock`, 'utf8'), 'a third')
})

test('who waits for too long is told so; a failed change lets go of the lock', async () => {
  await using folder = await temporaryFolder()
  const path = join(folder.path, 'file')
  await assert.rejects(
    withFileLock(path, async () => {
      await withFileLock(path, async () => undefined, { longestWaitMs: 50 })
    }),
    FileLockError,
  )
  await withFileLock(path, async () => undefined, { longestWaitMs: 50 })
  assert.deepEqual(await readdir(folder.path), [])
})
