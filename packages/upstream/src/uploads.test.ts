import assert from 'node:assert/strict'
import { once } from 'node:events'
import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { digestOf } from '@shoal/oci'
import type { BlobSource } from './push.ts'
import { startUploadRegistry, type UploadRegistry } from './testing-uploads.ts'
import { requestOptions, startServer, startUpstream, targetAt } from './testing.ts'
import { UpstreamError } from './upstream.ts'

const content = randomBytes(3_000_000)
const digest = digestOf(content)

/** Counts where it was opened, and how many of its streams were left open. */
function sourceOf(bytes: Buffer, name = digestOf(bytes), sizeBytes = bytes.length) {
  const streams: Readable[] = []
  const starts: number[] = []
  const source: BlobSource = {
    digest: name,
    sizeBytes,
    open(start) {
      const pieces = function* () {
        for (let at = start; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536)
      }
      const stream = Readable.from(pieces(), { objectMode: false })
      streams.push(stream)
      starts.push(start)
      return stream
    },
  }
  return { source, starts, allClosed: () => streams.every(({ destroyed }) => destroyed) }
}

const methods = (registry: UploadRegistry): string => registry.seen.map(({ method }) => method).join(' ')

test('a blob goes up in one request, and a second time not at all', async (t) => {
  const registry = await startUploadRegistry(t)
  const upstream = startUpstream(t)
  const target = targetAt(registry.host)
  const { source, starts, allClosed } = sourceOf(content)
  const progress: number[] = []
  const options = { ...requestOptions(), onProgress: (sent: number) => progress.push(sent) }
  assert.equal(await upstream.uploadBlob(target, source, options), 'uploaded')
  assert.deepEqual(registry.blobs.get(`team/app@${digest}`), content)
  assert.equal(methods(registry), 'HEAD POST PUT')
  assert.match(registry.seen.at(-1)?.url ?? '', /\?state=x&digest=sha256%3A/)
  assert.deepEqual([starts, progress.at(-1), allClosed()], [[0], content.length, true])
  assert.equal(await upstream.uploadBlob(target, source, options), 'present')
  assert.equal(starts.length, 1)
  assert.equal(await upstream.findBlob(target, digest, requestOptions()), content.length)
  assert.equal(await upstream.findBlob(target, digestOf('other'), requestOptions()), undefined)
})

test('an upload that was opened before goes on where it was opened, or anew where the registry has dropped it', async (t) => {
  const registry = await startUploadRegistry(t)
  const upstream = startUpstream(t)
  const target = targetAt(registry.host)
  const { source } = sourceOf(content)
  const upload = await upstream.openUpload(target, requestOptions())
  assert.equal(await upstream.uploadBlob(target, source, { ...requestOptions(), upload }), 'uploaded')
  assert.equal(methods(registry), 'POST PUT')
  assert.deepEqual(registry.blobs.get(`team/app@${digest}`), content)

  const other = randomBytes(1000)
  const dropped = await upstream.openUpload(target, requestOptions())
  registry.open.clear()
  const again = { ...requestOptions(), upload: dropped }
  assert.equal(await upstream.uploadBlob(target, sourceOf(other).source, again), 'uploaded')
  assert.deepEqual(registry.blobs.get(`team/app@${digestOf(other)}`), other)

  const unused = await upstream.openUpload(target, requestOptions())
  await unused.cancel(requestOptions())
  assert.equal(registry.open.size, 0)
})

test('a blob of another repository is mounted, or an upload is left behind by nobody', async (t) => {
  const registry = await startUploadRegistry(t)
  const upstream = startUpstream(t)
  const target = targetAt(registry.host)
  registry.blobs.set(`team/base@${digest}`, content)
  assert.equal(await upstream.mountBlob(target, digest, 'team/base', requestOptions()), true)
  assert.deepEqual(registry.blobs.get(`team/app@${digest}`), content)
  assert.equal(await upstream.mountBlob(target, digestOf('other'), 'team/base', requestOptions()), false)
  assert.equal(registry.open.size, 0)
})

