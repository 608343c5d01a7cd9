import assert from 'node:assert/strict'
import net, { type AddressInfo } from 'node:net'
import { test } from 'node:test'
import fc from 'fast-check'
import { resolveLimits } from './options.ts'
import { parseRetryAfter, withRetries } from './retry.ts'
import {
  fails,
  manifestDigest,
  requestOptions,
  sendError,
  sendManifest,
  startServer,
  startUpstream,
  targetAt,
} from './testing.ts'
import { UpstreamError } from './upstream.ts'

test('errors of the server and resets are asked again, and then it works', async (t) => {
  const server = await startServer(t, (request, response, number) => {
    if (number === 1) response.socket?.resetAndDestroy()
    else if (number === 2) sendError(response, 502, 'UNKNOWN')
    else sendManifest(request, response)
  })
  const head = await startUpstream(t).headManifest(targetAt(server.host), '1.0', requestOptions())
  assert.equal(head.digest, manifestDigest)
  assert.equal(server.seen.length, 3)
})

test('a manifest that is cut in the middle is asked again', async (t) => {
  const server = await startServer(t, (request, response, number) => {
    if (number > 1) return sendManifest(request, response)
    response.writeHead(200, { 'content-length': 5000 })
    response.write('{', () => response.socket?.end())
  })
  const body = await startUpstream(t).getManifest(targetAt(server.host), '1.0', requestOptions())
  assert.equal(body.digest, manifestDigest)
})

test('whoever has no more time is told what was waited for; whoever goes away is told that', async (t) => {
  const server = await startServer(t, (_request, response) => {
    sendError(response, 429, 'TOOMANYREQUESTS', { 'retry-after': '9' })
  })
  const upstream = startUpstream(t)
  const ask = (signal: AbortSignal) => upstream.headManifest(targetAt(server.host), '1.0', requestOptions({ signal }))
  await assert.rejects(ask(AbortSignal.timeout(500)), (error: UpstreamError) => {
    assert.equal(error.retryAfterMs, 9000)
    return fails('RATE_LIMITED')(error)
  })
  const gone = new AbortController()
  const asking = ask(gone.signal)
  while (server.seen.length < 2) await new Promise((resolve) => setImmediate(resolve))
  gone.abort(new Error('gone'))
  await assert.rejects(asking, /gone/)
})

test('429: a short Retry-After is waited for, a long one is told at once', async (t) => {
  const server = await startServer(t, (request, response, number) => {
    if (request.url.endsWith('/long')) sendError(response, 429, 'TOOMANYREQUESTS', { 'retry-after': '3600' })
    else if (number === 1) sendError(response, 429, 'TOOMANYREQUESTS', { 'retry-after': '0' })
    else sendManifest(request, response)
  })
  const upstream = startUpstream(t)
  const head = await upstream.headManifest(targetAt(server.host), '1.0', requestOptions())
  assert.equal(head.digest, manifestDigest)
  assert.equal(server.seen.length, 2)
  await assert.rejects(
    upstream.getManifest(targetAt(server.host), 'long', requestOptions()),
    (error: UpstreamError) => {
      assert.equal(error.retryAfterMs, 3_600_000)
      assert.equal(error.isOutage, true)
      return fails('RATE_LIMITED', /3600 s/)(error)
    },
  )
  assert.equal(server.seen.length, 3)
})

test('a wait ends when the request is aborted', async (t) => {
  const server = await startServer(t, (_request, response) => sendError(response, 503, 'X', { 'retry-after': '9' }))
  const abort = new AbortController()
  const asked = startUpstream(t).getManifest(targetAt(server.host), 'x', { signal: abort.signal })
  const rejected = assert.rejects(asked, /enough/)
  while (server.seen.length === 0) await new Promise((resolve) => setImmediate(resolve))
  abort.abort(new Error('enough'))
  await rejected
})

