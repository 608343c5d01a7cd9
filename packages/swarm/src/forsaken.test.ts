// A tracker that is there and answers, but gives this node nothing: whatever the reason, pulls end.
import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import type { ControlMessage } from '@shoal/network'
import { startNode, until, type TestNode } from './testing/cluster.ts'
import { MemoryOrigin } from './testing/origin.ts'

const MIB = 1024 * 1024

/** A tracker that says that there are others, and grants nobody a lease. Returns its address and what it is told. */
async function startMiser(t: TestContext) {
  const node = await startNode(t)
  const told: ControlMessage[] = []
  node.control.onChannel = (channel) => {
    channel.onMessage = (message) => {
      told.push(message)
      if (message.type !== 'tracker-join') return
      const { digest, sizeBytes } = message
      channel.send({ type: 'tracker-peers', digest, sizeBytes, members: 2, peers: [] })
    }
  }
  return { address: node.address.multiaddrs[0]!, told }
}

const isTracked = (node: TestNode) => node.swarm.trackers.status().every(({ connected }) => connected)

test('a node that gets neither bytes nor a lease asks the origin by itself', async (t) => {
  const { address } = await startMiser(t)
  const timings = { forsakenMs: 200, trackerSilenceMs: 60_000 }
  const node = await startNode(t, { trackers: [address], timings })
  await until(() => isTracked(node), 'the tracker is in charge')
  const origin = new MemoryOrigin()
  const digest = origin.add(12 * MIB)
  await node.fetch(origin, digest)
  assert.deepEqual(await node.bytes(digest), origin.content(digest))
  assert.equal(origin.sentBytes, origin.size(digest))
})

test('a starved node whose neighbourhood is full says that it is starved', async (t) => {
  const { address, told } = await startMiser(t)
  const parameters = { neighbours: 0, acceptedNeighbours: 0 }
  const node = await startNode(t, { trackers: [address], timings: { trackerSilenceMs: 60_000 }, parameters })
  await until(() => isTracked(node), 'the tracker is in charge')
  const origin = new MemoryOrigin()
  await node.download(origin, origin.add(MIB))
  await until(() => told.some(({ type }) => type === 'tracker-peers-wanted'), 'the tracker is told')
})

test('a node that waits for its own disk is not starved, though no peer owes it anything', async (t) => {
  const { address, told } = await startMiser(t)
  const [first, second] = [await startNode(t), await startNode(t, { trackers: [address] })]
  await until(() => isTracked(second), 'the tracker is in charge')
  await second.meet(first)
  const origin = new MemoryOrigin()
  const digest = origin.add(12 * MIB)
  await first.fetch(origin, digest)
  const download = await second.download(origin, digest, false)
  const written = Promise.withResolvers<void>()
  const keep = download.keeper.keepFromPeer.bind(download.keeper)
  let come = 0
  download.keeper.keepFromPeer = async (...chunk) => {
    come++
    await written.promise
    return keep(...chunk)
  }
  const { pipeline } = download.context.parameters
  await until(() => come === pipeline, 'all that may be under way has come')
  told.length = 0
  // It is told of each second, and whoever is starved says so at least as often.
  await until(
    () => told.filter(({ type }) => type === 'tracker-progress').length >= 3,
    'the tracker is told how far it is',
  )
  assert.deepEqual(
    told.filter(({ type }) => type === 'tracker-peers-wanted'),
    [],
  )
  written.resolve()
  await download.done
})