test('in pieces, each where the last one ended; the pieces are as long as the registry wants them at least', async (t) => {
  const registry = await startUploadRegistry(t)
  const upstream = startUpstream(t)
  const { source, starts } = sourceOf(content)
  const options = { ...requestOptions(), chunkSizeBytes: 1_250_000 }
  assert.equal(await upstream.uploadBlob(targetAt(registry.host), source, options), 'uploaded')
  assert.equal(methods(registry), 'HEAD POST PATCH PATCH PUT')
  assert.deepEqual(
    registry.seen.map(({ headers }) => headers['content-range']).filter((range) => range !== undefined),
    ['0-1249999', '1250000-2499999', '2500000-2999999'],
  )
  assert.deepEqual(starts, [0, 1_250_000, 2_500_000])
  assert.deepEqual(registry.blobs.get(`team/app@${digest}`), content)

  registry.blobs.clear()
  registry.seen.length = 0
  registry.intercept = (request, response) => {
    if (request.method !== 'POST') return false
    registry.open.set('big', Buffer.alloc(0))
    response.writeHead(202, { location: '/v2/team/app/blobs/uploads/big', 'oci-chunk-min-length': '2000000' }).end()
    return true
  }
  assert.equal(await upstream.uploadBlob(targetAt(registry.host), source, options), 'uploaded')
  assert.equal(methods(registry), 'HEAD POST PATCH PUT')
})

test('an empty blob', async (t) => {
  const registry = await startUploadRegistry(t)
  const { source } = sourceOf(Buffer.alloc(0))
  assert.equal(await startUpstream(t).uploadBlob(targetAt(registry.host), source, requestOptions()), 'uploaded')
  assert.equal(registry.blobs.get(`team/app@${source.digest}`)?.length, 0)
})

test('after broken connections it goes on where the registry stands', async (t) => {
  for (const chunkSizeBytes of [undefined, 2_000_000]) {
    const registry = await startUploadRegistry(t)
    registry.cuts = [1_000_000, 500_000, 700_000, 100, 300, 500]
    const { source, starts, allClosed } = sourceOf(content)
    const options = { ...requestOptions(), ...(chunkSizeBytes === undefined ? {} : { chunkSizeBytes }) }
    assert.equal(await startUpstream(t).uploadBlob(targetAt(registry.host), source, options), 'uploaded')
    assert.deepEqual(registry.blobs.get(`team/app@${digest}`), content)
    assert.deepEqual(starts.slice(0, 4), [0, 1_000_000, 1_500_000, 2_200_000])
    assert.ok(allClosed())
    assert.equal(registry.seen.filter(({ method }) => method === 'POST').length, 1)
  }
})

test('a registry that forgot the upload gets it anew; one that never gets further is given up', async (t) => {
  const registry = await startUploadRegistry(t)
  registry.cuts = [1_000_000]
  let forgotten = false
  registry.intercept = (request) => {
    if (request.method === 'GET' && !forgotten) {
      forgotten = true
      registry.open.clear()
    }
    return false
  }
  const { source, starts } = sourceOf(content)
  assert.equal(await startUpstream(t).uploadBlob(targetAt(registry.host), source, requestOptions()), 'uploaded')
  assert.deepEqual(starts, [0, 0])

  const stuck = await startUploadRegistry(t)
  stuck.cuts = Array.from({ length: 20 }, () => 0)
  const failed = startUpstream(t).uploadBlob(targetAt(stuck.host), source, requestOptions())
  await assert.rejects(failed, { name: 'UpstreamError', code: 'UNREACHABLE' })
  assert.equal(stuck.seen.filter(({ method }) => method === 'PUT').length, 4)
  assert.equal(stuck.open.size, 0, 'what is given up is cancelled')
})

test('an answer that got lost after the blob was kept is no failure', async (t) => {
  const registry = await startUploadRegistry(t)
  registry.intercept = (request) => {
    if (request.method !== 'PUT') return false
    request.resume().on('end', () => {
      registry.open.clear()
      registry.blobs.set(`team/app@${digest}`, content)
      request.socket.destroy()
    })
    return true
  }
  const { source } = sourceOf(content)
  assert.equal(await startUpstream(t).uploadBlob(targetAt(registry.host), source, requestOptions()), 'uploaded')
  assert.equal(methods(registry), 'HEAD POST PUT GET HEAD')
})

