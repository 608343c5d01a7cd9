// Peers that lie, die or are slow, and origins that refuse, hang or lie.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import test from 'node:test'
import type { ChunkHandler, ControlPlane } from '@shoal/network'
import { StoreFullError } from '@shoal/store'
import { UpstreamError } from '@shoal/upstream'
import type { OriginSource } from './context.ts'
import { DownloadError } from './errors.ts'
import { meetAll, startNode, startNodes, until, type TestNode } from './testing/cluster.ts'
import { hanging, MemoryOrigin, refusing } from './testing/origin.ts'

const MIB = 1024 * 1024
const CHUNK = 256 * 1024

/** Serves every chunk with one bit turned over. */
function flipping(honest: ChunkHandler): ChunkHandler {
  return async (request) => {
    const answer = await honest(request)
    if (answer.status !== 'ok') return answer
    return {
      ...answer,
      read: async (offset, into) => {
        await answer.read(offset, into)
        if (offset === 0) into[0]! ^= 1
      },
    }
  }
}

test('a peer that sends flipped bits is found out, counted, banned; the others finish', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(4 * MIB)
  const liar = await startNode(t, { handler: flipping })
  const honest = await startNodes(t, 3)
  await meetAll([liar, ...honest])
  await liar.fetch(origin, digest)
  await Promise.all(honest.map((node) => node.fetch(origin, digest)))
  let rejected = 0
  for (const node of honest) {
    assert.deepEqual(await node.bytes(digest), origin.content(digest))
    rejected += await node.metric('shoal_chunks_rejected_total', { reason: 'hash' })
    for (const [peerId] of node.swarm.banned()) assert.equal(peerId, liar.control.peerId)
  }
  assert.ok(rejected >= 1)
  assert.ok(honest.some((node) => node.swarm.banned().length === 1))
})

test('a node that vouches for wrong hashes is found by comparing with the origin', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  const evil = Buffer.from(origin.content(digest))
  evil[3 * CHUNK + 99]! ^= 0xff
  // The liar's own origin serves other bytes: it believes and vouches for them, which is as bad as lying.
  const lies = new MemoryOrigin()
  lies.blobs.set(digest, evil)
  lies.pace = async () => {
    if (lies.sentBytes >= MIB + CHUNK) await new Promise(() => undefined)
  }
  const [liar, victim] = await startNodes(t, 2)
  const lie = await liar!.download(lies, digest)
  await until(() => lie.partial.chunks.has(3), 'the liar has its wrong chunk')
  // The origin is kept from the victim until it has the wrong chunk from the liar.
  const gate = Promise.withResolvers<void>()
  origin.mood = () => gate.promise
  const download = await victim!.download(origin, digest)
  await until(() => download.partial.chunks.has(3), 'the victim has the wrong chunk')
  gate.resolve()
  await download.done
  assert.deepEqual(await victim!.bytes(digest), origin.content(digest))
  assert.equal(await victim!.metric('shoal_chunks_rejected_total', { reason: 'digest' }), 1)
  assert.deepEqual(
    victim!.swarm.banned().map(([peerId]) => peerId),
    [liar!.control.peerId],
  )
})

test('a client that already has wrong bytes is cut off instead of getting the end', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  const evil = Buffer.from(origin.content(digest))
  evil[10]! ^= 0xff
  const lies = new MemoryOrigin()
  lies.blobs.set(digest, evil)
  lies.pace = async () => {
    if (lies.sentBytes >= MIB) await new Promise(() => undefined)
  }
  const [liar, victim] = await startNodes(t, 2)
  const lie = await liar!.download(lies, digest)
  await until(() => lie.partial.chunks.has(0), 'the liar has its wrong chunk')
  const gate = Promise.withResolvers<void>()
  origin.mood = () => gate.promise
  const download = await victim!.download(origin, digest)
  const stream = download.createReadStream({})
  let received = 0
  const failed = new Promise<Error>((resolve, reject) => {
    stream.on('data', (piece: Buffer) => (received += piece.length))
    stream.once('error', resolve)
    stream.once('end', () => reject(new Error('the client was given an end')))
  })
  await until(() => received >= CHUNK, 'the client has bytes of the liar')
  gate.resolve()
  const error = await failed
  assert.ok(error instanceof DownloadError)
  assert.equal(error.code, 'CORRUPT')
  assert.ok(received < 2 * MIB)
  await download.done
})

test('a voucher that its signer did not make costs its sender the connection', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  const forge = (honest: ControlPlane): ControlPlane =>
    new Proxy(honest, {
      get(target, key) {
        if (key === 'sign') return () => new Uint8Array(64)
        const value: unknown = Reflect.get(target, key, target)
        return typeof value === 'function' ? (value.bind(target) as unknown) : value
      },
      set: (target, key, value) => Reflect.set(target, key, value, target),
    })
  const forger = await startNode(t, { control: forge })
  const node = await startNode(t)
  await meetAll([forger, node])
  await forger.fetch(origin, digest)
  await node.fetch(origin, digest)
  assert.deepEqual(await node.bytes(digest), origin.content(digest))
  assert.equal(await node.metric('shoal_chunks_rejected_total', { reason: 'voucher' }), 1)
  assert.equal(node.control.isBanned(forger.control.peerId), true)
})

