// Members that hold the swarm key and lie about what they have, what others have and who they are. Each was a hole once.
import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import type { ChunkHandler, ControlPlane, NodeAddress } from '@shoal/network'
import type { Digest } from '@shoal/oci'
import { isTrickling } from './policy/index.ts'
import { meetAll, startNode, startNodes, until, type NodeOptions, type TestNode } from './testing/cluster.ts'
import { hanging, MemoryOrigin } from './testing/origin.ts'

const MIB = 1024 * 1024
const CHUNK = 256 * 1024

const silent: () => ChunkHandler = () => () => ({ status: 'busy', retryAfterMs: 60_000 })

/** A node that takes part in the swarm of a blob, all of whose chunks but the last it had from an origin of its own. */
async function startMember(
  t: TestContext,
  digest: Digest,
  content: Buffer,
  options: NodeOptions = {},
): Promise<TestNode> {
  const lies = new MemoryOrigin()
  lies.blobs.set(digest, content)
  lies.pace = async (_sent, position) => {
    if (position >= content.length - CHUNK) await new Promise(() => undefined)
  }
  const liar = await startNode(t, options)
  const download = await liar.download(lies, digest)
  await until(() => download.partial.chunks.count === download.partial.chunkCount - 1, 'the liar has its chunks')
  return liar
}

/** Holds back what a seed says until the returned function is called. */
function mute(node: TestNode): () => void {
  const { promise, resolve } = Promise.withResolvers<void>()
  const open = node.store.open.bind(node.store)
  node.store.open = async (digest) => {
    await promise
    return await open(digest)
  }
  return resolve
}

test('who vouches for a wrong hash does not get those banned who send the right bytes', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  const evil = Buffer.from(origin.content(digest))
  evil[3 * CHUNK + 99]! ^= 0xff
  // It tells its hashes and gives nobody a chunk: so others' bytes are measured by its word.
  const liar = await startMember(t, digest, evil, { handler: silent })
  const seeds = await startNodes(t, 2)
  for (const seed of seeds) await seed.fetch(origin, digest)
  const speak = seeds.map(mute)
  const victim = await startNode(t)
  await meetAll([victim, liar, ...seeds])
  const download = await victim.download(origin, digest, false)
  await until(() => download.book.signer(3) === liar.control.peerId, "the liar's word is the first")
  for (const each of speak) each()
  await download.done
  assert.deepEqual(await victim.bytes(digest), origin.content(digest))
  assert.deepEqual(victim.swarm.banned(), [[liar.control.peerId, 'wrong_hash']])
  assert.equal(await victim.metric('shoal_chunks_rejected_total', { reason: 'hash' }), 2)
})

test('who sends wrong bytes against the word of others is found out when another sends the right ones', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  const flipping =
    (honest: ChunkHandler): ChunkHandler =>
    async (request) => {
      const answer = await honest(request)
      if (answer.status !== 'ok') return answer
      const read = async (offset: number, into: Uint8Array): Promise<void> => {
        await answer.read(offset, into)
        into[0]! ^= 1
      }
      return { ...answer, read }
    }
  const [seed] = await startNodes(t, 1)
  await seed!.fetch(origin, digest)
  const liar = await startNode(t, { handler: flipping })
  await meetAll([seed!, liar])
  // What it knows of hashes it has from the seed.
  await liar.fetch(origin, digest, false)
  const speak = mute(liar)
  const victim = await startNode(t)
  await meetAll([victim, seed!, liar])
  const download = await victim.download(origin, digest, false)
  await until(() => download.book.signer(0) === seed!.control.peerId, "the seed's word is the first")
  speak()
  await download.done
  assert.deepEqual(await victim.bytes(digest), origin.content(digest))
  for (const [peerId, reason] of victim.swarm.banned()) {
    assert.equal(peerId, liar.control.peerId)
    assert.equal(reason, 'wrong_bytes')
  }
})

test('who says it has everything and has nothing is asked a few times, and left', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(8 * MIB)
  let asked = 0
  const handler = (): ChunkHandler => () => {
    asked++
    return { status: 'missing' }
  }
  const liar = await startNode(t, { handler })
  const [seed, victim] = await startNodes(t, 2)
  await liar.fetch(origin, digest)
  await seed!.fetch(origin, digest)
  await meetAll([liar, seed!, victim!])
  await victim!.fetch(origin, digest, false)
  assert.deepEqual(await victim!.bytes(digest), origin.content(digest))
  assert.ok(asked <= 4, `the liar was asked ${asked} times`)
  assert.deepEqual(victim!.swarm.banned(), [])
})

