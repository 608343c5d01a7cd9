import assert from 'node:assert/strict'
import { test } from 'node:test'
import { digestOf, MAX_MANIFEST_BYTES, MEDIA_TYPE_OCI_MANIFEST } from '@shoal/oci'
import {
  fails,
  manifestBytes,
  manifestDigest,
  requestOptions,
  sendError,
  sendManifest,
  startServer,
  startUpstream,
  targetAt,
} from './testing.ts'
import type { UpstreamErrorCode } from './upstream.ts'

test('HEAD and GET of a manifest, by tag and by digest', async (t) => {
  const server = await startServer(t, sendManifest)
  const upstream = startUpstream(t)
  for (const reference of ['1.0', manifestDigest]) {
    const head = await upstream.headManifest(targetAt(server.host), reference, requestOptions())
    assert.deepEqual(head, {
      digest: manifestDigest,
      mediaType: MEDIA_TYPE_OCI_MANIFEST,
      sizeBytes: manifestBytes.length,
    })
    const body = await upstream.getManifest(targetAt(server.host), reference, requestOptions({ requestId: 'r-1' }))
    assert.deepEqual(Buffer.from(body.bytes), manifestBytes)
    assert.equal(body.digest, manifestDigest)
    assert.equal(body.mediaType, MEDIA_TYPE_OCI_MANIFEST)
  }
  assert.deepEqual(
    server.seen.map(({ method, url }) => `${method} ${url}`),
    [
      'HEAD /v2/team/app/manifests/1.0',
      'GET /v2/team/app/manifests/1.0',
      `HEAD /v2/team/app/manifests/${manifestDigest}`,
      `GET /v2/team/app/manifests/${manifestDigest}`,
    ],
  )
  const [, get] = server.seen
  assert.match(get?.headers.accept ?? '', /vnd\.oci\.image\.index\.v1\+json, .*manifest\.v2\+json/)
  assert.equal(get?.headers['x-request-id'], 'r-1')
  assert.equal(get?.headers.authorization, undefined)
})

test('connections are kept and used again', async (t) => {
  const server = await startServer(t, sendManifest)
  const upstream = startUpstream(t)
  for (let count = 0; count < 5; count++) {
    await upstream.headManifest(targetAt(server.host), '1.0', requestOptions())
    await upstream.getManifest(targetAt(server.host), '1.0', requestOptions())
  }
  assert.equal(await server.connections(), 1)
})

test('bytes that are not what the digest says are refused', async (t) => {
  const server = await startServer(t, (request, response) => {
    if (request.url.endsWith('/lying')) response.setHeader('docker-content-digest', digestOf('other'))
    response.writeHead(200, { 'content-type': MEDIA_TYPE_OCI_MANIFEST })
    response.end(request.url.endsWith('/lying') ? manifestBytes : `${manifestBytes.toString()} `)
  })
  const upstream = startUpstream(t)
  const target = targetAt(server.host)
  await assert.rejects(upstream.getManifest(target, 'lying', requestOptions()), fails('PROTOCOL', /digest/))
  await assert.rejects(upstream.getManifest(target, manifestDigest, requestOptions()), fails('PROTOCOL', /digest/))
  assert.equal(server.seen.length, 2, 'not asked again')
})

test('a HEAD that says another digest than asked for is refused', async (t) => {
  const server = await startServer(t, sendManifest)
  const upstream = startUpstream(t)
  const asked = upstream.headManifest(targetAt(server.host), digestOf('other'), requestOptions())
  await assert.rejects(asked, fails('PROTOCOL', /digest/))
})

test('where HEAD says too little or is not known, GET is asked', async (t) => {
  for (const way of ['no digest', 'no length', 'length 0', 'generic type', 'no HEAD']) {
    const server = await startServer(t, (request, response) => {
      if (way === 'no HEAD' && request.method === 'HEAD') return sendError(response, 405, 'UNSUPPORTED')
      const length = way === 'length 0' && request.method === 'HEAD' ? 0 : manifestBytes.length
      response.writeHead(200, {
        'content-type': way === 'generic type' ? 'text/plain; charset=utf-8' : MEDIA_TYPE_OCI_MANIFEST,
        ...(way === 'no digest' ? {} : { 'docker-content-digest': manifestDigest }),
        ...(way === 'no length' ? {} : { 'content-length': length }),
      })
      response.end(request.method === 'HEAD' ? undefined : manifestBytes)
    })
    const head = await startUpstream(t).headManifest(targetAt(server.host), '1.0', requestOptions())
    assert.deepEqual(
      head,
      { digest: manifestDigest, mediaType: MEDIA_TYPE_OCI_MANIFEST, sizeBytes: manifestBytes.length },
      way,
    )
    assert.deepEqual(
      server.seen.map(({ method }) => method),
      ['HEAD', 'GET'],
      way,
    )
  }
})