for (const code of ['NOT_FOUND', 'UNAUTHORIZED'] as const) {
  test(`the origin says ${code}: what peers have still comes`, async (t) => {
    const origin = new MemoryOrigin()
    const digest = origin.add(2 * MIB)
    const [first, second] = await startNodes(t, 2)
    await first!.fetch(origin, digest)
    origin.mood = refusing(code)
    await second!.fetch(origin, digest)
    assert.deepEqual(await second!.bytes(digest), origin.content(digest))
  })

  test(`the origin says ${code}: what nobody has fails with its answer`, async (t) => {
    const origin = new MemoryOrigin()
    const digest = origin.add(2 * MIB)
    origin.mood = refusing(code)
    const [first] = await startNodes(t, 2)
    await assert.rejects(first!.fetch(origin, digest), (error: unknown) => {
      assert.ok(error instanceof DownloadError)
      assert.equal(error.code, 'NO_SOURCE')
      assert.ok(error.cause instanceof UpstreamError)
      assert.equal(error.cause.code, code)
      return true
    })
    assert.ok(origin.asked.length <= 2, 'a refusal is not asked for again (a lone node begins two runs at once)')
  })
}

test('without an origin and without peers a download fails and says so', async (t) => {
  const origin = new MemoryOrigin()
  const node = await startNode(t)
  await assert.rejects(node.fetch(origin, origin.add(MIB), false), { code: 'NO_SOURCE' })
})

test('the origin hangs: content of peers flows, and what nobody has fails in bounded time', async (t) => {
  const origin = new MemoryOrigin()
  const there = origin.add(2 * MIB)
  const nowhere = origin.add(2 * MIB)
  const timings = { noProgressTimeoutMs: 3000 }
  const [first, second] = await startNodes(t, 2, { timings })
  await first!.fetch(origin, there)
  origin.mood = hanging
  await second!.fetch(origin, there)
  assert.deepEqual(await second!.bytes(there), origin.content(there))
  await assert.rejects(second!.fetch(origin, nowhere), { code: 'NO_PROGRESS' })
})

test('an origin in trouble is asked again, not too often, until it answers', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  let calls = 0
  const trouble = refusing('SERVER_ERROR')
  origin.mood = (range, signal) => (++calls <= 3 ? trouble(range, signal) : undefined)
  const node = await startNode(t)
  await node.fetch(origin, digest)
  assert.deepEqual(await node.bytes(digest), origin.content(digest))
})

test('an origin that ignores Range is read once', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(6 * MIB)
  origin.ignoresRange = true
  const node = await startNode(t)
  await node.fetch(origin, digest)
  assert.deepEqual(await node.bytes(digest), origin.content(digest))
  assert.ok(origin.sentBytes < 1.2 * origin.size(digest), `${origin.sentBytes} bytes of ${origin.size(digest)}`)
})

test('an origin that cuts its answers is asked for the rest', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(3 * MIB)
  let cuts = 0
  origin.pace = (sentBytes) => {
    if (sentBytes >= 300_000 && cuts++ < 3) throw new UpstreamError('PROTOCOL', origin.host, 'cut')
  }
  const node = await startNode(t)
  await node.fetch(origin, digest)
  assert.deepEqual(await node.bytes(digest), origin.content(digest))
})

test('an origin whose bytes do not match the digest: the download fails as corrupt and keeps nothing', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  origin.blobs.set(digest, Buffer.alloc(MIB, 1))
  const node = await startNode(t)
  await assert.rejects(node.fetch(origin, digest), { name: 'DownloadError', code: 'CORRUPT' })
  assert.equal(node.store.has(digest), false)
  origin.blobs.clear()
  assert.equal(node.swarm.banned().length, 0)
})

test('an origin that names another size than a manifest did is not asked again: one of the two is wrong', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  const node = await startNode(t)
  // Of the second one all that is asked for first may lie behind the end.
  for (const sizeBytes of [MIB + 1, 64 * MIB]) {
    const request = { digest, sizeBytes, origin: origin.source(digest), requestId: 'test' }
    const download = (await node.swarm.download(request))!
    const release = download.hold()
    await assert.rejects(download.done, { name: 'DownloadError', code: 'WRONG_SIZE' })
    release()
  }
})