test('a hung server is given up after the limit for the first byte, without asking again', async (t) => {
  const server = await startServer(t, () => undefined)
  const upstream = startUpstream(t, { firstByteTimeoutMs: 100 })
  const asked = upstream.getManifest(targetAt(server.host), 'x', requestOptions())
  await assert.rejects(asked, fails('TIMEOUT', /did not answer in time/))
  assert.equal(server.seen.length, 1)
})

test('a server that accepts but does not shake hands is given up after the limit for connecting', async (t) => {
  const sockets: net.Socket[] = []
  const server = net.createServer((socket) => sockets.push(socket.on('error', () => undefined)))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  const options = { connectTimeoutMs: 100, registries: { [host]: { endpoint: `https://${host}` } } }
  const asked = startUpstream(t, options).getManifest(targetAt(host), 'x', requestOptions())
  await assert.rejects(asked, fails('TIMEOUT', /connection in time/))
})

test('nobody listens, no such name, not HTTP: each says what it is', async (t) => {
  const quiet = net.createServer()
  await new Promise<void>((resolve) => quiet.listen(0, '127.0.0.1', resolve))
  const { port } = quiet.address() as AddressInfo
  await new Promise((resolve) => quiet.close(resolve))
  const upstream = startUpstream(t, {
    lookup: (_name, _options, callback) =>
      callback(Object.assign(new Error('no such name'), { code: 'ENOTFOUND' }), '', 0),
  })
  const refused = upstream.headManifest(targetAt(`127.0.0.1:${port}`), 'x', requestOptions())
  await assert.rejects(refused, fails('UNREACHABLE', /refuses connections/))
  const unknown = upstream.headManifest(targetAt('registry.example.com'), 'x', requestOptions())
  await assert.rejects(unknown, fails('UNREACHABLE', /registry\.example\.com does not resolve/))
  const talker = net.createServer((socket) => socket.on('error', () => undefined).end('SSH-2.0-OpenSSH\r\n'))
  await new Promise<void>((resolve) => talker.listen(0, '127.0.0.1', resolve))
  t.after(() => talker.close())
  const odd = upstream.headManifest(
    targetAt(`127.0.0.1:${(talker.address() as AddressInfo).port}`),
    'x',
    requestOptions(),
  )
  await assert.rejects(odd, fails('PROTOCOL', /not HTTP/))
})

test('backoff doubles, is jittered over its whole width, and is bounded', async () => {
  const waits: number[] = []
  const limits = { ...resolveLimits({}), retries: 6, retryBaseDelayMs: 1, retryMaxDelayMs: 8 }
  const failing = async (): Promise<never> => {
    throw new UpstreamError('SERVER_ERROR', 'r', 'm', { status: 503 })
  }
  for (const random of [() => 0, () => 1]) {
    const context = {
      limits,
      random,
      signal: AbortSignal.timeout(5000),
      onRetry: (_error: UpstreamError, _attempt: number, waitMs: number) => waits.push(waitMs),
    }
    await assert.rejects(withRetries(context, failing), fails('SERVER_ERROR'))
  }
  assert.deepEqual(waits, [0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 8, 8])
})

test('Retry-After: seconds, a date, or nothing that can be used', () => {
  const now = Date.UTC(2026, 0, 1)
  assert.equal(parseRetryAfter('120', now), 120_000)
  assert.equal(parseRetryAfter(' 0 ', now), 0)
  assert.equal(parseRetryAfter('Thu, 01 Jan 2026 00:01:00 GMT', now), 60_000)
  assert.equal(parseRetryAfter('Wed, 31 Dec 2025 00:00:00 GMT', now), 0)
  for (const text of [undefined, '', '-1', '1.5', 'soon', '2026-01-01', '99999999999', 'Thu, 99 Foo']) {
    assert.equal(parseRetryAfter(text, now), undefined, text)
  }
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const waitMs = parseRetryAfter(text, now)
      assert.ok(waitMs === undefined || (Number.isFinite(waitMs) && waitMs >= 0))
    }),
  )
})
