import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import test, { type TestContext } from 'node:test'
import type { ChunkAnswer } from '@shoal/network'
import { digestOf, type Digest } from '@shoal/oci'
import { openStore, type Store } from '@shoal/store'
import { Registry } from 'prom-client'
import { createSwarmMetrics } from './metrics.ts'
import { DEFAULT_PARAMETERS } from './policy/index.ts'
import { RateLimits } from './rate-limits.ts'
import { temporaryFolder } from './testing/cluster.ts'
import { Uploads } from './uploads.ts'

const CHUNK = 256 * 1024

async function setUp(t: TestContext, more: Partial<typeof DEFAULT_PARAMETERS> = {}, uploadRate = 0) {
  // Registered first, so that it runs before the folder goes.
  let store: Store | undefined = undefined as Store | undefined
  let uploads: Uploads | undefined = undefined as Uploads | undefined
  t.after(async () => {
    uploads?.close()
    await store?.close()
  })
  store = await openStore({ directory: await temporaryFolder(t), hashing: 'inline', quotaBytes: 4 * CHUNK })
  const parameters = { ...DEFAULT_PARAMETERS, uploadSlots: 4, ...more }
  const metrics = createSwarmMetrics(new Registry())
  const limits = new RateLimits({ uploadRate, downloadRate: 0, originRate: 0 })
  uploads = new Uploads({ store, parameters, metrics, limits })
  const ask = (digest: Digest, index: number, peerId = 'peer') =>
    uploads.handle({ digest, index, peerId, requestId: 'test' })
  return { store, uploads, ask }
}

async function stored(store: Store, size = 2 * CHUNK + 100) {
  const bytes = randomBytes(size)
  const digest = digestOf(bytes)
  await store.put(digest, bytes)
  return { bytes, digest }
}

type Ok = Extract<ChunkAnswer, { status: 'ok' }>

function ok(answer: ChunkAnswer): Ok {
  if (answer.status !== 'ok') throw new Error(`the answer is ${answer.status}`)
  return answer
}

async function bytesOf(answer: Ok): Promise<Buffer> {
  const into = Buffer.alloc(answer.lengthBytes)
  await answer.read(0, into.subarray(0, 10))
  await answer.read(10, into.subarray(10))
  return into
}

test('chunks of a whole blob are served, the last one with its length', async (t) => {
  const { store, ask } = await setUp(t)
  const { bytes, digest } = await stored(store)
  for (const [index, length] of [CHUNK, CHUNK, 100].entries()) {
    const answer = ok(await ask(digest, index))
    assert.equal(answer.lengthBytes, length)
    assert.deepEqual(await bytesOf(answer), bytes.subarray(index * CHUNK, index * CHUNK + length))
    answer.done(length)
  }
})

test('what is not here is missing: blobs, chunks past the end, chunks that have not come', async (t) => {
  const { store, ask } = await setUp(t)
  const { digest } = await stored(store)
  const bytes = randomBytes(2 * CHUNK)
  const arriving = digestOf(bytes)
  const partial = await store.openPartial(arriving, bytes.length)
  await partial.writeChunk(1, bytes.subarray(CHUNK))
  for (const [of, index] of [
    [digestOf('nothing'), 0],
    [digest, 3],
    [digest, 0xffffffff],
    [arriving, 0],
    [arriving, 7],
  ] as const) {
    assert.deepEqual(await ask(of, index), { status: 'missing' })
  }
  const answer = ok(await ask(arriving, 1))
  assert.deepEqual(await bytesOf(answer), bytes.subarray(CHUNK))
  answer.done(0)
})

test('a chunk goes on being served when its blob becomes whole meanwhile', async (t) => {
  const { store, ask } = await setUp(t)
  const bytes = randomBytes(CHUNK + 5)
  const digest = digestOf(bytes)
  const partial = await store.openPartial(digest, bytes.length)
  await partial.writeChunk(0, bytes.subarray(0, CHUNK))
  const answer = ok(await ask(digest, 0))
  await partial.writeChunk(1, bytes.subarray(CHUNK))
  await partial.complete()
  await partial.close()
  assert.deepEqual(await bytesOf(answer), bytes.subarray(0, CHUNK))
  answer.done(CHUNK)
})

test('slots are bounded, for one peer and for all, and free again when an answer is over', async (t) => {
  const { store, uploads, ask } = await setUp(t)
  const { digest } = await stored(store)
  const first = [ok(await ask(digest, 0, 'a')), ok(await ask(digest, 1, 'a'))]
  assert.equal((await ask(digest, 0, 'a')).status, 'busy', 'half of the slots are for others')
  const others = [ok(await ask(digest, 0, 'b')), ok(await ask(digest, 1, 'b'))]
  const refused = await ask(digest, 0, 'c')
  assert.ok(refused.status === 'busy' && refused.retryAfterMs > 0)
  assert.equal(uploads.freeSlots, 0)
  for (const answer of [...first, ...others]) {
    answer.done(0)
    answer.done(0)
  }
  assert.equal(uploads.freeSlots, 4, 'a slot is given back once')
  ok(await ask(digest, 0, 'c')).done(0)
})

test('requests that come at once do not find the same slot free', async (t) => {
  const { store, uploads, ask } = await setUp(t)
  const { digest } = await stored(store)
  const answers = await Promise.all(Array.from({ length: 20 }, async (_, at) => await ask(digest, 0, `peer${at}`)))
  assert.equal(answers.filter(({ status }) => status === 'ok').length, 4)
  for (const answer of answers) if (answer.status === 'ok') answer.done(0)
  assert.equal(uploads.freeSlots, 4)
})

test('a blob that cannot be opened costs neither a slot nor the next request', async (t) => {
  const { store, uploads, ask } = await setUp(t)
  const { bytes, digest } = await stored(store)
  const open = store.open.bind(store)
  store.open = () => Promise.reject(new Error('input/output error'))
  await assert.rejects(async () => await ask(digest, 0), /input\/output error/)
  store.open = async () => undefined
  assert.deepEqual(await ask(digest, 0), { status: 'missing' })
  store.open = open
  assert.equal(uploads.freeSlots, 4)
  const answer = ok(await ask(digest, 0))
  assert.deepEqual(await bytesOf(answer), bytes.subarray(0, CHUNK))
  answer.done(0)
})

test('what was served can be evicted once nothing is open any more', async (t) => {
  const { store, uploads, ask } = await setUp(t)
  const { digest } = await stored(store)
  const answer = ok(await ask(digest, 0))
  uploads.close()
  assert.equal(await store.delete(digest), false, 'it is being sent')
  answer.done(0)
  while (!(await store.delete(digest))) await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(await ask(digest, 0), { status: 'missing' })
})

test('by its rate a node is busy until what it sends is paid for, and what was not sent is given back', async (t) => {
  // A chunk takes more than four minutes.
  const { store, uploads, ask } = await setUp(t, {}, 1000)
  const { bytes, digest } = await stored(store)
  const first = ok(await ask(digest, 0))
  const other = await ask(digest, 1, 'other')
  assert.ok(other.status === 'busy' && other.retryAfterMs > 60_000 && other.retryAfterMs < 300_000, other.status)
  assert.equal(uploads.freeSlots, 3, 'it has taken no slot')
  assert.deepEqual(await bytesOf(first), bytes.subarray(0, CHUNK))
  // It was cancelled.
  first.done(0)
  const second = ok(await ask(digest, 1, 'other'))
  second.done(CHUNK)
  assert.equal((await ask(digest, 0)).status, 'busy')
})
