import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer as createTcpServer, type AddressInfo, type Socket } from 'node:net'
import { suite, test } from 'node:test'
import { createIdentity } from './identity.ts'
import type { ChunkHandler } from './network.ts'
import { freePort, until } from './testing/planes.ts'
import {
  addressOf,
  bytesAnswer,
  dialRaw,
  DIGEST,
  metric,
  MIB,
  missing,
  nextTurn,
  startNode,
  wanted,
  type Node,
} from './testing/transfer.ts'

suite('transfer plane', () => {
  test('a chunk arrives as it is, and the server knows who asks for what', async (t) => {
    const chunk = randomBytes(3 * MIB + 17)
    const requests: unknown[] = []
    let sent = 0
    const server = await startNode(t, (request) => {
      requests.push(request)
      return bytesAnswer(chunk, (bytes) => (sent += bytes))
    })
    const client = await startNode(t, missing)
    const into = Buffer.alloc(chunk.byteLength)
    let counted = 0
    const outcome = await client.plane.fetch(
      server.address,
      wanted(into, { index: 7, requestId: 'pull-1 with\nodd bytes', onBytes: (bytes) => (counted += bytes) }),
    )
    assert.deepEqual(outcome, { status: 'ok', receivedBytes: chunk.byteLength })
    assert.equal(Buffer.compare(into, chunk), 0)
    assert.equal(counted, chunk.byteLength)
    assert.deepEqual(requests, [
      { digest: DIGEST, index: 7, requestId: 'pull-1_with_odd_bytes', peerId: client.identity.peerId },
    ])
    await until(() => sent === chunk.byteLength, 'the answer is reported as sent')
    assert.equal(await metric(server, 'shoal_chunk_bytes_sent_total'), chunk.byteLength)
  })

  test('busy, missing and a failed read are told apart, on one connection', async (t) => {
    const server = await startNode(t, ({ index }) => {
      if (index === 0) return { status: 'busy', retryAfterMs: 123 }
      if (index === 1) return { status: 'missing' }
      if (index === 2) throw new Error('a mistake in the handler')
      if (index === 3) return Promise.reject(new Error('a mistake in the handler'))
      if (index === 4) {
        return { status: 'ok', lengthBytes: 10, read: () => Promise.reject(new Error('disk')), done: () => undefined }
      }
      return bytesAnswer(Buffer.from('0123456789'))
    })
    const client = await startNode(t, missing)
    const fetch = (index: number) => client.plane.fetch(server.address, wanted(Buffer.alloc(10), { index }))
    assert.deepEqual(await fetch(0), { status: 'busy', retryAfterMs: 123 })
    assert.deepEqual(await fetch(1), { status: 'missing' })
    for (const index of [2, 3, 4]) await assert.rejects(fetch(index), { name: 'TransferError', code: 'REMOTE_FAILED' })
    assert.deepEqual(await fetch(5), { status: 'ok', receivedBytes: 10 })
    assert.equal(await metric(client, 'shoal_transfer_connections'), 1)
  })

  test('busy overtakes a chunk whose read takes its time', async (t) => {
    const reading = Promise.withResolvers<void>()
    const server = await startNode(t, ({ index }) => {
      if (index === 1) return { status: 'busy', retryAfterMs: 5 }
      return { status: 'ok', lengthBytes: 10, read: () => reading.promise, done: () => undefined }
    })
    const client = await startNode(t, missing)
    const slow = client.plane.fetch(server.address, wanted(Buffer.alloc(10)))
    assert.deepEqual(await client.plane.fetch(server.address, wanted(Buffer.alloc(10), { index: 1 })), {
      status: 'busy',
      retryAfterMs: 5,
    })
    reading.resolve()
    assert.equal((await slow).status, 'ok')
  })

  test('many requests at once over one connection, both ways', async (t) => {
    const chunkOf = (index: number): Buffer => Buffer.alloc(300_000 + index, index + 1)
    const handler: ChunkHandler = ({ index }) => bytesAnswer(chunkOf(index))
    const a = await startNode(t, handler)
    const b = await startNode(t, handler)
    const fetchAll = async (from: Node, to: Node): Promise<void> => {
      await Promise.all(
        Array.from({ length: 60 }, async (_, index) => {
          const into = Buffer.alloc(300_000 + index)
          const outcome = await from.plane.fetch(to.address, wanted(into, { index }))
          assert.equal(outcome.status, 'ok')
          assert.equal(Buffer.compare(into, chunkOf(index)), 0)
        }),
      )
    }
    await Promise.all([fetchAll(a, b), fetchAll(b, a)])
    // One that was opened, one that was accepted.
    assert.equal(await metric(a, 'shoal_transfer_connections'), 2)
  })

  test('memory does not grow with the number of requests', async (t) => {
    const chunk = randomBytes(4 * MIB)
    const server = await startNode(t, () => bytesAnswer(chunk))
    const client = await startNode(t, missing)
    const into = Array.from({ length: 4 }, () => Buffer.alloc(chunk.byteLength))
    const round = async (): Promise<void> => {
      await Promise.all(into.map((buffer) => client.plane.fetch(server.address, wanted(buffer))))
    }
    await round()
    const before = process.memoryUsage()
    for (let count = 0; count < 12; count++) await round()
    const after = process.memoryUsage()
    // 192 MiB went through since.
    const grown = after.arrayBuffers + after.external - before.arrayBuffers - before.external
    assert.ok(grown < 24 * MIB, `${Math.round(grown / MIB)} MiB more in buffers`)
  })

  test('a cancelled request leaves the connection to the others', async (t) => {
    const gate = Promise.withResolvers<void>()
    const ended: number[] = []
    const chunk = Buffer.alloc(4 * MIB, 1)
    const server = await startNode(
      t,
      ({ index }) => {
        // It comes after the cancel.
        if (index === 1) gate.resolve()
        if (index !== 0) return bytesAnswer(chunk)
        // Half of it goes out, the rest waits.
        const read = async (offset: number, into: Uint8Array): Promise<void> => {
          if (offset >= 2 * MIB) await gate.promise
          chunk.copy(into, 0, offset, offset + into.byteLength)
        }
        return { status: 'ok', lengthBytes: chunk.byteLength, read, done: (sent) => ended.push(sent) }
      },
      { limits: { blockBytes: MIB } },
    )
    const client = await startNode(t, missing)
    const abort = new AbortController()
    const into = Buffer.alloc(chunk.byteLength)
    let received = 0
    const cancelled = client.plane.fetch(
      server.address,
      wanted(into, {
        signal: abort.signal,
        onBytes: (bytes) => {
          received += bytes
          if (received >= MIB) abort.abort()
        },
      }),
    )
    await assert.rejects(cancelled, { name: 'TransferError', code: 'ABORTED' })
    const atAbort = Buffer.from(into)
    const outcome = await client.plane.fetch(server.address, wanted(Buffer.alloc(chunk.byteLength), { index: 1 }))
    assert.equal(outcome.status, 'ok')
    assert.equal(ended.length, 1)
    assert.ok((ended[0] as number) < chunk.byteLength, 'the server stopped early')
    assert.equal(Buffer.compare(into, atAbort), 0, 'nothing is written into a buffer that was given up')
    assert.equal(await metric(client, 'shoal_transfer_connections'), 1)
  })

  test('a request that waits behind another is cancelled without a byte', async (t) => {
    const gate = Promise.withResolvers<void>()
    const started = Promise.withResolvers<void>()
    const ended: [number, number][] = []
    const server = await startNode(t, ({ index }) => ({
      status: 'ok',
      lengthBytes: 10,
      read: async () => {
        started.resolve()
        await gate.promise
      },
      done: (sent) => ended.push([index, sent]),
    }))
    const client = await startNode(t, missing)
    const first = client.plane.fetch(server.address, wanted(Buffer.alloc(10)))
    await started.promise
    const abort = new AbortController()
    const second = client.plane.fetch(server.address, wanted(Buffer.alloc(10), { index: 1, signal: abort.signal }))
    abort.abort()
    await assert.rejects(second, { code: 'ABORTED' })
    const third = client.plane.fetch(server.address, wanted(Buffer.alloc(10), { index: 2 }))
    gate.resolve()
    await Promise.all([first, third])
    // The cancel may arrive before its request was answered, or while it waits.
    assert.deepEqual(
      ended.filter(([, sent]) => sent > 0).map(([index]) => index),
      [0, 2],
    )
    assert.ok(ended.every(([index, sent]) => index !== 1 || sent === 0))
  })

  test('a banned peer is neither let in nor asked', async (t) => {
    const banned = await startNode(t, missing)
    const server = await startNode(t, missing, { isBanned: (peerId) => peerId === banned.identity.peerId })
    await assert.rejects(banned.plane.fetch(server.address, wanted(Buffer.alloc(10))), { code: 'HANDSHAKE_FAILED' })
    await assert.rejects(server.plane.fetch(banned.address, wanted(Buffer.alloc(10))), { code: 'UNREACHABLE' })
  })

  test('disconnect closes both directions and fails what is open', async (t) => {
    const never: ChunkHandler = () => new Promise(() => undefined)
    const a = await startNode(t, never)
    const b = await startNode(t, never)
    const requests = [
      a.plane.fetch(b.address, wanted(Buffer.alloc(1))),
      b.plane.fetch(a.address, wanted(Buffer.alloc(1))),
    ]
    for (const node of [a, b]) while ((await metric(node, 'shoal_transfer_connections')) < 2) await nextTurn()
    a.plane.disconnect(b.identity.peerId)
    for (const request of requests) await assert.rejects(request, { code: 'CLOSED' })
    for (const node of [a, b]) while ((await metric(node, 'shoal_transfer_connections')) > 0) await nextTurn()
  })

  test('a peer that restarts is reached again, without its callers noticing', async (t) => {
    const port = await freePort()
    const identity = await createIdentity()
    const handler: ChunkHandler = () => bytesAnswer(Buffer.from('0123456789'))
    const before = await startNode(t, handler, { identity, port })
    const client = await startNode(t, missing)
    await client.plane.fetch(before.address, wanted(Buffer.alloc(10)))
    await before.plane.stop()
    await startNode(t, handler, { identity, port })
    assert.equal((await client.plane.fetch(before.address, wanted(Buffer.alloc(10)))).status, 'ok')
  })

  test('nobody there, no address, and a listener that never answers', async (t) => {
    const client = await startNode(t, missing, { limits: { dialTimeoutMs: 300 } })
    const { peerId } = await createIdentity()
    const fetch = (transfer: string) =>
      client.plane.fetch({ ...addressOf(peerId, 1), transfer }, wanted(Buffer.alloc(10)))
    await assert.rejects(fetch(`127.0.0.1:${await freePort()}`), { code: 'UNREACHABLE' })
    await assert.rejects(fetch(''), { code: 'UNREACHABLE' })
    const mute = createTcpServer((socket: Socket) => t.after(() => socket.destroy())).listen(0, '127.0.0.1')
    await once(mute, 'listening')
    t.after(() => mute.close())
    await assert.rejects(fetch(`127.0.0.1:${(mute.address() as AddressInfo).port}`), { code: 'UNREACHABLE' })
  })

  test('a proven connection outlives the handshake deadline', async (t) => {
    const gate = Promise.withResolvers<void>()
    const limits = { handshakeTimeoutMs: 100 }
    const server = await startNode(
      t,
      async () => {
        await gate.promise
        return { status: 'missing' }
      },
      { limits },
    )
    const client = await startNode(t, missing)
    const request = client.plane.fetch(server.address, wanted(Buffer.alloc(10)))
    const deadlineOfAnother = await dialRaw(t, server.plane.port)
    // This one is cut off by the deadline, so the deadline of the first has passed as well.
    await once(deadlineOfAnother, 'close')
    gate.resolve()
    assert.deepEqual(await request, { status: 'missing' })
  })

  test('idle connections are closed', async (t) => {
    const server = await startNode(t, missing)
    const client = await startNode(t, missing, { limits: { idleTimeoutMs: 40 } })
    await client.plane.fetch(server.address, wanted(Buffer.alloc(10)))
    while ((await metric(client, 'shoal_transfer_connections')) > 0) await nextTurn()
    assert.deepEqual(await client.plane.fetch(server.address, wanted(Buffer.alloc(10))), { status: 'missing' })
  })

  test('requests are bounded at both ends', async (t) => {
    const never: ChunkHandler = () => new Promise(() => undefined)
    const server = await startNode(t, never, { limits: { maxRequestsPerConnection: 2 } })
    const client = await startNode(t, missing, { limits: { maxRequestsPerPeer: 3 } })
    const abort = new AbortController()
    const fetch = () => client.plane.fetch(server.address, wanted(Buffer.alloc(10), { signal: abort.signal }))
    const waiting = [fetch(), fetch()]
    assert.equal((await fetch()).status, 'busy')
    waiting.push(fetch())
    await assert.rejects(fetch(), { code: 'OVERLOADED' })
    await waiting.pop()
    abort.abort()
    for (const request of waiting) await assert.rejects(request, { code: 'ABORTED' })
  })

  test('a full pool makes room by closing what is idle', async (t) => {
    const client = await startNode(t, missing, { limits: { maxOutboundConnections: 2 } })
    const servers = await Promise.all([1, 2, 3].map(() => startNode(t, missing)))
    for (const { address } of [...servers, ...servers]) {
      assert.equal((await client.plane.fetch(address, wanted(Buffer.alloc(10)))).status, 'missing')
    }
    assert.equal(await metric(client, 'shoal_transfer_connections'), 2)
  })
})
