// Nodes that share a blob while it is still arriving, and clients that read along.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import test from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { TransferPlane } from '@shoal/network'
import { until, meetAll, readAll, startNode, startNodes } from './testing/cluster.ts'
import { MemoryOrigin } from './testing/origin.ts'

const MIB = 1024 * 1024
const CHUNK = 256 * 1024

test('a node serves chunks of a blob that it is still fetching', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(4 * MIB)
  const [first, second] = await startNodes(t, 2)
  // The origin stops in the middle until the second node has got something from the first.
  const released = Promise.withResolvers<void>()
  origin.pace = async () => {
    if (origin.sentBytes >= 1.5 * MIB) await released.promise
  }
  const a = await first!.download(origin, digest)
  await until(() => a.partial.chunks.count >= 2, 'the first node has chunks')
  const b = await second!.download(origin, digest, false)
  await until(() => b.fromPeersBytes >= 2 * CHUNK, 'the second node has chunks of the first')
  assert.equal(a.isOver, false)
  released.resolve()
  await Promise.all([a.done, b.done])
  assert.deepEqual(await second!.bytes(digest), origin.content(digest))
  assert.equal(origin.sentBytes, origin.size(digest))
})

test('a peer is asked for the next chunks while those that have come are checked and written', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(8 * CHUNK)
  let asked = 0
  const transfer = (honest: TransferPlane): TransferPlane => {
    const fetch = honest.fetch.bind(honest)
    honest.fetch = (...request) => {
      asked++
      return fetch(...request)
    }
    return honest
  }
  const [first, second] = [await startNode(t), await startNode(t, { transfer })]
  await meetAll([first, second])
  await first.fetch(origin, digest)
  const download = await second.download(origin, digest, false)
  const written = Promise.withResolvers<void>()
  const keep = download.keeper.keepFromPeer.bind(download.keeper)
  download.keeper.keepFromPeer = async (...chunk) => {
    await written.promise
    return keep(...chunk)
  }
  await until(() => asked >= 3, 'the only peer was asked for the third chunk')
  assert.equal(download.partial.chunks.count, 0)
  written.resolve()
  await download.done
  assert.deepEqual(await second.bytes(digest), origin.content(digest))
})

test('what a node fetches from a slow origin without a tracker it claims again while bytes come', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(CHUNK)
  const [takeoverMs, pieceMs] = [100, 75]
  const [first, second] = await startNodes(t, 2, { timings: { takeoverMs } })
  await meetAll([first!, second!])
  const b = await second!.download(origin, digest, false)
  let claims = 0
  const onClaim = b.neighbourhood.onClaim.bind(b.neighbourhood)
  b.neighbourhood.onClaim = (channel, message) => {
    if (message.active && message.indices.includes(0)) claims++
    onClaim(channel, message)
  }
  let isMet = (): boolean => false
  origin.mood = () => until(() => isMet(), 'the two are neighbours')
  let heard = 0
  // Each piece comes after the claim that the one before has brought, and late enough to bring one itself.
  origin.pace = async (sentBytes) => {
    if (sentBytes > 0) await until(() => claims > heard, 'the claim is told again')
    heard = claims
    await delay(pieceMs)
  }
  const a = await first!.download(origin, digest)
  isMet = () => a.neighbourhood.size > 0 && b.neighbourhood.size > 0
  await Promise.all([a.done, b.done])
  assert.equal(origin.sentBytes, CHUNK)
})

test('a client that reads along gets every byte, and the end only when the digest has matched', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(3 * MIB + 5)
  const node = await startNode(t)
  const release = Promise.withResolvers<void>()
  origin.pace = async (_sentBytes, position) => {
    if (position >= 3 * MIB) await release.promise
  }
  const download = await node.download(origin, digest)
  const stream = download.createReadStream({})
  let received = 0
  let ended = false
  stream.on('data', (piece: Buffer) => (received += piece.length))
  stream.on('end', () => (ended = true))
  await until(() => received === 3 * MIB, 'all chunks but the last have been sent on')
  assert.equal(ended, false)
  release.resolve()
  await once(stream, 'end')
  assert.equal(received, origin.size(digest))
  await download.done
})

test('two clients, each with a part, share one download', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(3 * MIB)
  const node = await startNode(t)
  const [one, other] = await Promise.all([node.download(origin, digest), node.download(origin, digest)])
  assert.equal(one, other)
  const [whole, part] = await Promise.all([
    readAll(one.createReadStream({})),
    readAll(other.createReadStream({ start: MIB - 7, end: 2 * MIB + 7 })),
  ])
  assert.deepEqual(whole, origin.content(digest))
  assert.deepEqual(part, origin.content(digest).subarray(MIB - 7, 2 * MIB + 8))
  await one.done
  assert.equal(origin.sentBytes, origin.size(digest))
})

