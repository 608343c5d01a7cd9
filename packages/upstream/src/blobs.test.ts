import assert from 'node:assert/strict'
import { once } from 'node:events'
import { randomBytes } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import { test, type TestContext } from 'node:test'
import { digestOf } from '@shoal/oci'
import { fails, readAll, requestOptions, sendBlob, sendError, startServer, startUpstream, targetAt } from './testing.ts'

const content = randomBytes(300_000)
const digest = digestOf(content)

test('a blob, whole and in parts', async (t) => {
  const server = await startServer(t, (request, response) => sendBlob(request, response, content))
  const upstream = startUpstream(t)
  const target = targetAt(server.host)
  assert.deepEqual(await upstream.headBlob(target, digest, requestOptions()), { sizeBytes: content.length })
  const cases: [{ start: number; end?: number } | undefined, boolean, Buffer][] = [
    [undefined, false, content],
    [{ start: 0 }, true, content],
    [{ start: 1000, end: 1000 }, true, content.subarray(1000, 1001)],
    [{ start: 1000, end: 2999 }, true, content.subarray(1000, 3000)],
    [{ start: 299_990 }, true, content.subarray(299_990)],
    [{ start: 299_990, end: 999_999 }, true, content.subarray(299_990)],
  ]
  for (const [range, partial, bytes] of cases) {
    const blob = await upstream.openBlob(target, digest, range, requestOptions())
    assert.equal(blob.partial, partial)
    assert.equal(blob.start, range?.start ?? 0)
    assert.equal(blob.sizeBytes, content.length)
    assert.deepEqual(await readAll(blob.body), bytes)
  }
  assert.equal(server.seen.at(-1)?.headers.range, 'bytes=299990-999999')
  assert.equal(server.seen.at(-1)?.headers['accept-encoding'], 'identity')
})

test('an origin that ignores Range: the whole, and it says so', async (t) => {
  const server = await startServer(t, (_request, response) => response.end(content) && undefined)
  const blob = await startUpstream(t).openBlob(targetAt(server.host), digest, { start: 5000 }, requestOptions())
  assert.deepEqual([blob.partial, blob.start, blob.sizeBytes], [false, 0, content.length])
  assert.deepEqual(await readAll(blob.body), content)
})

test('416 for a range that is beyond the blob is an error; for one that is fine, the whole is fetched', async (t) => {
  const server = await startServer(t, (request, response) => {
    if (request.url.includes(digestOf('')) && request.headers.range === undefined) response.end()
    else if (request.headers.range === undefined) sendBlob(request, response, content)
    else if (request.url.includes(digestOf(''))) response.writeHead(416, { 'content-range': 'bytes */0' }).end()
    else if (request.headers.range === 'bytes=7-') response.writeHead(416).end()
    else sendBlob(request, response, content)
  })
  const upstream = startUpstream(t)
  const target = targetAt(server.host)
  const beyond = upstream.openBlob(target, digest, { start: content.length }, requestOptions())
  await assert.rejects(beyond, (error: Error & { status?: number }) => {
    assert.equal(error.status, 416)
    return fails('PROTOCOL', /300000 bytes/)(error)
  })
  assert.equal(server.seen.length, 1)
  const refused = await upstream.openBlob(target, digest, { start: 7 }, requestOptions())
  assert.deepEqual([refused.partial, refused.start], [false, 0])
  assert.deepEqual(await readAll(refused.body), content)
  const empty = await upstream.openBlob(target, digestOf(''), { start: 0 }, requestOptions())
  assert.deepEqual([empty.sizeBytes, (await readAll(empty.body)).length], [0, 0])
})

test('a Content-Range that is not what was asked for is refused', async (t) => {
  for (const said of ['bytes 0-9/300000', 'bytes 10-18/300000', 'bytes 10-19', 'items 10-19/300000', undefined]) {
    const server = await startServer(t, (_request, response) => {
      response.writeHead(206, { 'content-length': 10, ...(said === undefined ? {} : { 'content-range': said }) })
      response.end(Buffer.alloc(10))
    })
    const asked = startUpstream(t).openBlob(targetAt(server.host), digest, { start: 10, end: 19 }, requestOptions())
    await assert.rejects(asked, fails('PROTOCOL', /Content-Range/), String(said))
  }
})