test('a page that is no answer of a registry is neither a manifest nor a sign of one', async (t) => {
  const types = ['text/html; charset=utf-8', 'application/json', 'application/problem+json', undefined]
  for (const type of types) {
    const page = type?.includes('json') ? '{"status":"down"}' : '<html>We will be back soon.</html>'
    const server = await startServer(t, (request, response) => {
      if (request.url !== '/login') return void response.writeHead(302, { location: '/login' }).end()
      response.writeHead(200, { 'content-length': page.length, ...(type && { 'content-type': type }) })
      response.end(request.method === 'HEAD' ? undefined : page)
    })
    const upstream = startUpstream(t)
    for (const reference of ['1.0', manifestDigest]) {
      const wrong = fails('PROTOCOL', reference === '1.0' ? /that is no manifest .*login page/ : /digest/)
      await assert.rejects(upstream.headManifest(targetAt(server.host), reference, requestOptions()), wrong, type)
      await assert.rejects(upstream.getManifest(targetAt(server.host), reference, requestOptions()), wrong, type)
    }
  }
})

test('a manifest of a type that nobody foresaw is passed on', async (t) => {
  const type = 'application/vnd.example.thing.v1+json'
  const server = await startServer(t, (request, response) => {
    response.writeHead(200, {
      'content-type': type,
      'content-length': manifestBytes.length,
      'docker-content-digest': manifestDigest,
    })
    response.end(request.method === 'HEAD' ? undefined : manifestBytes)
  })
  const upstream = startUpstream(t)
  assert.equal((await upstream.headManifest(targetAt(server.host), '1.0', requestOptions())).mediaType, type)
  assert.equal((await upstream.getManifest(targetAt(server.host), '1.0', requestOptions())).mediaType, type)
  assert.equal(server.seen.length, 2)
})

test('manifests over 4 MiB are refused, announced or not', async (t) => {
  const server = await startServer(t, (request, response) => {
    if (request.url.endsWith('/announced')) response.setHeader('content-length', MAX_MANIFEST_BYTES + 1)
    const piece = Buffer.alloc(64 * 1024)
    const more = (): void => {
      while (!response.destroyed && response.write(piece));
    }
    response.on('drain', more)
    more()
  })
  const upstream = startUpstream(t)
  for (const tag of ['announced', 'endless']) {
    const asked = upstream.getManifest(targetAt(server.host), tag, requestOptions())
    await assert.rejects(asked, fails('PROTOCOL', /4194304/))
  }
})

test('statuses become errors with code, status and the message of the registry', async (t) => {
  const server = await startServer(t, (request, response) => {
    const status = Number(request.url.split('/').at(-1))
    sendError(response, status, status === 404 ? 'MANIFEST_UNKNOWN' : 'DENIED')
  })
  const upstream = startUpstream(t)
  const cases: [number, UpstreamErrorCode, number][] = [
    [404, 'NOT_FOUND', 1],
    [410, 'NOT_FOUND', 1],
    [403, 'DENIED', 1],
    [401, 'UNAUTHORIZED', 1],
    [400, 'PROTOCOL', 1],
    [501, 'SERVER_ERROR', 1],
    [500, 'SERVER_ERROR', 4],
    [503, 'SERVER_ERROR', 4],
    [429, 'RATE_LIMITED', 4],
  ]
  for (const [status, code, requests] of cases) {
    const before = server.seen.length
    await assert.rejects(
      upstream.getManifest(targetAt(server.host), String(status), requestOptions()),
      (error: Error & { status?: number; registry?: string }) => {
        assert.equal(error.status, status)
        assert.equal(error.registry, server.host)
        assert.match(error.message, /message of (MANIFEST_UNKNOWN|DENIED)/)
        return fails(code)(error)
      },
    )
    assert.equal(server.seen.length - before, requests, String(status))
  }
})

test('what is malformed is never sent', async (t) => {
  const server = await startServer(t, sendManifest)
  const upstream = startUpstream(t)
  const at = targetAt(server.host)
  await assert.rejects(upstream.getManifest(at, '../x', requestOptions()), fails('NOT_FOUND'))
  await assert.rejects(upstream.getManifest(at, 'a?b', requestOptions()), fails('NOT_FOUND'))
  const escaping = { registry: server.host, repository: '../../admin' }
  await assert.rejects(upstream.getManifest(escaping, 'x', requestOptions()), fails('NOT_FOUND'))
  const elsewhere = { registry: `user@${server.host}/x?`, repository: 'a' }
  await assert.rejects(upstream.getManifest(elsewhere, 'x', requestOptions()), fails('REFUSED_BY_POLICY'))
  assert.equal(server.seen.length, 0)
})