test('a download that nobody waits for stops after a while, and a later one goes on from there', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(4 * MIB)
  const node = await startNode(t, { timings: { lingerMs: 20 } })
  let stopAt = MIB
  origin.pace = async () => {
    if (origin.sentBytes >= stopAt) await new Promise(() => undefined)
  }
  const source = origin.source(digest)
  const request = { digest, sizeBytes: origin.size(digest), origin: source, requestId: 'test' }
  const download = (await node.swarm.download(request))!
  const release = download.hold()
  await until(() => download.partial.chunks.count >= 3, 'some chunks are here')
  release()
  await assert.rejects(download.done, { name: 'DownloadError', code: 'STOPPED' })
  assert.equal(node.swarm.downloads().length, 0)

  const had = download.partial.chunks.count
  stopAt = Infinity
  origin.sentBytes = 0
  await node.fetch(origin, digest)
  assert.deepEqual(await node.bytes(digest), origin.content(digest))
  assert.equal(origin.sentBytes, origin.size(digest) - had * CHUNK)
})

test('a download that is wanted again while it lingers goes on', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  const node = await startNode(t, { timings: { lingerMs: 60_000 } })
  const gate = Promise.withResolvers<void>()
  origin.mood = () => gate.promise
  const request = { digest, sizeBytes: MIB, origin: origin.source(digest), requestId: 'test' }
  const download = (await node.swarm.download(request))!
  download.hold()()
  assert.equal(await node.swarm.download(request), download)
  const stream = download.createReadStream({})
  gate.resolve()
  assert.deepEqual(await readAll(stream), origin.content(digest))
})

test('a node that is stopped and started again goes on with what it had, and serves it', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(4 * MIB)
  const first = await startNode(t)
  origin.pace = async () => {
    if (origin.sentBytes >= 2 * MIB) await new Promise(() => undefined)
  }
  const before = await first.download(origin, digest)
  await until(() => before.partial.chunks.count >= 6, 'half of the blob is here')
  await Promise.allSettled([first.stop(), before.done])

  origin.pace = () => undefined
  origin.sentBytes = 0
  const again = await startNode(t, { directory: first.directory })
  const other = await startNode(t)
  await meetAll([again, other])
  const resumed = await again.download(origin, digest)
  await Promise.all([resumed.done, other.fetch(origin, digest)])
  assert.deepEqual(await again.bytes(digest), origin.content(digest))
  assert.deepEqual(await other.bytes(digest), origin.content(digest))
  // A few chunks may be fetched twice, but not what was there already.
  assert.ok(origin.sentBytes < 4 * MIB, `${origin.sentBytes} bytes were fetched again`)
})

test('after a download the blob can be evicted, and nothing of the download is left', async (t) => {
  const origin = new MemoryOrigin()
  const node = await startNode(t, { quotaBytes: 2 * MIB })
  const digests = [1, 2, 3, 4].map(() => origin.add(MIB))
  for (const digest of digests) await node.fetch(origin, digest)
  // Four MiB have gone through a store of two: the first can only have been evicted if nothing held it any more.
  assert.equal(node.store.has(digests[0]!), false)
  assert.equal(node.store.has(digests[3]!), true)
  assert.deepEqual(node.swarm.downloads(), [])
})

test('many downloads leave no timer and no listener behind', async (t) => {
  const origin = new MemoryOrigin()
  const [first, second] = await startNodes(t, 2)
  const run = async (count: number) => {
    for (let number = 0; number < count; number++) {
      const digest = origin.add(1000)
      await first!.fetch(origin, digest)
      await second!.fetch(origin, digest)
      origin.blobs.delete(digest)
    }
  }
  await run(5)
  const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length
  const before = timers()
  await run(60)
  assert.ok(timers() <= before + 10, `${timers() - before} timers more than before`)
})

test('two copies of a chunk that come at the same time are counted as one', async (t) => {
  const node = await startNode(t)
  const origin = new MemoryOrigin()
  origin.mood = () => new Promise(() => undefined)
  const digest = origin.add(2 * MIB)
  const { book, fromPeersBytes, keeper } = await node.download(origin, digest)
  assert.equal(fromPeersBytes, 0)
  const data = origin.content(digest).subarray(0, 256 * 1024)
  const hash = createHash('sha256').update(data).digest()
  book.vouch([0], hash)
  const giver = { peerId: 'peer', withdraws: () => undefined, strike: () => false }
  await Promise.all([1, 2].map(() => keeper.keepFromPeer(giver, 0, data, hash)))
  assert.equal(keeper.fromPeersBytes, data.length)
})
