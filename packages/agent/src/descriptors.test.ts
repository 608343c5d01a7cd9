import assert from 'node:assert/strict'
import test from 'node:test'
import { digestOf } from '@shoal/oci'
import { UpstreamError } from '@shoal/upstream'
import { Descriptors, type AskOrigin } from './descriptors.ts'

const DIGEST = digestOf('content')
const down: AskOrigin = () => Promise.reject(new UpstreamError('UNREACHABLE', 'origin.test', 'it is down'))
const hanging: AskOrigin = () => new Promise(() => undefined)
const saying =
  (sizeBytes: number): AskOrigin =>
  () =>
    Promise.resolve({ sizeBytes, mediaType: 'm' })

/** What one connected agent says, and who is blamed for what. */
function setUp(sizeBytes: number) {
  const blamed: string[] = []
  const swarm = {
    connectedAgents: 1,
    askSize: () => Promise.resolve({ sizeBytes, mediaType: '', saidBy: 'liar' }),
    blame: (peerId: string, _digest: string, lie: string) => blamed.push(`${peerId} ${lie}`),
  }
  const descriptors = new Descriptors(swarm, 20)
  return { descriptors, blamed }
}

test('what a manifest says is certain, and nothing that others say replaces it', async () => {
  const { descriptors } = setUp(7)
  descriptors.hear(DIGEST, 5, 'm')
  assert.deepEqual((await descriptors.find(DIGEST, down)).sizeIsHearsay, true)
  descriptors.know(DIGEST, 6, 'm')
  descriptors.hear(DIGEST, 5, 'm')
  descriptors.doubt(DIGEST)
  const { sizeBytes, sizeIsHearsay } = await descriptors.find(DIGEST, down, true)
  assert.deepEqual([sizeBytes, sizeIsHearsay], [6, false])
})

test('that content is empty is taken from nobody, unless its digest says so', async () => {
  const { descriptors } = setUp(0)
  descriptors.know(DIGEST, 0, 'm')
  descriptors.hear(DIGEST, 0, 'm')
  assert.equal((await descriptors.find(DIGEST, saying(7))).sizeBytes, 7)
  for (const algorithm of ['sha256', 'sha512'] as const) {
    const nothing = digestOf('', algorithm)
    descriptors.know(nothing, 0, 'm')
    assert.equal((await descriptors.find(nothing, down)).sizeBytes, 0)
  }
})

test('where manifests differ the origin says who is right, and its word stays', async () => {
  const { descriptors } = setUp(7)
  descriptors.know(DIGEST, 6, 'm')
  descriptors.know(DIGEST, 5, 'm')
  // While it is down, there is nothing better.
  assert.equal((await descriptors.find(DIGEST, down)).sizeBytes, 5)
  assert.equal((await descriptors.find(DIGEST, saying(6))).sizeBytes, 6)
  descriptors.know(DIGEST, 5, 'm')
  assert.equal((await descriptors.find(DIGEST, down)).sizeBytes, 6)
})

test('another size that the origin named makes it be asked, the same one does not', async () => {
  const { descriptors } = setUp(7)
  descriptors.know(DIGEST, 5, 'm')
  descriptors.contest(DIGEST, 5)
  assert.equal((await descriptors.find(DIGEST, saying(6))).sizeBytes, 5)
  descriptors.contest(DIGEST, 6)
  assert.equal((await descriptors.find(DIGEST, saying(6))).sizeBytes, 6)
})

test('a size that the origin has refuted is forgotten, and not taken from a manifest again', async () => {
  const { descriptors, blamed } = setUp(7)
  descriptors.know(DIGEST, 5, 'm')
  descriptors.refute(DIGEST, 4)
  assert.equal((await descriptors.find(DIGEST, down)).sizeBytes, 5)
  descriptors.refute(DIGEST, 5)
  descriptors.know(DIGEST, 5, 'm')
  assert.equal((await descriptors.find(DIGEST, saying(6))).sizeBytes, 6)
  descriptors.prove(DIGEST, 6)
  assert.deepEqual(blamed, [])
})

test('after a size that was wrong the origin is asked first; who said it is blamed once the right one is proven', async () => {
  const { descriptors, blamed } = setUp(7)
  const tried = await descriptors.find(DIGEST, hanging)
  assert.equal(tried.sizeBytes, 7)
  assert.equal((await descriptors.correct(DIGEST, tried, saying(6)))?.sizeBytes, 6)
  assert.deepEqual(blamed, [])
  descriptors.prove(DIGEST, 6)
  descriptors.prove(DIGEST, 6)
  assert.deepEqual(blamed, ['liar wrong_size'])
})

test('where the origin says the same, or nothing, there is nothing to try again with, and nobody is blamed', async () => {
  for (const askOrigin of [saying(7), down]) {
    const { descriptors, blamed } = setUp(7)
    const tried = await descriptors.find(DIGEST, down)
    assert.equal(await descriptors.correct(DIGEST, tried, askOrigin), undefined)
    descriptors.prove(DIGEST, 7)
    assert.deepEqual(blamed, [])
  }
})

test('an origin that hangs keeps nobody from what others say', async () => {
  const { descriptors } = setUp(7)
  const { sizeBytes, sizeIsHearsay } = await descriptors.find(DIGEST, hanging, true)
  assert.deepEqual([sizeBytes, sizeIsHearsay], [7, true])
})