test('mounted from another repository; uploaded where that is refused', async (t) => {
  const registry = await startUploadRegistry(t)
  registry.blobs.set(`base/image@${digest}`, content)
  const { source, starts } = sourceOf(content)
  const upstream = startUpstream(t)
  const options = { ...requestOptions(), mountFrom: 'base/image' }
  assert.equal(await upstream.uploadBlob(targetAt(registry.host), source, options), 'mounted')
  assert.ok(registry.blobs.has(`team/app@${digest}`))
  const elsewhere = { ...options, mountFrom: 'no/such' }
  assert.equal(await upstream.uploadBlob(targetAt(registry.host, 'team/b'), source, elsewhere), 'uploaded')
  registry.intercept = (request, response) => {
    if (request.url?.includes('mount=') !== true) return false
    response.writeHead(403).end()
    return true
  }
  assert.equal(await upstream.uploadBlob(targetAt(registry.host, 'team/c'), source, options), 'uploaded')
  assert.deepEqual(starts, [0, 0])
})

test('a source that is not what its digest says leaves nothing behind', async (t) => {
  const registry = await startUploadRegistry(t)
  const upstream = startUpstream(t)
  const wrong = Buffer.from(content)
  wrong[2_999_999] = wrong.readUInt8(2_999_999) ^ 1
  const cases: [ReturnType<typeof sourceOf>, RegExp][] = [
    [sourceOf(wrong, digest), /its bytes have the digest sha256:/],
    [sourceOf(content.subarray(0, 1000), digest, content.length), /ended after 1000 of 3000000 bytes/],
    [sourceOf(content, digest, 2_000_000), /more than 2000000 bytes/],
  ]
  for (const [{ source, allClosed }, message] of cases) {
    const failed = upstream.uploadBlob(targetAt(registry.host), source, requestOptions())
    await assert.rejects(failed, (error: Error) => {
      assert.equal(error.name, 'BlobSourceError')
      assert.match(error.message, message)
      return true
    })
    assert.ok(allClosed())
  }
  assert.deepEqual([registry.blobs.size, registry.open.size], [0, 0])
})

test('a source that breaks is opened again if that may help', async (t) => {
  const registry = await startUploadRegistry(t)
  const { source } = sourceOf(content)
  let times = 0
  const breaking = (error: Error): BlobSource => ({
    ...source,
    open: async (start) => {
      if (times++ > 0) return await source.open(start)
      const pieces = async function* () {
        yield content.subarray(0, 100_000)
        await Promise.resolve()
        throw error
      }
      return Readable.from(pieces(), { objectMode: false })
    },
  })
  const outage = new UpstreamError('UNREACHABLE', 'elsewhere', 'the connection broke')
  assert.equal(
    await startUpstream(t).uploadBlob(targetAt(registry.host), breaking(outage), requestOptions()),
    'uploaded',
  )
  assert.equal(times, 2)
  times = 0
  const failed = startUpstream(t).uploadBlob(
    targetAt(registry.host, 'team/b'),
    breaking(new Error('EIO')),
    requestOptions(),
  )
  await assert.rejects(failed, { name: 'BlobSourceError', message: /EIO/ })
  assert.equal(times, 1)
})

test('an upload that is aborted ends with the reason and is cancelled', async (t) => {
  const registry = await startUploadRegistry(t)
  const stop = new AbortController()
  const { source, allClosed } = sourceOf(content)
  registry.intercept = (request) => {
    if (request.method !== 'PUT') return false
    stop.abort(new Error('enough'))
    return true
  }
  const upload = startUpstream(t).uploadBlob(targetAt(registry.host), source, { signal: stop.signal })
  await assert.rejects(upload, { message: 'enough' })
  assert.deepEqual([registry.open.size, allClosed(), methods(registry)], [0, true, 'HEAD POST PUT DELETE'])
})

test('a Location elsewhere gets the bytes but no login, however it asks for one', async (t) => {
  const storage = await startServer(t, (request, response) => {
    if (request.url.includes('greedy')) {
      response.writeHead(401, { 'www-authenticate': `Bearer realm="${storage.url}/token"` }).end()
    } else response.writeHead(201).end()
  })
  const registry = await startUploadRegistry(t)
  let path = '/bucket'
  registry.intercept = (request, response) => {
    if (request.method !== 'POST') return false
    response.writeHead(202, { location: `http://user:pass@${storage.host}${path}?sig=1` }).end()
    return true
  }
  const small = sourceOf(Buffer.from('some bytes'))
  const upstream = startUpstream(t, { registries: { [registry.host]: { username: 'u', password: 'secret-word' } } })
  const options = requestOptions({ authorization: 'Bearer of-the-client', requestId: 'r-1' })
  assert.equal(await upstream.uploadBlob(targetAt(registry.host), small.source, options), 'uploaded')
  assert.equal(registry.seen.at(-1)?.headers.authorization, 'Bearer of-the-client')
  path = '/greedy'
  for (const more of [options, requestOptions()]) {
    const failed = upstream.uploadBlob(targetAt(registry.host), small.source, more)
    await assert.rejects(failed, { name: 'UpstreamError', code: 'DENIED' })
  }
  assert.ok(storage.seen.length >= 3)
  assert.equal(storage.seenAt('/token').length, 0)
  for (const { headers } of storage.seen) {
    assert.deepEqual(
      [headers.authorization, headers['x-request-id'], headers.cookie],
      [undefined, undefined, undefined],
    )
  }
})