test('who says it is complete and vouches for nothing is left and named', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  const gate = Promise.withResolvers<void>()
  origin.mood = () => gate.promise
  const [liar, victim] = await startNodes(t, 2, { timings: { stallTimeoutMs: 100 } })
  await meetAll([liar!, victim!])
  const download = await victim!.download(origin, digest)
  const join = { type: 'swarm-join', digest, sizeBytes: 2 * MIB, mediaType: '', complete: true } as const
  const { peerId } = liar!.control
  liar!.control
    .openChannel(victim!.control.peerId)
    ?.send({ ...join, chunks: new Uint8Array(), vouchers: [], reply: false, freeSlots: 7 })
  await until(() => download.neighbourhood.has(peerId), 'it is a neighbour')
  await until(() => !download.neighbourhood.has(peerId), 'it is left')
  assert.equal(await victim!.metric('shoal_peers_given_up_total', { reason: 'unvouched' }), 1)
  assert.equal(await victim!.metric('shoal_peer_given_up', { peer: peerId, reason: 'unvouched' }), 1)
  gate.resolve()
  await download.done
  assert.deepEqual(await victim!.bytes(digest), origin.content(digest))
})

test('who never answers is asked for one chunk, left at its first silence while others deliver, and named', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(8 * MIB)
  let asked = 0
  const never = (): ChunkHandler => () => {
    asked++
    return new Promise(() => undefined)
  }
  // Slow enough that the download outlasts the liar's silence.
  const seed = await startNode(t, { uploadRate: 8 * MIB })
  const liar = await startNode(t, { handler: never })
  const victim = await startNode(t, { timings: { stallTimeoutMs: 200 } })
  for (const node of [seed, liar]) await node.fetch(origin, digest)
  await meetAll([seed, liar, victim])
  await victim.fetch(origin, digest, false)
  assert.deepEqual(await victim.bytes(digest), origin.content(digest))
  assert.ok(asked <= 2, `it was asked ${asked} times`)
  const named = { peer: liar.control.peerId, reason: 'undelivered' }
  assert.equal(await victim.metric('shoal_peer_given_up', named), 1)
})

test('who never answers has one try for a blob of one chunk, though nobody else delivers', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(1000)
  let asked = 0
  const never = (): ChunkHandler => () => {
    asked++
    return new Promise(() => undefined)
  }
  const liar = await startNode(t, { handler: never })
  await liar.fetch(origin, digest)
  const victim = await startNode(t, { timings: { stallTimeoutMs: 100 } })
  await meetAll([liar, victim])
  // The origin is held up until the liar was left, as it is by a tracker that counts on the liar's word.
  const gate = Promise.withResolvers<void>()
  origin.mood = () => gate.promise
  const download = await victim.download(origin, digest)
  await until(() => asked > 0 && !download.neighbourhood.has(liar.control.peerId), 'the liar is left')
  assert.equal(asked, 1)
  gate.resolve()
  await download.done
  assert.deepEqual(await victim.bytes(digest), origin.content(digest))
})

test('what two others say of a liar is believed without the origin, and the liar banned when the blob is right', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  const evil = Buffer.from(origin.content(digest))
  evil[3 * CHUNK + 99]! ^= 0xff
  // Once its word is all that is known of it, it gives nobody anything: so it is for its word that it is banned.
  let gives = true
  const handler =
    (honest: ChunkHandler): ChunkHandler =>
    (request) =>
      gives ? honest(request) : { status: 'busy', retryAfterMs: 60_000 }
  const liar = await startMember(t, digest, evil, { handler })
  const seeds = await startNodes(t, 2)
  for (const seed of seeds) await seed.fetch(origin, digest)
  const speak = seeds.map(mute)
  const victim = await startNode(t, { timings: { takeoverMs: 100 } })
  await meetAll([victim, liar, ...seeds])
  // The origin gives the chunk that the liar lacks, and then nothing: what is compared with it is never answered.
  origin.mood = (range, signal) => (range.start === 2 * MIB - CHUNK ? undefined : hanging(range, signal))
  const download = await victim.download(origin, digest)
  await until(() => download.partial.chunks.isFull, 'all chunks are here, one of them wrong')
  gives = false
  for (const each of speak) each()
  await download.done
  assert.deepEqual(await victim.bytes(digest), origin.content(digest))
  assert.equal(await victim.metric('shoal_chunks_rejected_total', { reason: 'digest' }), 1)
  assert.deepEqual(victim.swarm.banned(), [[liar.control.peerId, 'wrong_hash']])
})

test('who asks the same again and again is answered a few times', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  const last = origin.add(MIB)
  const [liar, seed] = await startNodes(t, 2)
  for (const each of [digest, last]) await seed!.fetch(origin, each)
  await meetAll([liar!, seed!])
  // A stored blob is opened for each answer.
  const opened: Digest[] = []
  const open = seed!.store.open.bind(seed!.store)
  seed!.store.open = (asked) => {
    opened.push(asked)
    return open(asked)
  }
  const ask = (about: Digest) => {
    const join = { type: 'swarm-join', digest: about, sizeBytes: 0, mediaType: '', chunks: new Uint8Array() } as const
    const more = { complete: false, vouchers: [], reply: true, freeSlots: 7 }
    liar!.control.openChannel(seed!.control.peerId)?.send({ ...join, ...more })
  }
  for (let at = 0; at < 500; at++) ask(digest)
  ask(last)
  await until(() => opened.includes(last), 'the last question is answered')
  assert.equal(opened.filter((asked) => asked === digest).length, 8)
})