test('a part whose length contradicts its Content-Range is refused', async (t) => {
  const server = await startServer(t, (request, response) => {
    response.writeHead(206, {
      'content-range': 'bytes 10-19/300000',
      ...(request.url.includes('/announced/') ? { 'content-length': 5 } : {}),
    })
    response.end(Buffer.alloc(5))
  })
  const upstream = startUpstream(t)
  const range = { start: 10, end: 19 }
  const announced = upstream.openBlob(targetAt(server.host, 'announced/x'), digest, range, requestOptions())
  await assert.rejects(announced, fails('PROTOCOL', /5 bytes for a part of 10/))
  const blob = await upstream.openBlob(targetAt(server.host), digest, range, requestOptions())
  await assert.rejects(readAll(blob.body), fails('PROTOCOL', /5 bytes for a part of 10/))
})

test('without a length, the size is asked for and the body held to it', async (t) => {
  const server = await startServer(t, (request, response) => {
    if (request.method === 'HEAD') response.writeHead(200, { 'content-length': content.length }).end()
    else if (request.headers.range !== undefined) {
      response.writeHead(206, { 'content-range': 'bytes 100-199/*' })
      response.end(content.subarray(100, 200))
    } else {
      response.write(content.subarray(0, 1000))
      response.end(request.url.includes('/short/') ? undefined : content.subarray(1000))
    }
  })
  const upstream = startUpstream(t)
  const whole = await upstream.openBlob(targetAt(server.host), digest, undefined, requestOptions())
  assert.deepEqual([whole.sizeBytes, whole.partial], [content.length, false])
  assert.deepEqual(await readAll(whole.body), content)
  const part = await upstream.openBlob(targetAt(server.host), digest, { start: 100, end: 199 }, requestOptions())
  assert.deepEqual([part.sizeBytes, part.partial, part.start], [content.length, true, 100])
  assert.deepEqual(await readAll(part.body), content.subarray(100, 200))
  const short = await upstream.openBlob(targetAt(server.host, 'short/x'), digest, undefined, requestOptions())
  await assert.rejects(readAll(short.body), fails('PROTOCOL', /1000 bytes for a blob of 300000/))
})

test('a size that the origin never says is the one that is known, and the body is held to it', async (t) => {
  const server = await startServer(t, (request, response) => {
    response.flushHeaders()
    response.end(request.method === 'HEAD' ? undefined : content)
  })
  const upstream = startUpstream(t)
  const open = (sizeBytes: number) =>
    upstream.openBlob(targetAt(server.host), digest, { start: 0 }, requestOptions(), sizeBytes)
  const blob = await open(content.length)
  assert.equal(blob.sizeBytes, content.length)
  assert.deepEqual(await readAll(blob.body), content)
  assert.equal(server.seen.length, 1)
  const wrong = await open(content.length + 1)
  await assert.rejects(readAll(wrong.body), fails('PROTOCOL', /300000 bytes for a blob of 300001/))
})

test('a size that nobody says is an error', async (t) => {
  const server = await startServer(t, (request, response) => {
    response.flushHeaders()
    response.end(request.method === 'HEAD' ? undefined : content)
  })
  const upstream = startUpstream(t)
  const opened = upstream.openBlob(targetAt(server.host), digest, undefined, requestOptions())
  await assert.rejects(opened, fails('PROTOCOL', /how long/))
})

test('where HEAD says nothing, the first byte does', async (t) => {
  for (const way of ['no HEAD', 'signed for GET', 'no length', 'length 0', 'no ranges']) {
    const store = await startServer(t, (request, response) => {
      if (request.method === 'HEAD') response.writeHead(403).end()
      else sendBlob(request, response, content)
    })
    const server = await startServer(t, (request, response) => {
      if (way === 'signed for GET')
        return void response.writeHead(307, { location: `${store.url}/x?signature=y` }).end()
      if (request.method !== 'HEAD')
        sendBlob(way === 'no ranges' ? { ...request, headers: {} } : request, response, content)
      else if (way === 'no length' || way === 'length 0') {
        response.writeHead(200, way === 'no length' ? {} : { 'content-length': 0 }).end()
      } else sendError(response, 405, 'UNSUPPORTED')
    })
    const head = await startUpstream(t).headBlob(targetAt(server.host), digest, requestOptions())
    assert.deepEqual(head, { sizeBytes: content.length }, way)
    assert.equal(server.seen.at(-1)?.headers.range, 'bytes=0-0', way)
  }
})

