// Clients that take their time, against real sockets: whoever says nothing, or does not take what it asked for, is closed
// after a bounded time, on either kind of server.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { describe, it, type TestContext } from 'node:test'
import { promisify } from 'node:util'
import type { FastifyInstance } from 'fastify'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { OciError } from '@shoal/oci'
import type { ServerTls } from './api-access.ts'
import { createApiServer, type ApiServerOptions } from './api-server.ts'
import type { PushBackend } from './backend.ts'
import { registryPlugin } from './plugin.ts'
import { closeRegistryServer, createRegistryServer } from './server.ts'
import { LOGIN_LIMIT_MS, MANIFEST_LIMIT_MS } from './slow-clients.ts'
import { ask, MemoryBackend, rawConnection, readToEnd } from './testing.ts'
import { tokenEndpoint } from './token-endpoint.ts'

const MIB = 1024 * 1024
const LOGGER = pino({ level: 'silent' })
type Limits = Pick<ApiServerOptions, 'headersTimeoutMs' | 'answerLimitMs' | 'tls'>

interface Started {
  port: number
  /** The server's side of its first connection. */
  accepted: Promise<Socket>
}

async function start(t: TestContext, made: FastifyInstance): Promise<Started> {
  const { server } = made
  const accepted = once(server, 'connection').then(([socket]) => socket as Socket)
  t.after(async () => {
    server.closeAllConnections()
    await made.close()
  })
  await made.listen({ host: '127.0.0.1', port: 0 })
  return { port: (server.address() as AddressInfo).port, accepted }
}

async function startRegistry(t: TestContext, limits: Limits, backend = new MemoryBackend()): Promise<Started> {
  const { tls, ...others } = limits
  // With pushes, whose requests may last for hours.
  const server = createRegistryServer({ logger: LOGGER, push: true, ...others, ...(tls ? { tls } : {}) })
  await server.register(registryPlugin, { backend })
  return await start(t, server)
}

function makeApi(limits: Limits): FastifyInstance {
  const protection = { tokens: undefined, needsToken: 'nothing', advice: '' } as const
  return createApiServer({ logger: LOGGER, registry: new Registry(), isReady: () => true, protection, ...limits })
}

const startApi = (t: TestContext, limits: Limits): Promise<Started> => start(t, makeApi(limits))

const SERVERS = { 'a registry endpoint': startRegistry, 'an API of a daemon': startApi }

