import { test } from 'node:test'
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { BlobFile } from './backend.ts'
import type { BlobBodyResult } from './blob-body.ts'
import { sendBlobFile } from './blob-file.ts'
import { ask, MemoryBackend, rawConnection, readToEnd, startServer } from './testing.ts'

const MIB = 1024 * 1024

interface TestFile extends BlobFile {
  readBytes: number
  closed: Promise<void>
}

function fileOf(bytes: Buffer, fail: (position: number) => Error | 'end' | undefined = () => undefined): TestFile {
  const closed = Promise.withResolvers<void>()
  return {
    readBytes: 0,
    closed: closed.promise,
    async read(position, into) {
      const failure = fail(position)
      if (failure instanceof Error) throw failure
      if (failure === 'end') return 0
      const count = Math.min(into.byteLength, bytes.length - position, 700_000)
      into.set(bytes.subarray(position, position + count))
      this.readBytes += count
      return count
    },
    async close() {
      closed.resolve()
    },
  }
}

function backendWith(bytes: Buffer, file: BlobFile): { backend: MemoryBackend; path: string } {
  const backend = new MemoryBackend()
  const digest = backend.addBlob(bytes, () => assert.fail('the file is there to be used'))
  const answer = backend.blobs.get(digest)
  assert.ok(answer)
  answer.openFile = async () => file
  return { backend, path: `/v2/a/blobs/${digest}` }
}

test('a file arrives unchanged, whole and in parts, again and again', async () => {
  const bytes = randomBytes(5 * MIB + 77)
  const file = fileOf(bytes)
  const { backend, path } = backendWith(bytes, file)
  await using server = await startServer({ backend })
  for (let round = 0; round < 3; round++) {
    assert.ok((await ask(server.port, path)).body.equals(bytes))
    const part = await ask(server.port, path, { headers: { range: 'bytes=100-3000000' } })
    assert.ok(part.body.equals(bytes.subarray(100, 3_000_001)))
    const small = await ask(server.port, path, { headers: { range: 'bytes=-5' } })
    assert.ok(small.body.equals(bytes.subarray(-5)))
  }
  const answers = await Promise.all(Array.from({ length: 12 }, () => ask(server.port, path)))
  for (const answer of answers) assert.ok(answer.body.equals(bytes))
  await file.closed
})

test('a file that fails at once is answered with an error', async () => {
  const file = fileOf(Buffer.alloc(10), () => new Error('disk'))
  const { backend, path } = backendWith(Buffer.alloc(10), file)
  await using server = await startServer({ backend })
  assert.equal((await ask(server.port, path)).status, 500)
  await file.closed
})

test('a file that fails in the middle ends the connection with FIN', async () => {
  for (const failure of [new Error('disk'), 'end' as const]) {
    const bytes = randomBytes(3 * MIB)
    const file = fileOf(bytes, (position) => (position > 2 * MIB ? failure : undefined))
    const { backend, path } = backendWith(bytes, file)
    await using server = await startServer({ backend })
    const socket = await rawConnection(server.port, `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)
    const { bytes: received, ended } = await readToEnd(socket)
    assert.equal(ended, 'fin')
    const body = received.subarray(received.indexOf('\r\n\r\n') + 4)
    assert.ok(body.length > 2 * MIB && body.length < bytes.length)
    assert.ok(body.equals(bytes.subarray(0, body.length)))
    await file.closed
  }
})

test('a client that goes away, or takes nothing, ends the reading', async () => {
  for (const stalls of [true, false]) {
    const bytes = Buffer.alloc(64 * MIB)
    const file = fileOf(bytes)
    const { backend, path } = backendWith(bytes, file)
    await using server = await startServer({ backend, clientStallMs: stalls ? 150 : 60_000 })
    const socket = await rawConnection(server.port, `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)
    await once(socket, 'readable')
    if (!stalls) socket.destroy()
    await file.closed
    assert.ok(file.readBytes < 32 * MIB, `${file.readBytes} bytes were read for nobody`)
    socket.destroy()
  }
})

test('a client that goes away while the last piece is read is known to have gone', async (t) => {
  const result = Promise.withResolvers<BlobBodyResult>()
  const server = createServer((_request, response) => {
    const closed = once(response, 'close')
    const file: BlobFile = {
      async read(position) {
        if (position > 0) {
          client.destroy()
          await closed
        }
        return 5
      },
      close: async () => undefined,
    }
    const begin = () => void response.writeHead(200, { 'content-length': 10 })
    const options = { lengthBytes: 10, headerGraceMs: 5_000, clientStallMs: 5_000, begin, onBytes: () => undefined }
    result.resolve(sendBlobFile(file, 0, response, options))
  })
  t.after(() => server.close())
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const client = await rawConnection((server.address() as AddressInfo).port, 'GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  client.resume()
  assert.deepEqual(await result.promise, { end: 'client-gone' })
})
