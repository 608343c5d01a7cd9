// `shoal registry user` as a process of its own: what it writes, what it says, and that a password is never shown.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { parseHtpasswd } from '@shoal/origin/accounts'

const COMMAND = fileURLToPath(new URL('../../../bin/shoal.ts', import.meta.url))

let directory = ''
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'shoal-user-'))
})
after(() => rm(directory, { recursive: true }))

function shoal(args: string[], input = ''): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [COMMAND, 'registry', ...args], (error, out, err) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : error ? -1 : 0, out, err })
    })
    child.stdin?.on('error', () => undefined)
    child.stdin?.end(input)
  })
}

describe('shoal registry user', () => {
  it('adds, changes, lists and removes accounts of the file that the configuration names', async () => {
    const config = join(directory, 'registry.yaml')
    await writeFile(config, 'htpasswdFile: htpasswd\n')
    const file = join(directory, 'htpasswd')
    const user = (args: string[], input?: string) => shoal(['user', ...args, '--config', config], input)

    const added = await user(['add', 'ann', '--password-stdin'], 'hunter2\n')
    assert.equal(added.code, 0, added.err)
    assert.match(added.err, /ann can log in now/)
    assert.equal((await stat(file)).mode & 0o777, 0o600)
    const hash = parseHtpasswd(await readFile(file, 'utf8')).get('ann')
    assert.match(hash ?? '', /^\$2b\$10\$/)

    assert.equal((await user(['add', 'bob', '--password-stdin'], 'other')).code, 0)
    const changed = await user(['add', 'ann', '--password-stdin'], 'hunter3\n')
    assert.match(changed.err, /ann has a new password/)
    assert.notEqual(parseHtpasswd(await readFile(file, 'utf8')).get('ann'), hash)
    assert.deepEqual(await user(['list']), { code: 0, out: 'ann\nbob\n', err: '' })

    assert.equal((await user(['remove', 'ann'])).code, 0)
    const again = await user(['remove', 'ann'])
    assert.equal(again.code, 1)
    assert.match(again.err, /has no account "ann"/)
    assert.equal((await user(['list'])).out, 'bob\n')
    for (const text of [added, changed].flatMap(({ out, err }) => [out, err])) assert.doesNotMatch(text, /hunter/)
  })

  it('keeps who may read the file, and writes through a symbolic link', async () => {
    const file = join(directory, 'shared')
    const link = join(directory, 'link')
    await writeFile(file, '', { mode: 0o640 })
    await symlink(file, link)
    const { code } = await shoal(['user', 'add', 'ann', '--password-stdin', '--htpasswd-file', link], 'secret\n')
    assert.equal(code, 0)
    assert.equal((await stat(file)).mode & 0o777, 0o640)
    assert.equal(parseHtpasswd(await readFile(file, 'utf8')).size, 1)
  })

  it('loses no account when several processes add and remove at once', async () => {
    const file = join(directory, 'crowded')
    const names = ['ann', 'bob', 'cid', 'dan', 'eve']
    const hash = '$2y$05$CCGuPn4vWWQ0pRWpCGUF9.2KYMmpQvHCPSWm5cdgXkRX2Rts/6Xui'
    await writeFile(file, ['old', 'older'].map((name) => `${name}:${hash}\n`).join(''), { mode: 0o640 })
    const ended = await Promise.all([
      ...names.map((name) => shoal(['user', 'add', name, '--password-stdin', '--htpasswd-file', file], 'secret\n')),
      shoal(['user', 'remove', 'old', '--htpasswd-file', file]),
    ])
    for (const { code, err } of ended) assert.equal(code, 0, err)
    assert.deepEqual([...parseHtpasswd(await readFile(file, 'utf8')).keys()].sort(), [...names, 'older'])
    assert.equal((await stat(file)).mode & 0o777, 0o640)
    assert.deepEqual(
      (await readdir(directory)).filter((name) => name.startsWith('crowded')),
      ['crowded'],
    )
  })

  const file = ['--htpasswd-file', '/nonexistent/htpasswd']
  const misused: [string, string[], string, RegExp][] = [
    ['no file of accounts', ['list'], '', /--htpasswd-file/],
    ['no terminal to ask at', ['add', 'ann', ...file], '', /give it with --password-stdin/],
    ['no user name', ['add', 'a:b', '--password-stdin', ...file], 'x\n', /"a:b" is no user name/],
    ['no password', ['add', 'ann', '--password-stdin', ...file], '\n', /1 to 72 bytes/],
    ['two lines', ['add', 'ann', '--password-stdin', ...file], 'a\nb\n', /one line/],
    ['an unknown word', ['ad', 'ann'], '', /unknown command 'ad'/],
  ]
  for (const [name, args, input, message] of misused) {
    it(`ends with 2 for ${name}`, async () => {
      const { code, out, err } = await shoal(['user', ...args], input)
      assert.deepEqual({ code, out }, { code: 2, out: '' })
      assert.match(err, message)
    })
  }

  it('tells a file that is not there from one without accounts', async () => {
    const { code, out, err } = await shoal(['user', 'list', '--htpasswd-file', '/nonexistent/htpasswd'])
    assert.deepEqual([code, out], [1, ''])
    assert.match(err, /\/nonexistent\/htpasswd does not exist/)
    const empty = join(directory, 'empty')
    await writeFile(empty, '')
    assert.deepEqual(await shoal(['user', 'list', '--htpasswd-file', empty]), { code: 0, out: '', err: '' })
  })

  it('ends with 1 where it cannot write', async () => {
    const { code, err } = await shoal(['user', 'add', 'ann', '--password-stdin', ...file], 'secret\n')
    assert.equal(code, 1)
    assert.match(err, /\/nonexistent\/htpasswd/)
    assert.doesNotMatch(err, /\n {4}at /)
  })

  it('is shown by the help of the daemon, which keeps its own form', async () => {
    const { code, out } = await shoal(['--help'])
    assert.equal(code, 0)
    assert.match(out, /--htpasswd-file <path>/)
    assert.match(out, /^ {2}user: accounts of the registry$/m)
    const config = join(directory, 'plain.yaml')
    await writeFile(config, 'accessRules: []\n')
    const check = await shoal(['--config', config, '--check'])
    assert.equal(check.code, 2)
    assert.match(check.err, /plain\.yaml:1:1: accessRules needs htpasswdFile beside it/)
  })
})
