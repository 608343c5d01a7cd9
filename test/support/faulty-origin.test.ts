// The origin that misbehaves does so as told, and behaves otherwise.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { pull } from '../lab/pull-client.ts'
import { Daemon } from './daemon.ts'
import type { Fault, OriginCounters } from './faulty-origin.ts'
import { fetchAll } from './http.ts'
import { KiB, MiB, rawImage } from './images.ts'
import { freePorts } from './ports.ts'
import { pushImage } from './push.ts'
import { until } from './until.ts'

test('the faulty origin does wrong as told, to the requests and as often as told', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-faulty-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const [port, control] = await freePorts(2)
  const program = join(import.meta.dirname, 'faulty-origin.ts')
  const origin = new Daemon({
    name: 'faulty origin',
    command: [process.execPath, program, '--port', String(port), '--control', String(control)],
    logFile: join(folder, 'log'),
  })
  t.after(() => origin.stop())
  const base = `http://127.0.0.1:${port}`
  await until(() => fetchAll(`${base}/v2/`), { what: 'answer of the origin' })
  const misbehave = (fault: Fault | null) =>
    fetchAll(`http://127.0.0.1:${control}/faults`, { method: 'PUT', body: [Buffer.from(JSON.stringify(fault))] })
  const counters = async () =>
    JSON.parse((await fetchAll(`http://127.0.0.1:${control}/counters`)).body.toString()) as OriginCounters

  const image = rawImage('faulty', [2 * MiB, 5 * KiB])
  await pushImage(base, 'some/app', 'v1', image)
  const layer = image.blobs[1]
  assert.ok(layer)
  const blobUrl = `${base}/v2/some/app/blobs/${layer.digest}`
  const whole = () => pull({ endpoint: base, repository: 'some/app', reference: 'v1', idleLimitMs: 2000 })
  const blob = (headers = {}) => fetchAll(blobUrl, { headers, idleLimitMs: 500 })

  assert.ok((await whole()).blobs.every(({ verified }) => verified))
  assert.equal((await counters()).contentBytesSent, image.totalBytes)
  const part = await blob({ range: 'bytes=100-199' })
  assert.equal(part.status, 206)
  assert.equal(part.headers['content-range'], `bytes 100-199/${layer.sizeBytes}`)
  const bytes = Buffer.concat([...layer.bytes()])
  assert.deepEqual(part.body, bytes.subarray(100, 200))
  assert.equal((await blob({ range: `bytes=${layer.sizeBytes}-` })).status, 416)

  await misbehave({ kind: 'hang', path: '/blobs/', count: 1 })
  await assert.rejects(blob(), /silent for 500 ms/)
  assert.equal((await blob()).status, 200, 'the fault does not wear off')

  await misbehave({ kind: 'status', status: 429, retryAfter: 7 })
  const limited = await blob()
  assert.equal(limited.status, 429)
  assert.equal(limited.headers['retry-after'], '7')
  assert.equal((await fetchAll(`${base}/v2/some/app/manifests/v1`)).status, 429)

  await misbehave({ kind: 'cut', path: layer.digest })
  await assert.rejects(blob(), /aborted/)
  assert.equal((await fetchAll(`${base}/v2/some/app/manifests/v1`)).status, 200, 'another path is hit')
  await misbehave({ kind: 'reset' })
  await assert.rejects(blob(), /aborted|ECONNRESET/)
  await misbehave({ kind: 'stall' })
  await assert.rejects(blob(), /silent|aborted/)

  await misbehave({ kind: 'wrong-bytes', path: layer.digest })
  const wrong = (await blob()).body
  assert.equal(wrong.length, bytes.length)
  assert.equal(wrong.filter((byte, i) => byte !== bytes[i]).length, 1)
  await misbehave({ kind: 'wrong-length' })
  assert.equal((await blob()).body.length, bytes.length - 1)
  await misbehave({ kind: 'ignore-range' })
  const all = await blob({ range: 'bytes=100-199' })
  assert.deepEqual([all.status, all.body.length], [200, bytes.length])
  await misbehave({ kind: 'slow', bytesPerSecond: 8 * MiB })
  assert.deepEqual((await blob()).body, bytes)
  await misbehave(null)
  assert.ok((await whole()).blobs.every(({ verified }) => verified))
})