test('a Location that no upload may go to is refused', async (t) => {
  const registry = await startUploadRegistry(t)
  let location: string | undefined
  registry.intercept = (request, response) => {
    if (request.method !== 'POST') return false
    response.writeHead(202, location === undefined ? {} : { location }).end()
    return true
  }
  const upstream = startUpstream(t, { denyRegistries: ['blocked.example'] })
  const { source, starts } = sourceOf(content)
  const refused: [string | undefined, string, RegExp][] = [
    [undefined, 'PROTOCOL', /does not say where/],
    ['file:///etc/passwd', 'PROTOCOL', /not an HTTP URL/],
    [`/${'x'.repeat(9000)}`, 'PROTOCOL', /not an HTTP URL/],
    ['http://169.254.169.254/latest/meta-data', 'REFUSED_BY_POLICY', /special address/],
    ['http://metadata.google.internal/x', 'REFUSED_BY_POLICY', /metadata service/],
    ['https://blocked.example/x', 'REFUSED_BY_POLICY', /denyRegistries/],
  ]
  for (const [where, code, message] of refused) {
    location = where
    await assert.rejects(upstream.uploadBlob(targetAt(registry.host), source, requestOptions()), { code, message })
  }
  assert.deepEqual(starts, [])
})

test('a registry that claims to have more than it was sent, or to have kept something else', async (t) => {
  const registry = await startUploadRegistry(t)
  registry.cuts = [1000]
  registry.intercept = (request, response) => {
    if (request.method !== 'GET') return false
    response.writeHead(204, { range: '0-2999998', location: request.url }).end()
    return true
  }
  const { source, starts } = sourceOf(content)
  assert.equal(await startUpstream(t).uploadBlob(targetAt(registry.host), source, requestOptions()), 'uploaded')
  assert.deepEqual([starts[0], starts.at(-1)], [0, 0], 'begun anew')
  assert.ok(starts.length > 1)

  registry.blobs.clear()
  registry.intercept = (request, response) => {
    if (request.method !== 'PUT') return false
    request.resume().on('end', () => response.writeHead(201, { 'docker-content-digest': digestOf('x') }).end())
    return true
  }
  const failed = startUpstream(t).uploadBlob(targetAt(registry.host), source, requestOptions())
  await assert.rejects(failed, { code: 'PROTOCOL', message: /kept something else/ })
})

test('a source that waits for bytes is destroyed when nobody wants them any more, and not blamed', async (t) => {
  const registry = await startUploadRegistry(t)
  const upstream = startUpstream(t)
  const signal = AbortSignal.timeout(20_000)
  const opened: Readable[] = []
  /** Gives the first bytes and then no others, each of the first `stalls` times. */
  const stalling = (stalls: number): BlobSource => ({
    ...{ digest, sizeBytes: content.length },
    open(start) {
      const waits = opened.length < stalls
      const stream = waits ? new Readable({ read: () => undefined }) : Readable.from([content.subarray(start)])
      if (waits) stream.push(content.subarray(start, start + 1000))
      opened.push(stream)
      return stream
    },
  })
  const go = new AbortController()
  const onProgress = (): void => go.abort(new Error('gone'))
  const options = { signal: go.signal, onProgress }
  await assert.rejects(upstream.uploadBlob(targetAt(registry.host), stalling(1), options), /gone/)
  if (opened[0]?.closed === false) await once(opened[0], 'close', { signal })

  // A connection that breaks meanwhile is the registry's failure, and the upload goes on.
  opened.length = 0
  registry.cuts = [1000]
  assert.equal(await upstream.uploadBlob(targetAt(registry.host), stalling(1), { signal }), 'uploaded')
  assert.deepEqual(registry.blobs.get(`team/app@${digest}`), content)
  assert.equal(opened.length, 2)
  if (opened[0]?.closed === false) await once(opened[0], 'close', { signal })
})
