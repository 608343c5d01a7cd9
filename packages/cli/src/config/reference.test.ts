import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { it } from 'node:test'
import { daemonSchemas, type DaemonName } from '../daemon/modules.ts'
import { loadConfig } from './load.ts'
import { exampleConfigs } from './reference.ts'
import { REFERENCE_FILE, currentReference } from './render-config-docs.ts'

it('docs/configuration.md is what the schemas say', async () => {
  const advice = 'run: node packages/cli/src/config/render-config-docs.ts'
  assert.equal(await readFile(REFERENCE_FILE, 'utf8'), await currentReference(), advice)
})

it('the examples in it are right', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'shoal-examples-'))
  t.after(() => rm(directory, { recursive: true }))
  const schemas = await daemonSchemas()
  for (const [name, text] of Object.entries(exampleConfigs())) {
    const file = join(directory, `${name}.yaml`)
    await writeFile(file, text)
    await loadConfig({ schema: schemas[name as DaemonName], file, environment: {} })
  }
  assert.deepEqual(Object.keys(exampleConfigs()), Object.keys(schemas))
})