test('who claims all chunks again and again, and fetches none, keeps nobody from the origin', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(4 * MIB)
  const nothing = new MemoryOrigin()
  nothing.blobs.set(digest, origin.content(digest))
  nothing.mood = () => new Promise(() => undefined)
  const timings = { takeoverMs: 100, noProgressTimeoutMs: 10_000 }
  const [liar, victim] = await startNodes(t, 2, { timings })
  await liar!.download(nothing, digest)
  const indices = Array.from({ length: 16 }, (_, at) => at)
  const claiming = setInterval(() => {
    liar!.control.openChannel(victim!.control.peerId)?.send({ type: 'claim', digest, indices, active: true })
  }, 20)
  t.after(() => clearInterval(claiming))
  await victim!.fetch(origin, digest)
  assert.deepEqual(await victim!.bytes(digest), origin.content(digest))
})

test('a member that speaks as if it were a tracker is not heard', async (t) => {
  const [liar, victim] = await startNodes(t, 2)
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  let heard = 0
  victim!.swarm.trackers.receive = () => {
    heard++
  }
  const channel = liar!.control.openChannel(victim!.control.peerId)
  assert.ok(channel !== undefined)
  channel.send({ type: 'lease-grant', digest, leaseId: 1, first: 0, count: 1, idleLimitMs: 1000, source: undefined })
  channel.send({ type: 'tracker-peers', digest, sizeBytes: 1, members: 1, peers: [] })
  const answer = { type: 'tag-answer', requestId: 1, reference: 'a/b:c', digest, mediaType: '', sizeBytes: 1 } as const
  channel.send({ ...answer, stale: false, errorCode: '' })
  // The order of messages is kept: when this is answered the others have been there.
  await liar!.swarm.askTag('ghcr.io/org/app:1', 5000)
  assert.equal(heard, 0)
})

test('who refuses with a long list of nodes that do not exist keeps nobody busy with them', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  const dialled = new Set<string>()
  const counting = (honest: ControlPlane): ControlPlane => {
    const channel = honest.channel.bind(honest)
    honest.channel = async (peer, signal) => {
      if (peer.peerId.startsWith('fake')) dialled.add(peer.peerId)
      return await channel(peer, signal)
    }
    return honest
  }
  const liar = await startNode(t)
  const victim = await startNode(t, { control: counting })
  await meetAll([liar, victim])
  const download = await victim.download(origin, digest)
  const others = Array.from({ length: 500 }, (_, at): NodeAddress => {
    return { peerId: `fake${at}`, multiaddrs: ['/ip4/127.0.0.1/tcp/1'], transfer: '', zone: '' }
  })
  liar.control.openChannel(victim.control.peerId)?.send({ type: 'swarm-refuse', digest, reason: 'full', others })
  await download.done
  assert.ok(dialled.size <= 8, `${dialled.size} nodes were dialled that do not exist`)
})

test('a byte now and then is no progress, a slow link is no trickle', () => {
  const request = (tookMs: number, receivedBytes: number) => ({
    startedMs: 0,
    lastBytesMs: receivedBytes === 0 ? 0 : tookMs,
    receivedBytes,
  })
  assert.equal(isTrickling(request(2900, 29), 100, 2900), false)
  assert.equal(isTrickling(request(3100, 31), 100, 3100), true)
  // Nothing at all is a stall, and judged as that.
  assert.equal(isTrickling(request(3100, 0), 100, 3100), false)
  // 1 Mbit/s, shared by eight requests.
  assert.equal(isTrickling(request(60_000, 60 * 15_000), 20_000, 60_000), false)
  // Where everything takes minutes, nobody is judged in seconds.
  assert.equal(isTrickling(request(60_000, 60), 60_000, 60_000), false)
})

test('a size that only other nodes name ends the download as soon as the origin names another', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  const node = await startNode(t)
  // The second one is asked for ranges that it says are not there.
  for (const sizeBytes of [100, 64 * MIB]) {
    const request = { digest, sizeBytes, sizeIsHearsay: true, origin: origin.source(digest), requestId: 'test' }
    const download = await node.swarm.download(request)
    download?.hold()
    await assert.rejects(download!.done, { name: 'DownloadError', code: 'WRONG_SIZE' })
  }
  await node.fetch(origin, digest)
  assert.deepEqual(await node.bytes(digest), origin.content(digest))
})

test('a download of a size that others named gives way to one of the size that a manifest names', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  const node = await startNode(t)
  const request = { digest, sizeIsHearsay: true, sizeBytes: 2 * MIB, origin: undefined, requestId: 'test' }
  const wrong = await node.swarm.download(request)
  wrong?.hold()
  const right = await node.download(origin, digest)
  assert.notEqual(right, wrong)
  await assert.rejects(wrong!.done, { code: 'STOPPED' })
  // What others say does not end what is certain.
  assert.equal(await node.swarm.download(request), right)
  await right.done
  assert.deepEqual(await node.bytes(digest), origin.content(digest))
})