test('who joins a download gets nothing of what the repository of the first one has refused', async (t) => {
  const origin = new MemoryOrigin()
  const node = await startNode(t)
  for (const joinsLate of [false, true]) {
    const digest = origin.add(2 * MIB)
    const asked = Promise.withResolvers<void>()
    const joined = Promise.withResolvers<void>()
    if (joinsLate) joined.resolve()
    let questions = 0
    const other: OriginSource = {
      host: origin.host,
      chunkList: async () => undefined,
      open: async () => {
        questions++
        asked.resolve()
        await joined.promise
        throw new UpstreamError('NOT_FOUND', origin.host, 'this repository does not have it')
      },
    }
    const request = { digest, sizeBytes: 2 * MIB, requestId: 'test' }
    const first = (await node.swarm.download({ ...request, origin: other, originKey: 'other' }))!
    first.hold()
    await asked.promise
    const second = (await node.swarm.download({ ...request, origin: origin.source(digest), originKey: 'own' }))!
    second.hold()
    joined.resolve()
    await second.done
    assert.deepEqual(await node.bytes(digest), origin.content(digest))
    assert.ok(questions <= 2, `${questions} questions, by the runs that began before the first answer`)
  }
})

test('when all have refused who wait for a download, it says so; none is asked again for coming again', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(CHUNK)
  const node = await startNode(t)
  const asked: string[] = []
  const source = (name: string): OriginSource => ({
    ...origin.source(digest),
    open: () => {
      asked.push(name)
      return Promise.reject(new UpstreamError('DENIED', origin.host, `not for ${name}`))
    },
  })
  const ask = (name: string) =>
    node.swarm.download({ digest, sizeBytes: CHUNK, origin: source(name), originKey: name, requestId: 'test' })
  const download = (await ask('one'))!
  download.hold()
  for (const name of ['two', 'one', 'two']) assert.equal(await ask(name), download)
  await assert.rejects(download.done, { code: 'NO_SOURCE', message: /not for two/ })
  assert.deepEqual(asked, ['one', 'two'])
})

test('a store that takes nothing ends the download with its own error', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  const node = await startNode(t)
  const partial = await node.store.openPartial(digest, MIB)
  partial.writeChunk = () => Promise.reject(new StoreFullError('disk', 'no room'))
  await assert.rejects(node.fetch(origin, digest), { name: 'StoreFullError' })
  assert.equal(await node.metric('shoal_downloads_active'), 0)
})

test('a peer that dies in the middle of a chunk is left, and the rest comes from elsewhere', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(4 * MIB)
  const reached = Promise.withResolvers<void>()
  let stuck = 0
  const dying =
    (honest: ChunkHandler): ChunkHandler =>
    async (request) => {
      const answer = await honest(request)
      if (answer.status !== 'ok' || request.index % 2 === 0) return answer
      stuck++
      reached.resolve()
      return { ...answer, read: () => new Promise(() => undefined) }
    }
  const dead = await startNode(t, { handler: dying })
  const node = await startNode(t)
  await meetAll([dead, node])
  await dead.fetch(origin, digest)
  const download = await node.download(origin, digest)
  await reached.promise
  await dead.stop()
  await download.done
  assert.ok(stuck >= 1)
  assert.deepEqual(await node.bytes(digest), origin.content(digest))
})

test('a peer that goes silent in the middle of a chunk has stalled, and is not waited for', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  const silent =
    (honest: ChunkHandler): ChunkHandler =>
    async (request) => {
      const answer = await honest(request)
      return answer.status === 'ok' ? { ...answer, read: () => new Promise(() => undefined) } : answer
    }
  const mute = await startNode(t, { handler: silent })
  const node = await startNode(t, { timings: { stallTimeoutMs: 200 } })
  await meetAll([mute, node])
  await mute.fetch(origin, digest)
  await node.fetch(origin, digest)
  assert.deepEqual(await node.bytes(digest), origin.content(digest))
  assert.ok((await node.metric('shoal_chunk_requests_failed_total', { reason: 'stalled' })) >= 1)
})

test('a busy peer is asked again when it said it may be', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  const refused = new Set<number>()
  const busy =
    (honest: ChunkHandler): ChunkHandler =>
    (request) => {
      if (refused.has(request.index)) return honest(request)
      refused.add(request.index)
      return { status: 'busy', retryAfterMs: 5 }
    }
  const seed = await startNode(t, { handler: busy })
  const node = await startNode(t)
  await meetAll([seed, node])
  await seed.fetch(origin, digest)
  const download = await node.fetch(origin, digest, false)
  assert.equal(download.fromPeersBytes, origin.size(digest))
  assert.equal(await node.metric('shoal_chunk_busy_total', { side: 'received' }), 8)
})

test('a resumed blob whose earlier chunks were wrong is fetched again instead of failing', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  const node: TestNode = await startNode(t)
  const partial = await node.store.openPartial(digest, 2 * MIB)
  const wrong = Buffer.alloc(CHUNK, 9)
  await partial.writeChunk(2, wrong, createHash('sha256').update(wrong).digest())
  await partial.close()
  await node.fetch(origin, digest)
  assert.deepEqual(await node.bytes(digest), origin.content(digest))
})
