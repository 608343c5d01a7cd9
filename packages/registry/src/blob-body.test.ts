import { test } from 'node:test'
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Readable } from 'node:stream'
import type { RequestContext } from './backend.ts'
import { ask, MemoryBackend, rawConnection, readToEnd, startServer } from './testing.ts'

const MIB = 1024 * 1024

test('a backend that fails before the first byte is answered with an error', async () => {
  const backend = new MemoryBackend()
  const digest = backend.addBlob(Buffer.alloc(100), () => new Readable({ read: fail }))
  await using server = await startServer({ backend })
  const answer = await ask(server.port, `/v2/a/blobs/${digest}`, { headers: { range: 'bytes=5-' } })
  assert.equal(answer.status, 500)
  assert.equal(answer.json().errors[0]?.code, 'UNKNOWN')
  for (const name of ['content-range', 'docker-content-digest', 'etag']) assert.equal(answer.headers[name], undefined)
})

function fail(this: Readable): void {
  this.destroy(new Error('no byte'))
}

test('a backend that fails in the middle ends the connection with FIN, short of the length', async () => {
  for (const failure of ['error', 'end', 'close'] as const) {
    const backend = new MemoryBackend()
    const source = new Readable({ read() {} })
    const digest = backend.addBlob(Buffer.alloc(100), () => source)
    await using server = await startServer({ backend })
    const socket = await rawConnection(server.port, `GET /v2/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`)
    source.push(Buffer.alloc(40, 'x'))
    const reading = readToEnd(socket)
    await once(socket, 'data')
    if (failure === 'error') source.destroy(new Error('cut'))
    else if (failure === 'end') source.push(null)
    else source.destroy()
    const { bytes, ended } = await reading
    assert.equal(ended, 'fin')
    const text = bytes.toString()
    assert.match(text, /content-length: 100/i)
    assert.ok(text.endsWith('\r\n\r\n' + 'x'.repeat(40)), failure)
    assert.equal(source.destroyed, true)
  }
})

test('a backend that gives too much is cut off, not passed on', async () => {
  const backend = new MemoryBackend()
  const digest = backend.addBlob(Buffer.alloc(10), () => Readable.from([Buffer.alloc(5), Buffer.alloc(50)]))
  await using server = await startServer({ backend })
  const socket = await rawConnection(server.port, `GET /v2/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`)
  const { bytes, ended } = await readToEnd(socket)
  assert.equal(ended, 'fin')
  assert.ok(bytes.length - bytes.indexOf('\r\n\r\n') - 4 <= 10)
})

test('headers go out when the first byte takes long', async () => {
  const backend = new MemoryBackend()
  const source = new Readable({ read() {} })
  const digest = backend.addBlob(Buffer.alloc(3), () => source)
  await using server = await startServer({ backend, headerGraceMs: 20 })
  const socket = await rawConnection(server.port, `GET /v2/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`)
  const [head] = (await once(socket, 'data')) as [Buffer]
  assert.match(head.toString(), /^HTTP\/1\.1 200 .*\r\n\r\n$/s)
  source.push('abc')
  source.push(null)
  const [body] = (await once(socket, 'data')) as [Buffer]
  assert.equal(body.toString(), 'abc')
  socket.destroy()
})

test('a client that goes away stops the work', async () => {
  const backend = new MemoryBackend()
  const source = new Readable({ read() {} })
  let context: RequestContext | undefined
  const digest = backend.addBlob(Buffer.alloc(100), () => source)
  const blob = backend.blob.bind(backend)
  backend.blob = (given, name, wanted) => {
    context = given as RequestContext
    return blob(given, name, wanted)
  }
  await using server = await startServer({ backend })
  const socket = await rawConnection(server.port, `GET /v2/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`)
  source.push('abc')
  await once(socket, 'data')
  assert.ok(context)
  const aborted = once(context.signal, 'abort')
  const closed = once(source, 'close')
  socket.destroy()
  await Promise.all([aborted, closed])
  assert.equal(context.signal.aborted, true)
})

test('a client that goes away while the backend still thinks aborts it', async () => {
  const backend = new MemoryBackend()
  const asked = Promise.withResolvers<RequestContext>()
  const stopped = Promise.withResolvers<void>()
  backend.manifest = async (given) => {
    const context = given as RequestContext
    asked.resolve(context)
    await once(context.signal, 'abort')
    stopped.resolve()
    throw context.signal.reason as Error
  }
  await using server = await startServer({ backend })
  const socket = await rawConnection(server.port, 'GET /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\n\r\n')
  const context = await asked.promise
  assert.equal(context.signal.aborted, false)
  socket.destroy()
  await stopped.promise
})

test('a slow client holds the backend back, and is cut off when it takes nothing', async () => {
  const backend = new MemoryBackend()
  let given = 0
  const source = new Readable({
    highWaterMark: MIB,
    read() {
      given += MIB
      this.push(Buffer.alloc(MIB))
    },
  })
  const digest = backend.addBlob(Buffer.alloc(0), () => source)
  const answer = backend.blobs.get(digest)
  assert.ok(answer)
  answer.sizeBytes = 1024 * MIB
  await using server = await startServer({ backend, clientStallMs: 200 })
  const socket = await rawConnection(server.port, `GET /v2/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`)
  socket.pause()
  await once(source, 'close')
  assert.ok(given < 64 * MIB, `${given} bytes were read for a client that takes none`)
  socket.destroy()
})

test('bytes arrive unchanged, whatever pieces they come in', async () => {
  const bytes = Buffer.alloc(5 * MIB + 12345)
  for (let at = 0; at < bytes.length; at += 4)
    bytes.writeUInt32LE((at * 2654435761) >>> 0, Math.min(at, bytes.length - 4))
  const backend = new MemoryBackend()
  const digest = backend.addBlob(bytes, (start, end) => {
    const pieces: Buffer[] = []
    for (let at = start; at <= end; at += 777_777) pieces.push(bytes.subarray(at, Math.min(at + 777_777, end + 1)))
    return Readable.from(pieces)
  })
  await using server = await startServer({ backend })
  const path = `/v2/a/blobs/${digest}`
  assert.ok((await ask(server.port, path)).body.equals(bytes))
  const part = await ask(server.port, path, { headers: { range: 'bytes=1000000-4000000' } })
  assert.ok(part.body.equals(bytes.subarray(1_000_000, 4_000_001)))
})