async function makeTls(t: TestContext): Promise<ServerTls> {
  const folder = await mkdtemp(join(tmpdir(), 'shoal-slow-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  await promisify(execFile)('openssl', ['req', '-x509', ...curve, '-subj', '/CN=x', '-keyout', key, '-out', cert])
  return { key: await readFile(key, 'utf8'), cert: await readFile(cert, 'utf8') }
}

for (const [what, startServer] of Object.entries(SERVERS)) {
  describe(what, () => {
    for (const [how, said] of Object.entries({
      'never says a word': '',
      'stops in the middle of its headers': 'GET /v2/ HTTP/1.1\r\nHost: x\r\n',
      'stops in the middle of the headers of its second request':
        'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n',
    })) {
      it(`closes a connection that ${how}`, async (t) => {
        const { port } = await startServer(t, { headersTimeoutMs: 400 })
        const { ended } = await readToEnd(await rawConnection(port, said))
        assert.equal(ended, 'fin')
      })
    }

    it('closes a connection that never says a word of TLS', async (t) => {
      const { port } = await startServer(t, { headersTimeoutMs: 400, tls: await makeTls(t) })
      const socket = connect({ host: '127.0.0.1', port })
      await readToEnd(socket)
    })

    it('does not wait for a client to close its side of a connection that has ended', async (t) => {
      t.mock.timers.enable({ apis: ['setTimeout'] })
      const { port, accepted } = await startServer(t, {})
      const client = connect({ host: '127.0.0.1', port, allowHalfOpen: true })
      t.after(() => client.destroy())
      client.resume().write('this is not HTTP\r\n\r\n')
      await once(client, 'end')
      const socket = await accepted
      const closed = socket.closed ? undefined : once(socket, 'close')
      t.mock.timers.tick(5_000)
      await closed
    })
  })
}

it('an API of a daemon does not wait for a body that does not come', async (t) => {
  const api = makeApi({ headersTimeoutMs: 400 })
  api.post('/api/v1/things', () => ({}))
  const { port } = await start(t, api)
  const head = 'POST /api/v1/things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{'
  await readToEnd(await rawConnection(port, head))
})

describe('a small body that trickles in', () => {
  const heads = {
    'a manifest': {
      head: 'PUT /v2/a/manifests/1 HTTP/1.1\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n',
      limitMs: MANIFEST_LIMIT_MS,
    },
    'a login': {
      head: 'POST /token HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\n',
      limitMs: LOGIN_LIMIT_MS,
    },
  }
  for (const [what, { head, limitMs }] of Object.entries(heads)) {
    it(`is not waited for without end: ${what}`, async (t) => {
      t.mock.timers.enable({ apis: ['setTimeout'] })
      const server = createRegistryServer({ logger: LOGGER, push: true })
      const issue = () => Promise.reject(new Error('nobody has said who they are'))
      await server.register(tokenEndpoint, { path: '/token', refreshTokens: 'refused', issue })
      await server.register(registryPlugin, { backend: new MemoryBackend(), push: {} as PushBackend })
      const { port, accepted } = await start(t, server)
      const client = await rawConnection(port, `${head}Host: x\r\nContent-Length: 100\r\n\r\n{`)
      client.on('error', () => undefined).resume()
      const closed = once(await accepted, 'close')
      // It counts from when the request was read.
      const passing = setInterval(() => t.mock.timers.tick(limitMs), 20)
      t.after(() => clearInterval(passing))
      await closed
    })
  }
})

it('a body for a path where nothing is keeps no place', { timeout: 30_000 }, async (t) => {
  const server = createRegistryServer({ logger: LOGGER, push: true, leftoverBodyMs: 50, overload: { maxRequests: 1 } })
  await server.register(registryPlugin, { backend: new MemoryBackend(), push: {} as PushBackend })
  const { port } = await start(t, server)
  for (const type of ['application/json', 'text/plain', 'image/png']) {
    const head = `POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Type: ${type}\r\nContent-Length: 100\r\n\r\n{`
    const { bytes } = await readToEnd(await rawConnection(port, head))
    assert.match(bytes.toString(), /^HTTP\/1\.1 404 /)
  }
  assert.equal((await ask(port, '/v2/')).status, 200)
})

it('a body of who may not push is not waited for, and keeps no place', { timeout: 30_000 }, async (t) => {
  const server = createRegistryServer({ logger: LOGGER, push: true, leftoverBodyMs: 50, overload: { maxRequests: 1 } })
  const mayPush = () => Promise.reject(new OciError('UNAUTHORIZED', 'log in first'))
  await server.register(registryPlugin, {
    backend: new MemoryBackend(),
    push: { mayPush } as unknown as PushBackend,
  })
  const { port } = await start(t, server)
  const requests = ['PUT /v2/a/manifests/1', 'POST /v2/a/blobs/uploads/', 'PATCH /v2/a/blobs/uploads/x']
  for (const line of requests) {
    const request = `${line} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{`
    const { bytes } = await readToEnd(await rawConnection(port, request))
    assert.match(bytes.toString(), /^HTTP\/1\.1 401 /, line)
  }
  assert.equal((await ask(port, '/v2/')).status, 200)
})

it('closes an idle connection whose upload was refused', { timeout: 30_000 }, async (t) => {
  const server = createRegistryServer({ logger: LOGGER, push: true, keepAliveTimeoutMs: 50 })
  const appendUpload = () => Promise.reject(new OciError('BLOB_UPLOAD_UNKNOWN', 'there is no such upload'))
  await server.register(registryPlugin, {
    backend: new MemoryBackend(),
    push: { appendUpload } as unknown as PushBackend,
  })
  const { port } = await start(t, server)
  const request = 'PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello'
  const { bytes } = await readToEnd(await rawConnection(port, request))
  assert.match(bytes.toString(), /^HTTP\/1\.1 404 /)
})

describe('closing does not wait for a TLS handshake', () => {
  const servers = {
    'of a registry endpoint': (tls: ServerTls) => {
      const server = createRegistryServer({ logger: LOGGER, tls })
      return { server, close: () => closeRegistryServer(server, 50) }
    },
    'of an API of a daemon': (tls: ServerTls) => {
      const server = makeApi({ tls })
      return { server, close: () => server.close() }
    },
  }
  for (const [what, make] of Object.entries(servers)) {
    it(what, { timeout: 30_000 }, async (t) => {
      const { server, close } = make(await makeTls(t))
      const { port, accepted } = await start(t, server)
      const client = connect({ host: '127.0.0.1', port }).on('error', () => undefined)
      t.after(() => client.destroy())
      await accepted
      await close()
    })
  }
})

/** What nobody's system takes into its buffers. */
const LARGE = 'x'.repeat(64 * MIB)

/** Asks for an answer and takes nothing of it; ends when the server has closed the connection. */
async function takeNothing(t: TestContext, { port, accepted }: Started, path: string): Promise<void> {
  const client = await rawConnection(port, `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)
  client.pause().on('error', () => undefined)
  t.after(() => client.destroy())
  const socket = await accepted
  await once(socket, 'close')
  assert.ok(socket.bytesWritten > 0, 'the answer was begun')
}

describe('an answer that is whole in memory', () => {
  it('is not kept for a registry client that does not take it', async (t) => {
    const backend = new MemoryBackend()
    backend.addManifest('big', LARGE)
    await takeNothing(t, await startRegistry(t, { answerLimitMs: 300 }, backend), '/v2/a/manifests/big')
  })

  it('is not kept for a client of an API that does not take it', async (t) => {
    const api = makeApi({ answerLimitMs: 300 })
    api.get('/api/v1/big', () => LARGE)
    await takeNothing(t, await start(t, api), '/api/v1/big')
  })

  it('leaves the connection open when it was taken', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const { port } = await startApi(t, { answerLimitMs: 1_000 })
    const request = 'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n'
    const client = await rawConnection(port, request)
    t.after(() => client.destroy())
    await once(client, 'data')
    t.mock.timers.tick(60_000)
    client.write(request)
    const [second] = (await once(client, 'data')) as [Buffer]
    assert.match(second.toString(), /^HTTP\/1\.1 200 /)
  })
})

it('a stream of events outlasts the limit for answers', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const api = makeApi({ answerLimitMs: 1_000 })
  const events = new PassThrough()
  api.get('/api/v1/events', (_request, reply) => reply.send(events))
  const { port } = await start(t, api)
  const client = await rawConnection(port, 'GET /api/v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  events.write('first')
  await once(client, 'data')
  t.mock.timers.tick(60_000)
  events.end('last')
  assert.match((await readToEnd(client)).bytes.toString(), /last/)
})
