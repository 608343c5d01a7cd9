// Peers that say busy: for ever, or because many ask them.
import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import type { ControlPlane, NodeAddress } from '@shoal/network'
import { digestOf, type Digest } from '@shoal/oci'
import { ChunkMap } from '@shoal/store'
import { ChunkBoard } from './chunk-board.ts'
import { Neighbour } from './neighbour.ts'
import { FakeChannel } from './testing/channels.ts'
import { meetAll, startNode, until } from './testing/cluster.ts'
import { MemoryOrigin } from './testing/origin.ts'
import { VoucherBook } from './voucher-book.ts'

const MIB = 1024 * 1024

for (const retryAfterMs of [10, 0xffff_ffff]) {
  test(`who has everything and only ever says busy, for ${retryAfterMs} ms, keeps nobody from the origin`, async (t) => {
    const origin = new MemoryOrigin()
    const digest = origin.add(2 * MIB)
    let asked = 0
    const handler = () => () => {
      asked++
      return { status: 'busy', retryAfterMs } as const
    }
    const liar = await startNode(t, { handler })
    await liar.fetch(origin, digest)
    const node = await startNode(t)
    await meetAll([liar, node])
    const download = await node.fetch(origin, digest)
    assert.ok(asked >= 2, 'it is asked again, however long it wants to be left alone')
    assert.equal(download.fromOriginBytes, origin.size(digest))
  })
}

test('without an origin who says busy is asked on, and gives in the end', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  let isBusy = true
  const seed = await startNode(t, {
    handler: (honest) => (request) => (isBusy ? { status: 'busy', retryAfterMs: 10 } : honest(request)),
  })
  await seed.fetch(origin, digest)
  const node = await startNode(t)
  await meetAll([seed, node])
  const download = await node.download(origin, digest, false)
  await until(() => download.neighbourhood.all()[0]?.isPutOff === true, 'it is not counted on any more')
  isBusy = false
  await download.done
  assert.equal(download.fromPeersBytes, origin.size(digest))
})

test('the tracker is told of who only ever says busy', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  const liar = await startNode(t, { handler: () => () => ({ status: 'busy', retryAfterMs: 10 }) })
  await liar.fetch(origin, digest)
  const { tracker, download } = await reportOf(t, liar.address, origin, digest)
  assert.deepEqual(tracker.take('peer-report'), [
    { type: 'peer-report', digest, peerId: liar.control.peerId, reason: 'undelivered' },
  ])
  await assert.doesNotReject(download.close(new Error('the test is over')))
})

test('who only ever says busy for a manifest has one failure until the tracker is told, for a layer three', async (t) => {
  const origin = new MemoryOrigin()
  const failures: number[] = []
  for (const sizeBytes of [1000, MIB]) {
    const digest = origin.add(sizeBytes)
    const liar = await startNode(t, { handler: () => () => ({ status: 'busy', retryAfterMs: 10 }) })
    await liar.fetch(origin, digest)
    const { neighbour, download } = await reportOf(t, liar.address, origin, digest)
    failures.push(neighbour.strikes)
    assert.equal(download.neighbourhood.has(liar.control.peerId), false)
    await assert.doesNotReject(download.close(new Error('the test is over')))
  }
  assert.deepEqual(failures, [1, 3])
})

test('what a peer has that only says busy does not count until it gives a chunk', () => {
  const board = new ChunkBoard(new ChunkMap(2))
  const digest = digestOf('blob')
  const book = new VoucherBook({
    digest,
    chunkCount: 2,
    self: 'self',
    sign: () => new Uint8Array(64),
    verify: () => true,
  })
  book.vouch([0, 1], new Uint8Array(64))
  const neighbour = new Neighbour(new FakeChannel('peer'), board, book, 0, '')
  neighbour.offers([0, 1])
  assert.equal(neighbour.putOff(0), false)
  neighbour.resume(60_000)
  assert.deepEqual([...board.reach], [0, 0])
  neighbour.hasDelivered = true
  neighbour.resume(60_000)
  assert.deepEqual([...board.reach], [1, 1])
})

/** A node downloads what only the liar has, with a tracker that names the liar, until it reports it there. */
async function reportOf(t: TestContext, liar: NodeAddress, origin: MemoryOrigin, digest: Digest) {
  const tracker = new FakeTracker([liar])
  const timings = { trackerSilenceMs: 60_000 }
  const node = await startNode(t, { trackers: ['tracker'], timings, control: (honest) => tracker.knownTo(honest) })
  await until(() => node.swarm.trackers.status()[0]!.connected, 'the tracker is connected')
  const download = await node.download(origin, digest)
  await until(() => download.neighbourhood.size > 0, 'the liar is a neighbour')
  const neighbour = download.neighbourhood.all()[0]!
  await until(() => tracker.sent.some(({ type }) => type === 'peer-report'), 'the tracker is told')
  return { tracker, neighbour, download }
}

/** A tracker that names peers, and grants no lease because one of them has everything. */
class FakeTracker extends FakeChannel {
  readonly #peers: NodeAddress[]

  constructor(peers: NodeAddress[]) {
    super('tracker')
    this.#peers = peers
  }

  override send(message: Parameters<FakeChannel['send']>[0]): void {
    super.send(message)
    if (message.type !== 'tracker-join') return
    const { digest, sizeBytes } = message
    const peers = { type: 'tracker-peers', digest, sizeBytes, members: 2, peers: this.#peers } as const
    queueMicrotask(() => this.onMessage(peers))
  }

  knownTo(honest: ControlPlane): ControlPlane {
    const channelTo = async () => {
      honest.onChannel(this)
      return this
    }
    return new Proxy(honest, {
      get: (target, key) => {
        if (key === 'channelTo') return channelTo
        const value: unknown = Reflect.get(target, key, target)
        return typeof value === 'function' ? (value.bind(target) as unknown) : value
      },
      set: (target, key, value) => Reflect.set(target, key, value, target),
    })
  }
}
