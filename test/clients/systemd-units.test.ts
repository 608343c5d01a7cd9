// The units in deploy/systemd, read by systemd's own checker; and what they start, started as they say.
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { test } from 'node:test'
import { execute } from '../lab/node.ts'
import { requires } from '../support/requirements.ts'
import { writeSwarmKey } from '../support/shoal.ts'

const ROOT = resolve(import.meta.dirname, '../..')
const UNITS = join(ROOT, 'deploy/systemd')
/** Of systemd's scale from 0 to 10, on which a service without any restriction has 9.6. */
const MOST_EXPOSED = 2

/** The units with this checkout in the place of /opt/shoal, in a folder of their own. */
function unitsOfThisCheckout(folder: string): string[] {
  const names = readdirSync(UNITS).filter((name) => name.endsWith('.service'))
  return names.map((name) => {
    const file = join(folder, name)
    writeFileSync(file, readFileSync(join(UNITS, name), 'utf8').replaceAll('/opt/shoal', ROOT))
    return file
  })
}

function valuesOf(unit: string, key: string): string[] {
  const lines = readFileSync(unit, 'utf8').split('\n')
  return lines.filter((line) => line.startsWith(`${key}=`)).map((line) => line.slice(key.length + 1))
}

test('systemd finds nothing wrong with the units, and little that they expose', async (t) => {
  if (!requires(t, 'systemd-analyze')) return
  const folder = mkdtempSync(join(tmpdir(), 'shoal-units-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const units = unitsOfThisCheckout(folder)
  assert.deepEqual(
    units.map((unit) => basename(unit)),
    ['shoal-agent.service', 'shoal-registry.service', 'shoal-tracker.service'],
  )
  const { code, stdout, stderr } = await execute(['systemd-analyze', 'verify', '--man=no', ...units])
  assert.deepEqual([code, stdout, stderr.split('\n').filter((line) => line.includes('shoal-'))], [0, '', []])
  for (const unit of units) {
    const report = await execute(['systemd-analyze', 'security', '--offline=true', '--no-pager', unit])
    const level = Number(/exposure level[^:]*: ([\d.]+)/.exec(report.stdout)?.[1])
    assert.ok(level <= MOST_EXPOSED, `${basename(unit)}: ${level}\n${report.stderr}`)
  }
})

test('what a unit starts takes its configuration and the credentials of systemd', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-units-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const credentials = join(folder, 'credentials')
  mkdirSync(credentials)
  writeSwarmKey(join(credentials, 'swarm.key'))
  for (const unit of unitsOfThisCheckout(folder)) {
    const name = basename(unit, '.service').replace('shoal-', '')
    const config = join(folder, `${name}.yaml`)
    writeFileSync(config, 'logLevel: info\n')
    const env: NodeJS.ProcessEnv = { PATH: process.env['PATH'] }
    for (const assignment of valuesOf(unit, 'Environment')) {
      const [key = '', value = ''] = assignment.split('=')
      env[key] = value.replace('%d', credentials).replace('%C', folder)
    }
    const [command = ''] = valuesOf(unit, 'ExecStart')
    const words = command.replace(`/etc/shoal/${name}.yaml`, config).split(' ')
    const { code, stderr } = await execute([...words, '--check'], { env })
    assert.equal(code, 0, `${command}: ${stderr}`)
  }
})