test('nothing has no bytes, and nothing else has', async (t) => {
  const server = await startServer(
    t,
    (_request, response) => response.writeHead(200, { 'content-length': 0 }).end() && undefined,
  )
  const upstream = startUpstream(t)
  const nothing = await upstream.headBlob(targetAt(server.host), digestOf(''), requestOptions())
  assert.deepEqual(nothing, { sizeBytes: 0 })
  await assert.rejects(
    upstream.headBlob(targetAt(server.host), digest, requestOptions()),
    fails('PROTOCOL', /how long/),
  )
})

test('a web page, or an answer about another digest, is no sign of a blob; one of an object store is', async (t) => {
  const server = await startServer(t, (request, response) => {
    const [, , way] = request.url.split('/')
    const html = { 'content-type': 'text/html; charset=utf-8', 'content-length': 61 }
    if (request.url === '/login') response.writeHead(200, html).end()
    else if (way === 'page') response.writeHead(302, { location: '/login' }).end()
    else if (way === 'other')
      response.writeHead(200, { 'docker-content-digest': digestOf('x'), 'content-length': 1 }).end()
    else if (way === 'artifact') response.writeHead(200, { ...html, 'docker-content-digest': digest }).end()
    else response.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': 61 }).end()
  })
  const upstream = startUpstream(t)
  const head = (way: string) => upstream.headBlob(targetAt(server.host, `${way}/x`), digest, requestOptions())
  await assert.rejects(head('page'), fails('PROTOCOL', /web page/))
  await assert.rejects(head('other'), fails('PROTOCOL', /answered with sha256/))
  assert.deepEqual(await head('artifact'), { sizeBytes: 61 })
  assert.deepEqual(await head('store'), { sizeBytes: 61 })
})

test('a body that is cut fails as unreachable, not as complete', async (t) => {
  for (const way of ['FIN', 'RST']) {
    const server = await startServer(t, (_request, response) => {
      response.writeHead(200, { 'content-length': content.length })
      response.write(content.subarray(0, 1000), () => {
        if (way === 'FIN') response.socket?.end()
        else response.socket?.resetAndDestroy()
      })
    })
    const upstream = startUpstream(t)
    // A reset may overtake the headers; then the cut shows when opening.
    const pulled = upstream
      .openBlob(targetAt(server.host), digest, undefined, requestOptions())
      .then((blob) => readAll(blob.body))
    await assert.rejects(pulled, fails('UNREACHABLE', /closed the connection/), way)
  }
})

/** An answer of which the test gives one piece after the other, with 9 s in between; it has stalled after 10 s. */
async function slowAnswer(t: TestContext, pieceBytes: number) {
  const responses: ServerResponse[] = []
  const server = await startServer(t, (_request, response) => {
    response.writeHead(200, { 'content-length': 8 * pieceBytes })
    responses.push(response)
    response.write(Buffer.alloc(pieceBytes, 1))
  })
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const upstream = startUpstream(t, { stallTimeoutMs: 10_000 })
  const { body } = await upstream.openBlob(targetAt(server.host), digest, undefined, requestOptions())
  const failed = new Promise<Error>((resolve) => body.once('error', resolve))
  let received = 0
  const pieceCame = async (count: number) => {
    while (received < count * pieceBytes) received += ((await once(body, 'data')) as [Buffer])[0].length
    t.mock.timers.tick(9000)
  }
  return { body, failed, pieceCame, giveNext: () => responses[0]?.write(Buffer.alloc(pieceBytes, 1)) }
}

