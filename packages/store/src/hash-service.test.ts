import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { pino } from 'pino'
import { digestOf } from '@shoal/oci'
import { BlobFile } from './blob-file.ts'
import { ThreadHashService } from './hash-service.ts'
import { temporaryFolder } from './store-fixture.ts'

const IDLE_MS = 1_000

async function serviceAndJob(t: TestContext) {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const path = join(await temporaryFolder(t), 'file')
  await writeFile(path, 'shoal')
  const file = await BlobFile.open(path, 'r')
  const service = new ThreadHashService(pino({ level: 'silent' }), { idleMs: IDLE_MS })
  t.after(async () => {
    await service.close()
    await file.release()
  })
  return { service, job: { kind: 'range' as const, descriptor: file.descriptor, position: 0, length: 5, chunk: true } }
}

test('the hash thread is there while there is something to hash', async (t) => {
  const { service, job } = await serviceAndJob(t)
  assert.equal(service.running, false)
  for (let pull = 0; pull < 2; pull++) {
    const { hash } = await service.run(job)
    assert.equal(Buffer.from(hash!).toString('hex'), digestOf('shoal').slice(7))
    t.mock.timers.tick(IDLE_MS - 1)
    assert.equal(service.running, true)
    t.mock.timers.tick(1)
    assert.equal(service.running, false)
  }
})

test('a job keeps the hash thread for its time anew', async (t) => {
  const { service, job } = await serviceAndJob(t)
  await service.run(job)
  t.mock.timers.tick(IDLE_MS - 1)
  await service.run(job)
  t.mock.timers.tick(IDLE_MS - 1)
  assert.equal(service.running, true)
})

test('the hash thread stays while it has the hash of a blob that is not finished', async (t) => {
  const { service, job } = await serviceAndJob(t)
  const whole = { id: -1, algorithm: 'sha256' as const }
  await service.run({ ...job, whole })
  t.mock.timers.tick(10 * IDLE_MS)
  const { hash, wholeBytes } = await service.run({ kind: 'digest', whole })
  assert.equal(wholeBytes, 5)
  assert.equal(Buffer.from(hash!).toString('hex'), digestOf('shoal').slice(7))
  t.mock.timers.tick(10 * IDLE_MS)
  assert.equal(service.running, true)
  await service.run({ kind: 'drop', whole })
  t.mock.timers.tick(IDLE_MS)
  assert.equal(service.running, false)
})

test('what is not in a hash thread is forgotten without starting one', async (t) => {
  const { service } = await serviceAndJob(t)
  await service.run({ kind: 'drop', whole: { id: -1, algorithm: 'sha256' } })
  assert.equal(service.running, false)
})
