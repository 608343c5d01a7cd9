import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect as connectTcp, type AddressInfo } from 'node:net'
import { suite, test } from 'node:test'
import { connect as connectTls, createServer as createTlsServer, type TLSSocket } from 'node:tls'
import { selfSignedCertificate } from './certificate.ts'
import { createIdentity, type Identity } from './identity.ts'
import type { ChunkHandler } from './network.ts'
import { SwarmKeys } from './swarm-key.ts'
import { testKey, testKeys } from './testing/planes.ts'
import {
  addressOf,
  bytesAnswer,
  dialRaw,
  DIGEST,
  metric,
  missing,
  serveRaw,
  startNode,
  wanted,
} from './testing/transfer.ts'
import { encodeRequest, frame, FRAME, numberFrame } from './transfer-frames.ts'
import { ownHello, TLS_OPTIONS } from './transfer-handshake.ts'

suite('transfer plane among strangers', () => {
  test('without the key, or with another one, nothing is learned', async (t) => {
    let asked = 0
    const server = await startNode(t, () => {
      asked += 1
      return { status: 'missing' }
    })
    const stranger = await startNode(t, missing, { swarmKeys: new SwarmKeys([testKey(9)]) })
    await assert.rejects(stranger.plane.fetch(server.address, wanted(Buffer.alloc(10))), { code: 'HANDSHAKE_FAILED' })
    await assert.rejects(server.plane.fetch(stranger.address, wanted(Buffer.alloc(10))), { code: 'HANDSHAKE_FAILED' })

    const raw = await dialRaw(t, server.plane.port)
    let heard = 0
    raw.on('data', (bytes: Buffer) => (heard += bytes.byteLength))
    raw.write(encodeRequest(1, { digest: DIGEST, index: 0, requestId: '' }))
    await once(raw, 'close')
    assert.equal(heard, 0)
    assert.equal(asked, 0)
    assert.ok((await metric(server, 'shoal_transfer_handshake_failures_total')) >= 3)
  })

  test('keys are rotated without a gap', async (t) => {
    const handler: ChunkHandler = () => bytesAnswer(Buffer.from('0123456789'))
    const of = (...keys: number[]) => startNode(t, handler, { swarmKeys: new SwarmKeys(keys.map(testKey)) })
    const [before, first, second, after] = await Promise.all([of(1), of(1, 2), of(2, 1), of(2)])
    for (const [a, b] of [
      [before, first],
      [first, second],
      [second, after],
    ] as const) {
      assert.equal((await a.plane.fetch(b.address, wanted(Buffer.alloc(10)))).status, 'ok')
      assert.equal((await b.plane.fetch(a.address, wanted(Buffer.alloc(10)))).status, 'ok')
    }
    await assert.rejects(before.plane.fetch(after.address, wanted(Buffer.alloc(10))), { code: 'HANDSHAKE_FAILED' })
  })

  test('somebody in between, with TLS of his own to both ends, is found out', async (t) => {
    let asked = 0
    const server = await startNode(t, () => {
      asked += 1
      return bytesAnswer(Buffer.from('0123456789'))
    })
    const client = await startNode(t, missing)
    const passed: Buffer[] = []
    const proxy = createTlsServer({
      ...TLS_OPTIONS,
      ALPNProtocols: [...TLS_OPTIONS.ALPNProtocols],
      ...selfSignedCertificate('shoal'),
    })
    proxy.on('secureConnection', (inbound) => {
      inbound.on('error', () => undefined)
      const outbound = connectTls({
        ...TLS_OPTIONS,
        ALPNProtocols: [...TLS_OPTIONS.ALPNProtocols],
        host: '127.0.0.1',
        port: server.plane.port,
        rejectUnauthorized: false,
      })
      outbound.on('error', () => undefined)
      inbound.on('data', (bytes: Buffer) => passed.push(bytes))
      inbound.pipe(outbound)
      outbound.pipe(inbound)
      inbound.on('close', () => outbound.destroy())
      outbound.on('close', () => inbound.destroy())
    })
    proxy.listen(0, '127.0.0.1')
    await once(proxy, 'listening')
    t.after(() => proxy.close())
    const through = addressOf(server.identity.peerId, (proxy.address() as AddressInfo).port)
    await assert.rejects(client.plane.fetch(through, wanted(Buffer.alloc(10))), { code: 'HANDSHAKE_FAILED' })
    assert.equal(asked, 0)
    assert.ok(!Buffer.concat(passed).includes(Buffer.from(DIGEST.slice(7), 'hex')), 'no digest went through')
  })

  test('another member at the address is not taken for the peer', async (t) => {
    const other = await startNode(t, missing)
    const client = await startNode(t, missing)
    const { peerId } = await createIdentity()
    const wrong = addressOf(peerId, other.plane.port)
    await assert.rejects(client.plane.fetch(wrong, wanted(Buffer.alloc(10))), { code: 'WRONG_PEER' })
  })

  test('a key alone does not make somebody else', async (t) => {
    const server = await startNode(t, missing)
    const [own, victim] = await Promise.all([createIdentity(), createIdentity()])
    const raw = await dialRaw(t, server.plane.port)
    const impostor: Identity = { ...victim, sign: (bytes) => own.sign(bytes) }
    let heard = 0
    raw.on('data', (bytes: Buffer) => (heard += bytes.byteLength))
    raw.write(ownHello(raw, 'client', { identity: impostor, swarmKeys: testKeys }))
    await once(raw, 'close')
    assert.equal(heard, 0)
  })

  test('a proof is of no use on another connection, or in the other role', async (t) => {
    const server = await startNode(t, missing)
    const identity = await createIdentity()
    const [first, second, third] = await Promise.all([1, 2, 3].map(() => dialRaw(t, server.plane.port)))
    const credentials = { identity, swarmKeys: testKeys }
    const hello = ownHello(first as TLSSocket, 'client', credentials)
    second?.write(hello)
    third?.write(ownHello(third, 'server', credentials))
    await Promise.all([second, third].map((socket) => once(socket as TLSSocket, 'close')))
    first?.write(hello)
    await once(first as TLSSocket, 'data')
  })

  test('connections that prove nothing are bounded in time and number', async (t) => {
    const server = await startNode(t, missing, { limits: { handshakeTimeoutMs: 200, maxUnproven: 3 } })
    const sockets = Array.from({ length: 6 }, () => {
      const socket = connectTcp(server.plane.port, '127.0.0.1')
      socket.on('error', () => undefined)
      t.after(() => socket.destroy())
      return once(socket, 'close')
    })
    const idle = await dialRaw(t, server.plane.port)
    await Promise.all([...sockets, once(idle, 'close')])
    assert.ok((await metric(server, 'shoal_transfer_handshake_failures_total')) >= 7)
  })

  test('a server that breaks the protocol is left', async (t) => {
    const identity = await createIdentity()
    const client = await startNode(t, missing)
    const data = (bytes: number): Buffer => frame(FRAME.data, 1, Buffer.alloc(bytes))
    const ok = (bytes: number): Buffer => numberFrame(FRAME.ok, 1, bytes)
    const broken: Record<string, Buffer> = {
      'data before ok': data(10),
      'another length': ok(11),
      'more data than announced': Buffer.concat([ok(10), data(11)]),
      'empty data': Buffer.concat([ok(10), data(0)]),
      'ok twice': Buffer.concat([ok(10), ok(10)]),
      'an answer to nothing': frame(FRAME.missing, 77),
      'an unknown kind': frame(200, 1),
      'a huge frame': Buffer.from([0xff, 0xff, 0xff, 0xff, FRAME.busy, 0, 0, 0, 1]),
      'a frame of no length': Buffer.from([0, 0, 0, 0, FRAME.busy, 0, 0, 0, 1]),
      'a huge data frame': Buffer.concat([ok(10), Buffer.from([0xff, 0xff, 0xff, 0xff, FRAME.data, 0, 0, 0, 1])]),
      'cancelled without a cancel': frame(FRAME.cancelled, 1),
      'busy without a time': frame(FRAME.busy, 1),
      'hello twice': frame(FRAME.hello, 0),
    }
    for (const [what, bytes] of Object.entries(broken)) {
      const port = await serveRaw(t, identity, (socket) => socket.write(bytes))
      const fetched = client.plane.fetch(addressOf(identity.peerId, port), wanted(Buffer.alloc(10)))
      await assert.rejects(fetched, { name: 'TransferError', code: 'PROTOCOL' }, what)
    }
  })

  test('a server that closes in the middle of a chunk', async (t) => {
    const identity = await createIdentity()
    const client = await startNode(t, missing)
    const port = await serveRaw(t, identity, (socket) => {
      socket.end(Buffer.concat([numberFrame(FRAME.ok, 1, 10), frame(FRAME.data, 1, Buffer.alloc(4))]))
    })
    const fetched = client.plane.fetch(addressOf(identity.peerId, port), wanted(Buffer.alloc(10)))
    await assert.rejects(fetched, { code: 'CLOSED' })
  })

  test('a client that breaks the protocol is left', async (t) => {
    const server = await startNode(t, missing)
    const identity = await createIdentity()
    const request = encodeRequest(1, { digest: DIGEST, index: 0, requestId: '' })
    const never = await startNode(t, () => new Promise(() => undefined))
    const broken: Record<string, Buffer> = {
      'an unknown kind': frame(200, 1),
      'hello twice': frame(FRAME.hello, 0, Buffer.alloc(200)),
      'a huge frame': Buffer.from([0x7f, 0xff, 0xff, 0xff, FRAME.request, 0, 0, 0, 1]),
      'a frame of no length': Buffer.from([0, 0, 0, 0, FRAME.request, 0, 0, 0, 1]),
      'a short request': frame(FRAME.request, 1, Buffer.alloc(3)),
      'no digest': frame(FRAME.request, 1, Buffer.from([0, 0, 0, 0, 0x99, 2, 1, 1])),
      'a number twice': Buffer.concat([request, request]),
    }
    for (const [what, bytes] of Object.entries(broken)) {
      const raw = await dialRaw(t, (what === 'a number twice' ? never : server).plane.port)
      const closed = once(raw, 'close')
      raw.resume()
      raw.write(ownHello(raw, 'client', { identity, swarmKeys: testKeys }))
      raw.write(bytes)
      await closed
    }
  })
})