test('a body that stalls fails; a slow one does not, however long it takes', async (t) => {
  const { body, failed, pieceCame, giveNext } = await slowAnswer(t, 16 * 1024)
  for (let count = 1; count <= 5; count++) {
    await pieceCame(count)
    assert.equal(body.destroyed, false)
    if (count < 5) giveNext()
  }
  t.mock.timers.tick(1001)
  assert.ok(fails('TIMEOUT', /sent nothing/)(await failed))
})

test('a body that drips has stalled, too', async (t) => {
  const { body, failed, pieceCame, giveNext } = await slowAnswer(t, 100)
  await pieceCame(1)
  giveNext()
  assert.equal(body.destroyed, false)
  await pieceCame(2)
  assert.ok(fails('TIMEOUT', /next to nothing/)(await failed))
})

test('a reader that pauses is not a stall of the origin', async (t) => {
  const big = Buffer.alloc(8 * 1024 * 1024, 7)
  const server = await startServer(t, (_request, response) => response.end(big) && undefined)
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { body } = await startUpstream(t, { stallTimeoutMs: 10_000 }).openBlob(
    targetAt(server.host),
    digest,
    undefined,
    requestOptions(),
  )
  await once(body, 'readable')
  while (body.readableLength < body.readableHighWaterMark) await new Promise((resolve) => setImmediate(resolve))
  t.mock.timers.tick(60_000)
  assert.equal((await readAll(body)).length, big.length)
})

test('a body that breaks before anybody reads it tells its reader later, and nobody else', async (t) => {
  const server = await startServer(t, (_request, response) => {
    response.writeHead(200, { 'content-length': content.length })
    response.write(content.subarray(0, 1000), () => response.socket?.end())
  })
  const { body } = await startUpstream(t).openBlob(targetAt(server.host), digest, undefined, requestOptions())
  await new Promise((resolve) => body.once('close', resolve))
  await assert.rejects(readAll(body), fails('UNREACHABLE'))
})

test('destroying a body frees the connection', async (t) => {
  const closed = Promise.withResolvers<undefined>()
  const server = await startServer(t, (_request, response) => {
    response.on('close', () => closed.resolve(undefined))
    response.writeHead(200, { 'content-length': content.length })
    response.write(content.subarray(0, 1000))
  })
  const blob = await startUpstream(t).openBlob(targetAt(server.host), digest, undefined, requestOptions())
  blob.body.destroy()
  await closed.promise
})

test('aborting ends a body with the reason, and a request that hangs at once', async (t) => {
  const asked = Promise.withResolvers<undefined>()
  const server = await startServer(t, (request, response) => {
    if (request.url.includes('/hanging/')) return asked.resolve(undefined)
    response.writeHead(200, { 'content-length': content.length })
    response.write(content.subarray(0, 1000))
  })
  const upstream = startUpstream(t)
  const first = new AbortController()
  const blob = await upstream.openBlob(targetAt(server.host), digest, undefined, { signal: first.signal })
  const reading = assert.rejects(readAll(blob.body), /client has gone/)
  first.abort(new Error('client has gone'))
  await reading
  const second = new AbortController()
  const hanging = upstream.openBlob(targetAt(server.host, 'hanging/x'), digest, undefined, { signal: second.signal })
  const rejected = assert.rejects(hanging, /client has gone/)
  await asked.promise
  second.abort(new Error('client has gone'))
  await rejected
})

test('a blob that is not there, and ranges that are not ranges', async (t) => {
  const server = await startServer(t, (_request, response) => sendError(response, 404, 'BLOB_UNKNOWN'))
  const upstream = startUpstream(t)
  const target = targetAt(server.host)
  await assert.rejects(upstream.openBlob(target, digest, { start: 1 }, requestOptions()), fails('NOT_FOUND'))
  await assert.rejects(upstream.headBlob(target, digest, requestOptions()), fails('NOT_FOUND'))
  for (const range of [{ start: -1 }, { start: 5, end: 4 }, { start: 0.5 }, { start: Number.NaN }]) {
    await assert.rejects(upstream.openBlob(target, digest, range, requestOptions()), fails('PROTOCOL'))
  }
  assert.equal(server.seen.length, 2)
})
