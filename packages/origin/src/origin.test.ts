import { test } from 'node:test'
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { request } from 'node:https'
import { once } from 'node:events'
import { join } from 'node:path'
import { rename } from 'node:fs/promises'
import type { IncomingMessage } from 'node:http'
import type { TLSSocket } from 'node:tls'
import { promisify } from 'node:util'
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

test('finds repositories by what they say of themselves, as it is now', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const about = (description: string) => ({ annotations: { 'org.opencontainers.image.description': description } })
  await client.pushImage('team/shop', '1', makeImage([], about('Web shop of the north')))
  await client.pushImage('team/other', '1', makeImage([]))
  const search = async (term: string) =>
    (await client.get(`/v1/search?q=${term}`)).json['results'] as { name: string; description: string }[]
  const [found, ...rest] = await search('north')
  assert.deepEqual([found?.name, found?.description, rest.length], ['team/shop', 'Web shop of the north', 0])
  await client.pushImage('team/shop', 'latest', makeImage([], about('Web shop of the south')))
  assert.deepEqual(await search('north'), [])
  assert.equal((await search('SOUTH'))[0]?.description, 'Web shop of the south')
})

/** A self-signed certificate in the place of the one before. */
async function writeCertificate(cert: string, key: string, name: string): Promise<void> {
  const subject = ['-subj', `/CN=${name}`, '-addext', 'subjectAltName=DNS:localhost']
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1']
  // Not at once: the registry under test runs in this process.
  await promisify(execFile)('openssl', ['req', '-x509', ...curve, '-nodes', ...subject, '-keyout', key, '-out', cert])
}

/** Name on the certificate that a new connection is shown. */
async function certificateName(url: string): Promise<string | undefined> {
  const outgoing = request(`${url}/v2/`, { rejectUnauthorized: false, agent: false }).end()
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage]
  response.resume()
  assert.equal(response.statusCode, 200)
  const { CN } = (response.socket as TLSSocket).getPeerCertificate().subject
  return Array.isArray(CN) ? CN[0] : CN
}

test('speaks TLS, and takes a new certificate without a restart', async () => {
  await using folder = await temporaryFolder()
  const key = join(folder.path, 'key.pem')
  const cert = join(folder.path, 'cert.pem')
  await writeCertificate(cert, key, 'first')
  await using origin = await startOrigin(join(folder.path, 'data'), { tlsCertFile: cert, tlsKeyFile: key })
  assert.match(origin.url, /^https:/)
  assert.equal(await certificateName(origin.url), 'first')
  await assert.rejects(startOrigin(folder.path, { tlsCertFile: cert }), /go together/)
  // Half of a new pair does not fit and changes nothing; with the other half it is taken.
  await writeCertificate(cert, join(folder.path, 'next.pem'), 'second')
  await rename(join(folder.path, 'next.pem'), key)
  const signal = AbortSignal.timeout(30_000)
  while ((await certificateName(origin.url)) !== 'second') signal.throwIfAborted()
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
