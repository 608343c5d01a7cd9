import { test } from 'node:test'
import assert from 'node:assert/strict'
import files, { readFile, stat, writeFile } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { join } from 'node:path'
import { pino } from 'pino'
import { temporaryFolder } from '../testing.ts'
import { HtpasswdFile, InvalidAccountError, listUsers, parseHtpasswd, removeUser, setUser } from './htpasswd.ts'
import { LoginLimit } from './login-limit.ts'

const logger = pino({ level: 'silent' })

test('accounts are added, changed, listed and removed while the registry runs', async () => {
  await using folder = await temporaryFolder()
  const path = join(folder.path, 'htpasswd')
  await setUser(path, 'ann', 'secret')
  assert.equal((await stat(path)).mode & 0o777, 0o600)
  assert.doesNotMatch(await readFile(path, 'utf8'), /secret/)
  const file = await HtpasswdFile.open(path, logger)
  assert.equal(await file.verify('ann', 'secret'), true)
  assert.equal(await file.verify('ann', 'Secret'), false)
  assert.equal(await file.verify('bob', 'secret'), false)
  await setUser(path, 'bob', 'other')
  assert.equal(await file.verify('bob', 'other'), true)
  await setUser(path, 'ann', 'changed')
  assert.equal(await file.verify('ann', 'secret'), false)
  assert.equal(await file.verify('ann', 'changed'), true)
  assert.deepEqual(await listUsers(path), ['ann', 'bob'])
  assert.deepEqual(await file.users(), ['ann', 'bob'])
  assert.equal(await removeUser(path, 'ann'), true)
  assert.equal(await removeUser(path, 'ann'), false)
  assert.equal(await file.verify('ann', 'changed'), false)
})

test('a file that breaks while the registry runs changes nothing', async () => {
  await using folder = await temporaryFolder()
  const path = join(folder.path, 'htpasswd')
  await setUser(path, 'ann', 'secret')
  const file = await HtpasswdFile.open(path, logger)
  await writeFile(path, 'ann:plain text')
  assert.equal(await file.verify('ann', 'secret'), true)
  await assert.rejects(HtpasswdFile.open(path, logger), InvalidAccountError)
})

test('an account that was removed is gone, though the file could not be opened once', async (t) => {
  await using folder = await temporaryFolder()
  const path = join(folder.path, 'htpasswd')
  for (const user of ['ann', 'bob']) await setUser(path, user, 'secret')
  const file = await HtpasswdFile.open(path, logger)
  await removeUser(path, 'ann')
  const unreadable = t.mock.method(files, 'readFile', () => Promise.reject(new Error('EMFILE: too many open files')))
  syncBuiltinESMExports()
  const whileUnreadable = await file.users()
  unreadable.mock.restore()
  syncBuiltinESMExports()
  assert.deepEqual(whileUnreadable, ['ann', 'bob'])
  assert.deepEqual(await file.users(), ['bob'])
})

test('what is wrong with the file is told once, not for each request', async () => {
  await using folder = await temporaryFolder()
  const path = join(folder.path, 'htpasswd')
  await setUser(path, 'ann', 'secret')
  const lines: string[] = []
  const file = await HtpasswdFile.open(path, pino({ level: 'error' }, { write: (line: string) => lines.push(line) }))
  await writeFile(path, 'ann:plain text')
  for (let asked = 0; asked < 3; asked++) assert.deepEqual(await file.users(), ['ann'])
  assert.equal(lines.length, 1)
  await writeFile(path, '')
  assert.deepEqual(await file.users(), [])
})

test('reads what htpasswd -B writes, and nothing weaker', () => {
  const hash = '$2y$05$CCGuPn4vWWQ0pRWpCGUF9.2KYMmpQvHCPSWm5cdgXkRX2Rts/6Xui'
  assert.deepEqual(
    parseHtpasswd(`# people\n\nann:${hash}\r\nb.o_b@x:${hash}\n`),
    new Map([
      ['ann', hash],
      ['b.o_b@x', hash],
    ]),
  )
  for (const line of [
    'ann:{SHA}xyz',
    'ann:$apr1$x$y',
    `:${hash}`,
    `*:${hash}`,
    `anonymous:${hash}`,
    'ann',
    `a b:${hash}`,
  ]) {
    assert.throws(() => parseHtpasswd(line), InvalidAccountError, line)
  }
})

test('names and passwords that cannot work are refused', async () => {
  await using folder = await temporaryFolder()
  const path = join(folder.path, 'htpasswd')
  await assert.rejects(setUser(path, 'a:b', 'x'), InvalidAccountError)
  await assert.rejects(setUser(path, 'anonymous', 'x'), InvalidAccountError)
  await assert.rejects(setUser(path, 'ann', ''), InvalidAccountError)
  await assert.rejects(setUser(path, 'ann', 'x'.repeat(73)), InvalidAccountError)
})

test('who guesses has to wait, longer each time, and only for that name at that address', () => {
  const limit = new LoginLimit()
  for (let failure = 0; failure < 9; failure++) limit.failed('1', 'ann', 0)
  assert.equal(limit.userWaitMs('1', 'ann', 0), 0)
  limit.failed('1', 'ann', 0)
  assert.equal(limit.userWaitMs('1', 'ann', 0), 2_000)
  limit.failed('1', 'ann', 2_000)
  assert.equal(limit.userWaitMs('1', 'ann', 2_000), 4_000)
  for (let failure = 0; failure < 20; failure++) limit.failed('1', 'ann', 2_000)
  assert.equal(limit.userWaitMs('1', 'ann', 2_000), 60_000)
  for (const [address, user] of [
    ['2', 'ann'],
    ['1', 'bob'],
  ] as const) {
    assert.equal(limit.userWaitMs(address, user, 2_000), 0)
  }
  limit.succeeded('1', 'bob')
  assert.equal(limit.userWaitMs('1', 'ann', 2_000), 60_000)
  limit.succeeded('1', 'ann')
  assert.equal(limit.userWaitMs('1', 'ann', 2_000), 0)
})

test('who guesses at many names has to wait at that address, whoever logs in between', () => {
  const limit = new LoginLimit()
  for (let failure = 0; failure < 99; failure++) limit.failed('1', `user-${failure}`, 0)
  assert.equal(limit.addressWaitMs('1', 0), 0)
  limit.succeeded('1', 'mallory')
  limit.failed('1', 'ann', 0)
  assert.equal(limit.addressWaitMs('1', 0), 2_000)
  assert.equal(limit.addressWaitMs('2', 0), 0)
})
