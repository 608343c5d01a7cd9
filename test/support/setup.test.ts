// What scripts/setup.sh does to a fresh clone, with a stand-in for npm.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { chmod, copyFile, mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'

const SCRIPTS = join(import.meta.dirname, '../../scripts')

test('what is installed under the umask of a systemd unit can be read by the user of the daemon', async (t) => {
  const root = await mkdtemp(join(tmpdir(), 'shoal-setup-'))
  t.after(() => rm(root, { recursive: true, force: true }))
  for (const folder of ['scripts', 'bin']) await mkdir(join(root, folder))
  for (const script of ['setup.sh', 'dependencies-current.js']) {
    await copyFile(join(SCRIPTS, script), join(root, 'scripts', script))
  }
  await writeFile(join(root, 'package-lock.json'), '{}')
  const npm = join(root, 'bin/npm')
  await writeFile(npm, '#!/bin/sh\nmkdir node_modules && echo "{}" > node_modules/.package-lock.json\n')
  await chmod(npm, 0o755)
  const path = `${join(root, 'bin')}:${dirname(process.execPath)}:${process.env['PATH'] ?? ''}`
  const sourced = ['-c', 'umask 077; set -euo pipefail; . "$0"', join(root, 'scripts/setup.sh')]
  await promisify(execFile)('bash', sourced, { env: { ...process.env, PATH: path, SHOAL_NODE: process.execPath } })
  const modeOf = async (name: string) => (await stat(join(root, 'node_modules', name))).mode & 0o777
  assert.equal((await modeOf('.')).toString(8), '755')
  assert.equal((await modeOf('.package-lock.json')).toString(8), '644')
})
