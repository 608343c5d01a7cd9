import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { open, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'node:test'
import { digestOf } from '@shoal/oci'
import { pino } from 'pino'
import { cleanUp, temporaryFolder } from './store-fixture.ts'
import { HASHES, PARTIAL_HASHES, put, StoreIndex } from './store-index.ts'

/** LevelDB notices damage in compressed blocks only. */
const compressible = () => Buffer.concat([randomBytes(1500), Buffer.alloc(1500)])

const silent = pino({ level: 'silent' })

test('damage that shows only when tables are merged stops no write, and costs only the rows that it hit', async (t) => {
  const location = join(await temporaryFolder(t), 'index')
  const key = (name: string, row: number) => digestOf(`${name} ${row}`)
  const rows = (name: string) => Array.from({ length: 400 }, (_, row) => put(HASHES, key(name, row), compressible()))

  const first = await StoreIndex.open(location, silent)
  await first.write(rows('old'), true)
  await first.close()
  // The log becomes a table when it is opened again.
  await (await StoreIndex.open(location, silent)).close()
  const tables = (await readdir(location)).filter((name) => /\.(ldb|sst)$/.test(name))
  assert.ok(tables.length > 0)
  for (const name of tables) {
    const path = join(location, name)
    const file = await open(path, 'r+')
    await file.write(Buffer.alloc(64, 0xa5), 0, 64, Math.floor((await stat(path)).size / 2))
    await file.close()
  }

  // Each life leaves a table, and LevelDB merges four of them.
  for (let life = 0; life < 8; life++) {
    const index = await StoreIndex.open(location, silent)
    await index.write(rows(`life ${life}`), true)
    await index.write([put(PARTIAL_HASHES, `row ${life}`, Buffer.from('here'))], true)
    await index.close()
  }
  const index = await StoreIndex.open(location, silent)
  // LevelDB goes on merging, and makes files in its folder, until it is closed.
  cleanUp(t, () => index.close())
  for (let round = 0; round < 20; round++) await index.write(rows(`round ${round}`), true)
  for (let life = 0; life < 8; life++) {
    assert.equal((await index.get(PARTIAL_HASHES, `row ${life}`))?.byteLength, 4)
    assert.equal((await index.get(HASHES, key(`life ${life}`, 399)))?.byteLength, 3000)
  }
  let left = 0
  for (let row = 0; row < 400; row++) if ((await index.get(HASHES, key('old', row))) !== undefined) left++
  assert.ok(left > 300, `only ${left} of the old rows are left`)
})
