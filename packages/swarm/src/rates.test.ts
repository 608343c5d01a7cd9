// Nodes that keep to a rate, and those that they give to or get from.
import assert from 'node:assert/strict'
import test from 'node:test'
import { ChunkMap } from '@shoal/store'
import { ChunkBoard } from './chunk-board.ts'
import { startNode, startNodes } from './testing/cluster.ts'
import { MemoryOrigin } from './testing/origin.ts'

const MIB = 1024 * 1024

test('a chunk that is here and waits for the download rate has not stalled, and does not come twice', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(1.25 * MIB)
  const seeds = await startNodes(t, 4)
  for (const seed of seeds) await seed.fetch(origin, digest)
  // After a burst, a chunk a second: of four that have come the last waits for three.
  const node = await startNode(t, { timings: { stallTimeoutMs: 1500 } })
  node.swarm.limits.set({ downloadRate: MIB / 4 })
  await node.meet(...seeds)
  const download = await node.fetch(origin, digest, false)
  assert.equal(download.fromPeersBytes, origin.size(digest))
  assert.equal(await node.metric('shoal_chunk_requests_failed_total', { reason: 'stalled' }), 0)
  assert.equal(await node.metric('shoal_peers_given_up_total'), 0)
})

test('a chunk that is here is not asked for a second time, however long it waits', () => {
  const board = new ChunkBoard(new ChunkMap(2))
  const request = board.begin(0, 'peer', 0, new AbortController())
  board.begin(1, 'peer', 0, new AbortController())
  request.isReceived = true
  board.markLate(60_000)
  assert.deepEqual([...board.late.indices()], [1])
})

test('a node that keeps to an upload rate is left by none of those that ask it', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  const seed = await startNode(t, { uploadRate: MIB / 2 })
  await seed.fetch(origin, digest)
  const askers = await startNodes(t, 6)
  for (const asker of askers) await asker.meet(seed)
  await Promise.all(askers.map((asker) => asker.fetch(origin, digest, false)))
  for (const asker of askers) assert.equal(await asker.metric('shoal_peers_given_up_total'), 0)
})
