import assert from 'node:assert/strict'
import test from 'node:test'
import { readAll, startNode, startNodes } from './testing/cluster.ts'
import { MemoryOrigin } from './testing/origin.ts'

const MIB = 1024 * 1024

test('a lone node takes a blob from the origin, each byte once', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(3 * MIB + 17)
  const node = await startNode(t)
  await node.fetch(origin, digest)
  assert.deepEqual(await node.bytes(digest), origin.content(digest))
  assert.equal(origin.sentBytes, origin.size(digest))
  assert.equal(await node.metric('shoal_chunk_bytes_received_total', { source: 'origin' }), origin.size(digest))
  assert.equal(await node.metric('shoal_downloads_active'), 0)
})

test('a stream that is asked of a download after its end is read from the store', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  const node = await startNode(t)
  const download = await node.fetch(origin, digest)
  assert.deepEqual(await readAll(download.createReadStream({ start: 5 })), origin.content(digest).subarray(5))
})

test('nodes that begin at once share what comes from the origin, without a tracker', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(4 * MIB)
  const nodes = await startNodes(t, 5)
  await Promise.all(nodes.map((node) => node.fetch(origin, digest)))
  for (const node of nodes) assert.deepEqual(await node.bytes(digest), origin.content(digest))
  assert.ok(
    origin.sentBytes <= 1.5 * origin.size(digest),
    `${origin.sentBytes / origin.size(digest)} copies left the origin`,
  )
  let fromPeers = 0
  for (const node of nodes) fromPeers += await node.metric('shoal_chunk_bytes_received_total', { source: 'peer' })
  assert.ok(fromPeers >= 3.5 * origin.size(digest))
})

test('a node that comes later needs no origin', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB + 1)
  const [first, second] = await startNodes(t, 2)
  await first!.fetch(origin, digest)
  origin.sentBytes = 0
  const download = await second!.fetch(origin, digest, false)
  assert.deepEqual(await second!.bytes(digest), origin.content(digest))
  assert.equal(origin.sentBytes, 0)
  assert.equal(download.fromPeersBytes, origin.size(digest))
  assert.equal(await first!.metric('shoal_chunk_bytes_sent_total'), origin.size(digest))
})

test('the empty blob needs nobody', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(Buffer.alloc(0))
  const node = await startNode(t)
  const download = await node.download(origin, digest, false)
  assert.equal((await readAll(download.createReadStream({}))).length, 0)
  await download.done
  assert.equal((await node.bytes(digest)).length, 0)
})
