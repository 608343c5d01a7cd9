import { test, type TestContext } from 'node:test'
import assert from 'node:assert/strict'
import { Agent, request } from 'node:http'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { ApiTokens } from './api-access.ts'
import { createApiServer, type ApiServerOptions } from './api-server.ts'
import { ask, MemoryBackend, rawConnection, readToEnd, startServer } from './testing.ts'

test('more requests than allowed are answered 503 with a time to come back, and the next ones are served again', async () => {
  const backend = new MemoryBackend()
  const gate = Promise.withResolvers<void>()
  const tags = backend.tags.bind(backend)
  backend.tags = async (...args) => {
    await gate.promise
    return await tags(...args)
  }
  await using server = await startServer({ backend }, { overload: { maxRequests: 2 } })
  const waiting = [1, 2].map(() => ask(server.port, '/v2/a/tags/list'))
  let refused = await ask(server.port, '/v2/')
  // The first two may not have been read yet.
  while (refused.status === 200) refused = await ask(server.port, '/v2/')
  assert.equal(refused.status, 503)
  assert.match(refused.headers['retry-after'] ?? '', /^[1-5]$/)
  assert.equal(refused.json().errors[0]?.code, 'UNAVAILABLE')
  gate.resolve()
  for (const { status } of await Promise.all(waiting)) assert.equal(status, 200)
  assert.equal((await ask(server.port, '/v2/')).status, 200)
})

test('clients that go away in the middle give their places back', async () => {
  const backend = new MemoryBackend()
  let asked = 0
  backend.tags = () => {
    asked++
    return new Promise(() => undefined)
  }
  await using server = await startServer({ backend }, { overload: { maxRequests: 2 } })
  for (let count = 1; count <= 5; count++) {
    const socket = await rawConnection(server.port, 'GET /v2/a/tags/list HTTP/1.1\r\nHost: x\r\n\r\n')
    while (asked < count) await new Promise((resolve) => setImmediate(resolve))
    const closed = once(socket, 'close')
    socket.destroy()
    await closed
    // The server hears of it a moment later.
    while ((await ask(server.port, '/v2/')).status !== 200) await new Promise((resolve) => setImmediate(resolve))
  }
})

test('an event loop that is far behind is said to be so', async () => {
  await using server = await startServer({ backend: new MemoryBackend() }, { overload: { maxEventLoopDelayMs: 20 } })
  const agent = new Agent({ keepAlive: true })
  const endMs = performance.now() + 20_000
  let status = 200
  while (status === 200 && performance.now() < endMs) {
    const until = performance.now() + 60
    while (performance.now() < until);
    const outgoing = request({ host: '127.0.0.1', port: server.port, path: '/v2/', agent }).end()
    const [response] = (await once(outgoing, 'response')) as [{ statusCode: number; resume: () => void }]
    response.resume()
    status = response.statusCode
  }
  agent.destroy()
  assert.equal(status, 503)
  while ((await ask(server.port, '/v2/')).status !== 200) await new Promise((resolve) => setTimeout(resolve, 20))
})

/** An API like those of agent and tracker, with a request that waits for `gate`. */
async function startApi(t: TestContext, gate: Promise<void>, options: Partial<ApiServerOptions> = {}) {
  const api = createApiServer({
    logger: pino({ level: 'silent' }),
    registry: new Registry(),
    isReady: () => true,
    protection: { tokens: undefined, needsToken: 'nothing', advice: '' },
    ...options,
  })
  let waiting = 0
  api.get('/api/v1/slow', async () => {
    waiting++
    await gate
    return { done: true }
  })
  await api.listen({ host: '127.0.0.1', port: 0 })
  t.after(() => api.close())
  return { port: (api.server.address() as AddressInfo).port, waiting: () => waiting }
}

