import assert from 'node:assert/strict'
import { test } from 'node:test'
import { digestOf, MEDIA_TYPE_OCI_MANIFEST } from '@shoal/oci'
import {
  manifestBytes,
  manifestDigest,
  requestOptions,
  sendError,
  startServer,
  startUpstream,
  targetAt,
} from './testing.ts'

const manifest = { bytes: manifestBytes, mediaType: MEDIA_TYPE_OCI_MANIFEST }

test('a manifest is put under its digest or its tags, with its exact bytes', async (t) => {
  const subject = digestOf('subject')
  const registry = await startServer(t, (_request, response) => {
    response.writeHead(201, { 'docker-content-digest': manifestDigest, 'oci-subject': subject }).end()
  })
  const upstream = startUpstream(t)
  const target = targetAt(registry.host)
  const put = await upstream.putManifest(target, manifest, [], requestOptions())
  assert.deepEqual(put, { digest: manifestDigest, subject })
  await upstream.putManifest(target, manifest, ['1.0', 'latest'], requestOptions())
  assert.deepEqual(
    registry.seen.map(({ url }) => url),
    [manifestDigest, '1.0', 'latest'].map((reference) => `/v2/team/app/manifests/${reference}`),
  )
  for (const { method, body, headers } of registry.seen) {
    assert.deepEqual([method, body], ['PUT', manifestBytes.toString()])
    assert.equal(headers['content-type'], MEDIA_TYPE_OCI_MANIFEST)
  }
  await assert.rejects(upstream.putManifest(target, manifest, ['../x'], requestOptions()), /neither a tag nor a digest/)
})

test('what the registry says against a manifest is told; another digest is not believed', async (t) => {
  const registry = await startServer(t, (request, response) => {
    if (request.url.endsWith('/lie')) {
      response.writeHead(201, { 'docker-content-digest': digestOf('else') }).end()
    } else sendError(response, 400, 'MANIFEST_BLOB_UNKNOWN')
  })
  const upstream = startUpstream(t)
  const target = targetAt(registry.host)
  await assert.rejects(upstream.putManifest(target, manifest, ['1.0'], requestOptions()), {
    code: 'PROTOCOL',
    status: 400,
    message: /the manifest team\/app:1.0 with HTTP 400 \(MANIFEST_BLOB_UNKNOWN: message of/,
  })
  await assert.rejects(upstream.putManifest(target, manifest, ['lie'], requestOptions()), {
    code: 'PROTOCOL',
    message: /kept the manifest/,
  })
})

test('deleting says whether there was something', async (t) => {
  const registry = await startServer(t, (request, response) => {
    if (request.url.includes('forbidden')) sendError(response, 405, 'UNSUPPORTED')
    else response.writeHead(request.url.includes('gone') ? 404 : 202).end()
  })
  const upstream = startUpstream(t)
  const target = targetAt(registry.host)
  const options = requestOptions()
  assert.equal(await upstream.deleteManifest(target, '1.0', options), true)
  assert.equal(await upstream.deleteManifest(target, 'gone', options), false)
  assert.equal(await upstream.deleteBlob(target, manifestDigest, options), true)
  await assert.rejects(upstream.deleteManifest(targetAt(registry.host, 'forbidden/x'), '1', options), { status: 405 })
  assert.deepEqual(
    registry.seen.map(({ method }) => method),
    ['DELETE', 'DELETE', 'DELETE', 'DELETE'],
  )
})

test('a token for pulling is not used for pushing: each is asked for with its own scope', async (t) => {
  const scopes: string[] = []
  const registry = await startServer(t, (request, response) => {
    const url = new URL(request.url, 'http://registry')
    if (url.pathname === '/token') {
      const scope = url.searchParams.getAll('scope').join(' ')
      scopes.push(scope)
      response.writeHead(200).end(JSON.stringify({ token: Buffer.from(scope).toString('base64url') }))
      return
    }
    const wanted = request.method === 'HEAD' ? 'pull' : request.method === 'DELETE' ? 'delete' : 'push'
    const held = Buffer.from(request.headers.authorization?.slice('Bearer '.length) ?? '', 'base64url').toString()
    if (!new RegExp(`repository:team/app:\\S*\\b${wanted}\\b`).test(held)) {
      response.writeHead(401, { 'www-authenticate': `Bearer realm="${registry.url}/token",service="s"` }).end()
    } else if (request.method === 'HEAD') response.writeHead(200, { 'content-length': 3 }).end()
    else response.writeHead(request.method === 'PUT' ? 201 : 202).end()
  })
  const upstream = startUpstream(t)
  const target = targetAt(registry.host)
  await upstream.headBlob(target, manifestDigest, requestOptions())
  await upstream.putManifest(target, manifest, ['a', 'b'], requestOptions())
  await upstream.deleteManifest(target, 'a', requestOptions())
  assert.deepEqual(scopes, ['repository:team/app:pull', 'repository:team/app:pull,push', 'repository:team/app:delete'])
})
