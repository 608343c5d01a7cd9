import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import test, { type TestContext } from 'node:test'
import { digestOf } from '@shoal/oci'
import { StoreFullError, type ReadOptions } from '@shoal/store'
import { createUpstream } from '@shoal/upstream'
import { orPassThrough, passThrough, type PassThroughBlob } from './pass-through.ts'
import { startRegistry } from './testing/registry.ts'

const MIB = 1024 * 1024

async function setUp(t: TestContext, sizeBytes: number) {
  const registry = await startRegistry(t)
  const upstream = createUpstream({ proxy: false })
  t.after(() => upstream.close())
  const digest = registry.addBlob(sizeBytes)
  const bytes = registry.blobs.get(digest)!
  const target = { registry: registry.host, repository: 'team/app' }
  const blob: PassThroughBlob = { upstream, target, digest, sizeBytes, requester: {} }
  return { registry, bytes, blob }
}

async function collect(stream: Readable): Promise<Buffer> {
  const pieces: Buffer[] = []
  for await (const piece of stream) pieces.push(piece as Buffer)
  return Buffer.concat(pieces)
}

/** How much of a stream that fails came before. */
async function untilFailure(stream: Readable): Promise<{ bytes: number; error: Error }> {
  let bytes = 0
  try {
    for await (const piece of stream) bytes += (piece as Buffer).length
  } catch (error) {
    return { bytes, error: error as Error }
  }
  throw new Error('the stream did not fail')
}

/** What a store gives that fails after some bytes. */
function failingAfter(bytes: Buffer, error: Error): (options: ReadOptions) => Readable {
  return () =>
    Readable.from(
      (function* () {
        for (let from = 0; from < bytes.length; from += 10_000) yield bytes.subarray(from, from + 10_000)
        throw error
      })(),
      { objectMode: false },
    )
}

const full = new StoreFullError('disk', 'no room')

for (const size of [1, 1000, 64 * 1024, 3 * MIB + 7]) {
  test(`a blob of ${size} bytes goes through as it is`, async (t) => {
    const { bytes, blob } = await setUp(t, size)
    assert.deepEqual(await collect(passThrough(blob, {})), bytes)
  })

  test(`of ${size} wrong bytes the end never comes`, async (t) => {
    const { registry, bytes, blob } = await setUp(t, size)
    const wrong = Buffer.from(bytes)
    wrong[0]! ^= 1
    registry.blobs.set(blob.digest, wrong)
    const { bytes: sent, error } = await untilFailure(passThrough(blob, {}))
    assert.ok(sent < size)
    assert.match(error.message, /do not match/)
  })
}

test('a part is fetched as a part', async (t) => {
  const { registry, bytes, blob } = await setUp(t, MIB)
  const part = await collect(passThrough(blob, { start: 1000, end: 1999 }))
  assert.deepEqual(part, bytes.subarray(1000, 2000))
  assert.equal(registry.blobBytes, 1000)
})

test('a client that leaves stops the work', async (t) => {
  const { registry, blob } = await setUp(t, 8 * MIB)
  const stream = passThrough(blob, {})
  for await (const _piece of stream) break
  assert.ok(stream.destroyed)
  assert.ok(registry.blobBytes < 8 * MIB)
})

test('while the store works, its stream is what the client gets', async (t) => {
  const { registry, bytes, blob } = await setUp(t, MIB)
  const open = () => Readable.from([bytes], { objectMode: false })
  const never = () => assert.fail('the store has not failed')
  assert.deepEqual(await collect(orPassThrough(blob, open, {}, never)), bytes)
  assert.equal(registry.asked.length, 0)
})

for (const sent of [0, 1, 65_536, 1_000_000]) {
  test(`the store fails after ${sent} bytes: the rest comes from the origin`, async (t) => {
    const { bytes, blob } = await setUp(t, MIB)
    const failures: Error[] = []
    const stream = orPassThrough(blob, failingAfter(bytes.subarray(0, sent), full), {}, (error) => failures.push(error))
    assert.deepEqual(await collect(stream), bytes)
    assert.deepEqual(failures, [full])
  })
}

test('the store fails in the middle of a part', async (t) => {
  const { bytes, blob } = await setUp(t, MIB)
  const part = { start: 500_000, end: 899_999 }
  const stream = orPassThrough(blob, failingAfter(bytes.subarray(500_000, 600_000), full), part, () => undefined)
  assert.deepEqual(await collect(stream), bytes.subarray(500_000, 900_000))
})

test('any other failure is the end', async (t) => {
  const { registry, bytes, blob } = await setUp(t, MIB)
  const stream = orPassThrough(blob, failingAfter(bytes.subarray(0, 5), new Error('liar')), {}, () => undefined)
  assert.match((await untilFailure(stream)).error.message, /liar/)
  assert.equal(registry.asked.length, 0)
})

test('the digest is checked though the client has a part already', async (t) => {
  const { registry, bytes, blob } = await setUp(t, MIB)
  const wrong = Buffer.from(bytes)
  wrong[MIB - 1]! ^= 1
  registry.blobs.set(blob.digest, wrong)
  assert.notEqual(digestOf(wrong), blob.digest)
  const stream = orPassThrough(blob, failingAfter(bytes.subarray(0, 1000), full), {}, () => undefined)
  const { bytes: sent, error } = await untilFailure(stream)
  assert.ok(sent < MIB)
  assert.match(error.message, /do not match/)
})

test('a client that leaves lets go of the store', async (t) => {
  const { bytes, blob } = await setUp(t, MIB)
  const source = new Readable({ read() {} })
  source.push(bytes.subarray(0, 10))
  const stream = orPassThrough(
    blob,
    () => source,
    {},
    () => undefined,
  )
  for await (const _piece of stream) break
  while (!source.destroyed) await new Promise((resolve) => setImmediate(resolve))
})