test('the API of a daemon refuses what is too much, and goes on to tell of health and metrics', async (t) => {
  const gate = Promise.withResolvers<void>()
  const { port, waiting } = await startApi(t, gate.promise, { overload: { maxRequests: 2 } })
  const begun = [1, 2].map(() => ask(port, '/api/v1/slow'))
  while (waiting() < 2) await new Promise((resolve) => setImmediate(resolve))
  for (const path of ['/api/v1/slow', '/api/v1/unknown', '/healthz/x']) {
    const refused = await ask(port, path)
    assert.equal(refused.status, 503, path)
    assert.match(refused.headers['retry-after'] ?? '', /^[1-5]$/)
    assert.match(refused.text, /takes no more requests now \(2 requests are under way\): try again in [1-5] s/)
  }
  for (const path of ['/healthz', '/readyz', '/metrics', '/healthz?x=1']) {
    assert.equal((await ask(port, path)).status, 200, path)
  }
  assert.equal(waiting(), 2, 'what was refused was not begun')
  gate.resolve()
  for (const { status } of await Promise.all(begun)) assert.equal(status, 200)
  assert.equal((await ask(port, '/api/v1/slow')).status, 200)
})

test('the API of a daemon takes a hundred requests at once unless told otherwise', async (t) => {
  const gate = Promise.withResolvers<void>()
  const { port, waiting } = await startApi(t, gate.promise)
  const begun = Array.from({ length: 100 }, () => ask(port, '/api/v1/slow'))
  while (waiting() < 100) await new Promise((resolve) => setImmediate(resolve))
  assert.equal((await ask(port, '/api/v1/slow')).status, 503)
  gate.resolve()
  for (const { status } of await Promise.all(begun)) assert.equal(status, 200)
})

test('a guess at a token takes a place like any other request', async (t) => {
  const gate = Promise.withResolvers<void>()
  const protection = { tokens: new ApiTokens(['token-of-the-operator']), needsToken: 'all', advice: '' } as const
  const { port, waiting } = await startApi(t, gate.promise, { protection, overload: { maxRequests: 1 } })
  const headers = { authorization: 'Bearer token-of-the-operator' }
  const begun = ask(port, '/api/v1/slow', { headers })
  while (waiting() < 1) await new Promise((resolve) => setImmediate(resolve))
  assert.equal((await ask(port, '/api/v1/slow')).status, 503)
  gate.resolve()
  assert.equal((await begun).status, 200)
  assert.equal((await ask(port, '/api/v1/slow')).status, 401)
})

test('a process without a free descriptor goes on, and serves when it has some again', async () => {
  const program = `
    import { openSync, closeSync } from 'node:fs'
    import { mock } from 'node:test'
    import { ask, MemoryBackend, startServer } from '${import.meta.resolve('./testing.ts')}'
    mock.timers.enable({ apis: ['setInterval', 'setTimeout'] })
    const server = await startServer({ backend: new MemoryBackend() })
    await ask(server.port, '/v2/')
    const taken = []
    try { for (;;) taken.push(openSync('/dev/null')) } catch (error) { if (error.code !== 'EMFILE') throw error }
    // Everything that is looked at now and then is looked at now.
    mock.timers.tick(60_000)
    for (const descriptor of taken) closeSync(descriptor)
    // That minute took no time, so the event loop does not count as late.
    const { status } = await ask(server.port, '/v2/')
    process.stdout.write(String(status), () => process.exit())
  `
  const command = ['-c', 'ulimit -n 128; exec "$0" "$@"', process.execPath, '--input-type=module', '--eval', program]
  const { stdout } = await promisify(execFile)('bash', command, { timeout: 60_000 })
  assert.equal(stdout, '200')
})

test('a thousand idle connections cost no request its answer', async (t) => {
  await using server = await startServer({ backend: new MemoryBackend() })
  const idle = await Promise.all(Array.from({ length: 1000 }, () => rawConnection(server.port, 'GET /v2/ HTT')))
  t.after(() => idle.forEach((socket) => socket.destroy()))
  assert.equal((await ask(server.port, '/v2/')).status, 200)
  const [slow] = idle
  slow?.write('P/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  assert.ok(slow !== undefined)
  assert.match((await readToEnd(slow)).bytes.toString(), /^HTTP\/1\.1 200 /)
})
