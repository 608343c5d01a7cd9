import { test } from 'node:test'
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { request } from 'node:https'
import { once } from 'node:events'
import { join } from 'node:path'
import type { IncomingMessage } from 'node:http'
import { makeImage, startOrigin, temporaryFolder } from './testing.ts'

test('answers health, readiness and metrics', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  assert.equal((await client.get('/healthz')).status, 200)
  assert.equal((await client.get('/readyz')).status, 200)
  const image = makeImage([1000])
  await client.pushImage('a', '1', image)
  const layer = image.manifest.layers[0]?.digest
  await client.get(`/v2/a/blobs/${layer}`)
  const text = (await client.get('/metrics')).body.toString()
  assert.match(text, /^shoal_origin_bytes_sent_total 1000$/m)
  assert.match(text, /^shoal_registry_requests_total\{route="blob",status="200"\} 1$/m)
  assert.match(text, /^shoal_registry_requests_total\{route="uploads",status="201"\} 2$/m)
  assert.match(text, /^shoal_registry_first_byte_seconds_count\{route="blob"\} 1$/m)
  assert.match(text, /^shoal_origin_bytes_received_total 1[0-9]{3}$/m)
})

test('finds repositories for docker search', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const image = makeImage([])
  for (const name of ['foo/bar', 'team/foo', 'foobar', 'other']) await client.pushImage(name, '1', image)
  assert.equal((await client.get('/v1/_ping')).status, 200)
  const found = (await client.get('/v1/search?q=foo&n=2', { 'x-docker-token': 'true' })).json
  assert.equal(found['num_results'], 3)
  const names = (found['results'] as { name: string }[]).map(({ name }) => name)
  assert.deepEqual(names, ['team/foo', 'foo/bar'])
  const rest = (await client.get('/v1/search?q=foo&n=2&page=2')).json
  assert.deepEqual((rest['results'] as { name: string }[])[0]?.name, 'foobar')
  assert.equal((await client.get('/v1/search?q=nothing')).json['num_results'], 0)
})

test('speaks TLS', async () => {
  await using folder = await temporaryFolder()
  const key = join(folder.path, 'key.pem')
  const cert = join(folder.path, 'cert.pem')
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost']
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1']
  execFileSync('openssl', ['req', '-x509', ...curve, '-nodes', ...subject, '-keyout', key, '-out', cert], {
    stdio: 'ignore',
  })
  await using origin = await startOrigin(join(folder.path, 'data'), { tlsCertFile: cert, tlsKeyFile: key })
  assert.match(origin.url, /^https:/)
  const outgoing = request(`${origin.url}/v2/`, { rejectUnauthorized: false, agent: false }).end()
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage]
  response.resume()
  assert.equal(response.statusCode, 200)
  await assert.rejects(startOrigin(folder.path, { tlsCertFile: cert }), /go together/)
})

test('a port that is taken is an error, and leaves nothing open', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  await assert.rejects(startOrigin(join(folder.path, 'second'), { port: origin.port }), /EADDRINUSE/)
})

test('closing lets a running answer end', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path, { shutdownGrace: 10_000 })
  const image = makeImage([8_000_000])
  await origin.client.pushImage('a', '1', image)
  const layer = image.manifest.layers[0]?.digest
  const response = await fetch(`${origin.url}/v2/a/blobs/${layer}`)
  const closing = origin.close()
  assert.equal((await response.arrayBuffer()).byteLength, 8_000_000)
  await closing
  await assert.rejects(fetch(`${origin.url}/v2/`))
})
