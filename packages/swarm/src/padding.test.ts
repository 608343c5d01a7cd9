// Members whose words are as long as the protocol allows, and answers that this node cannot send. Each ended a node once.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import test from 'node:test'
import type { ChunkVoucher, ControlChannel } from '@shoal/network'
import type { Digest } from '@shoal/oci'
import { meetAll, startNode, startNodes, until, type TestNode } from './testing/cluster.ts'
import { hanging, MemoryOrigin } from './testing/origin.ts'

const MIB = 1024 * 1024
const CHUNK = 256 * 1024
const EMPTY = new Uint8Array()

/** What a member signs of some chunks, in as many words as it likes. */
function say(node: TestNode, digest: Digest, content: Buffer, indices: number[]): ChunkVoucher {
  const hash = (chunk: number) =>
    createHash('sha256')
      .update(content.subarray(chunk * CHUNK, (chunk + 1) * CHUNK))
      .digest()
  const known = new Map([...new Set(indices)].map((chunk) => [chunk, hash(chunk)]))
  const hashes = Buffer.concat(indices.map((chunk) => known.get(chunk)!))
  const numbers = Buffer.alloc(indices.length * 4)
  indices.forEach((chunk, at) => numbers.writeUInt32BE(chunk, at * 4))
  const signature = node.control.sign(Buffer.concat([Buffer.from(`shoal-voucher-v1\0${digest}\0`), numbers, hashes]))
  return { indices, hashes, signer: node.control.peerId, signature }
}

const channelTo = (from: TestNode, to: TestNode): ControlChannel => {
  const channel = from.control.openChannel(to.control.peerId)
  assert.ok(channel !== undefined)
  return channel
}

test('a voucher that names one chunk thousands of times is refused, not passed on', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  const gate = Promise.withResolvers<void>()
  origin.mood = () => gate.promise
  const [liar, victim, other] = await startNodes(t, 3)
  const waiting = await other!.download(origin, digest)
  const download = await victim!.download(origin, digest)
  const vouchers = [say(liar!, digest, origin.content(digest), new Array<number>(18_000).fill(0))]
  const join = { type: 'swarm-join', digest, sizeBytes: MIB, mediaType: '', chunks: EMPTY, complete: true } as const
  channelTo(liar!, victim!).send({ ...join, vouchers, reply: false, freeSlots: 7 })
  await until(() => victim!.swarm.banned().length > 0, 'it is caught')
  assert.deepEqual(victim!.swarm.banned(), [[liar!.control.peerId, 'forged_voucher']])
  gate.resolve()
  await Promise.all([download.done, waiting.done])
  assert.deepEqual(await other!.bytes(digest), origin.content(digest))
})

test('neighbours that cannot be told end neither the process nor the download', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  const gate = Promise.withResolvers<void>()
  origin.mood = () => gate.promise
  const [node, other] = await startNodes(t, 2)
  const waiting = await other!.download(origin, digest, false)
  const download = await node!.download(origin, digest)
  await until(() => download.neighbourhood.size > 0 && waiting.neighbourhood.size > 0, 'they are neighbours')
  const channel = channelTo(node!, other!)
  const send = channel.send.bind(channel)
  let failed = 0
  channel.send = (message) => {
    if (message.type !== 'have') return send(message)
    failed++
    throw new Error('it cannot be sent')
  }
  gate.resolve()
  await download.done
  assert.ok(failed > 0)
  assert.deepEqual(node!.swarm.downloads(), [])
  channel.send = send
  // It hears of the blob by asking.
  waiting.neighbourhood.joinTo(channelTo(other!, node!), true)
  await waiting.done
})

test(
  'a whole blob is given to those who wait for it, though no tracker can be told',
  { timeout: 60_000 },
  async (t) => {
    const origin = new MemoryOrigin()
    const digest = origin.add(MIB)
    const node = await startNode(t)
    node.swarm.trackers.send = () => {
      throw new Error('it cannot be sent')
    }
    await node.fetch(origin, digest)
    assert.deepEqual(node.swarm.downloads(), [])
  },
)

test('a blob whose media type is too long for a message is fetched and shared all the same', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  const gate = Promise.withResolvers<void>()
  origin.mood = () => gate.promise
  const [node, other] = await startNodes(t, 2)
  const mediaType = `application/${'x'.repeat(300)}`
  const request = { digest, sizeBytes: MIB, mediaType, origin: origin.source(digest), requestId: 'test' }
  const download = await node!.swarm.download(request)
  download!.hold()
  const waiting = await other!.download(origin, digest, false)
  await until(() => waiting.neighbourhood.size > 0, 'they are neighbours')
  gate.resolve()
  await Promise.all([download!.done, waiting.done])
  // And by who has it whole.
  const late = await startNode(t)
  await meetAll([node!, late])
  assert.equal((await late.swarm.askSize(digest, 10_000))?.sizeBytes, MIB)
})

test('a tag whose media type is too long for a message is said not to be known', { timeout: 60_000 }, async (t) => {
  const found = { digest: new MemoryOrigin().add(1), mediaType: 'x'.repeat(256), sizeBytes: 1, ageMs: 0 }
  const asker = await startNode(t)
  const node = await startNode(t, { knownTag: async () => found })
  await meetAll([asker, node])
  // Who gets no answer waits for the whole of it.
  assert.deepEqual(await asker.swarm.askTag('ghcr.io/org/app:1', 600_000), [])
})

test('a question that names chunks thousands of times is answered once for each that exists', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  const [asker, node] = await startNodes(t, 2)
  // It has one chunk from an earlier run, and gets no more of them.
  const partial = await node!.store.openPartial(digest, 2 * MIB)
  const content = origin.content(digest).subarray(2 * CHUNK, 3 * CHUNK)
  await partial.writeChunk(2, content, createHash('sha256').update(content).digest())
  await partial.close()
  origin.mood = hanging
  await node!.download(origin, digest)
  const channel = channelTo(asker!, node!)
  const heard: [string, number[]][] = []
  channel.onMessage = (message) => {
    if (message.type === 'lost' || message.type === 'have') heard.push([message.type, message.indices])
  }
  const asked = [2, 5, 5000]
  channel.send({ type: 'hash-query', digest, indices: Array.from({ length: 60_000 }, (_, at) => asked[at % 3]!) })
  await until(() => heard.length === 2, 'it is answered')
  // Compared by length: thousands of them would take the assertion minutes.
  assert.deepEqual(
    heard.map(([type, indices]) => [type, indices.length, indices[0]]),
    [
      ['lost', 1, 5],
      ['have', 1, 2],
    ],
  )
})

test('who asks a seed for hashes again and again is told them a few times', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  const [asker, seed] = await startNodes(t, 2)
  await seed!.fetch(origin, digest)
  const channel = channelTo(asker!, seed!)
  const answers: number[] = []
  channel.onMessage = (message) => {
    if (message.type === 'have') answers.push(message.vouchers.length)
  }
  for (let times = 0; times < 500; times++) channel.send({ type: 'hash-query', digest, indices: [0] })
  await until(() => answers.length === 500, 'all are answered')
  assert.equal(answers.filter((vouchers) => vouchers > 0).length, 8)
})
