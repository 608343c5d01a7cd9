import { test } from 'node:test'
import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { FastifyRequest } from 'fastify'
import { pino } from 'pino'
import { endpointOf } from './call.ts'
import { ask, MemoryBackend, rawConnection, readToEnd, startServer } from './testing.ts'

test('a TLS handshake on the plain port is closed without an error in the log', async () => {
  const lines: string[] = []
  const logger = pino({ level: 'info' }, { write: (line: string) => lines.push(line) })
  await using server = await startServer({ backend: new MemoryBackend() }, { logger })
  const socket = await rawConnection(server.port, Buffer.from('16030100a5010000a10303', 'hex'))
  const { bytes } = await readToEnd(socket)
  assert.match(bytes.toString(), /^HTTP\/1\.1 400 /)
  assert.deepEqual(
    lines.filter((line) => !line.includes('Server listening')),
    [],
  )
  assert.equal((await ask(server.port, '/v2/')).status, 200)
})

test('a Host header that is no host makes no URL', () => {
  const endpointFor = (host?: string) => endpointOf({ headers: { host }, protocol: 'http' } as FastifyRequest)
  assert.equal(endpointFor('registry.example.com:9000'), 'http://registry.example.com:9000')
  assert.equal(endpointFor('[::1]:9000'), 'http://[::1]:9000')
  for (const host of [undefined, 'a:b:c', '[::1', 'a:99999', 'a b']) assert.equal(endpointFor(host), undefined, host)
})

test('headers that are too large are refused with an OCI error', async () => {
  await using server = await startServer({ backend: new MemoryBackend() })
  const socket = await rawConnection(server.port, `GET /v2/ HTTP/1.1\r\nX-Long: ${'x'.repeat(20_000)}\r\n\r\n`)
  const { bytes } = await readToEnd(socket)
  assert.match(bytes.toString(), /^HTTP\/1\.1 431 .*"errors"/s)
})

test('connections are kept for longer than containerd keeps them', async () => {
  await using server = await startServer({ backend: new MemoryBackend() }, { push: true })
  assert.ok(server.server.server.keepAliveTimeout >= 60_000)
  assert.equal(server.server.server.requestTimeout, 0)
  const socket = await rawConnection(server.port, 'GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n')
  await once(socket, 'data')
  socket.write('GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n')
  const [second] = (await once(socket, 'data')) as [Buffer]
  assert.match(second.toString(), /^HTTP\/1\.1 200 /)
  socket.destroy()
})

test('a body that nobody wants and that has no end is cut off', async () => {
  await using server = await startServer({ backend: new MemoryBackend() }, { leftoverBodyMs: 50 })
  const socket = await rawConnection(
    server.port,
    'PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n',
  )
  const { bytes } = await readToEnd(socket)
  assert.match(bytes.toString(), /^HTTP\/1\.1 405 /)
})
