import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it, type TestContext } from 'node:test'
import { createOrigin, type Origin } from '@shoal/origin'
import { pino } from 'pino'
import { request } from 'undici'
import { makeImage, type DemoImage } from './image.ts'
import { pullImage, pushImage, readMetric } from './registry-client.ts'

const { signal } = new AbortController()
let directory = ''
let origin: Origin
let image: DemoImage

before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'shoal-client-'))
  const dataDirectory = join(directory, 'origin')
  origin = await createOrigin({ dataDirectory, host: '127.0.0.1', port: 0, logger: pino({ level: 'silent' }) })
  image = await makeImage(directory, 2_000_000)
  await pushImage(origin.url, 'demo/app', '1.0', image, signal)
})
after(async () => {
  await origin.close()
  await rm(directory, { recursive: true })
})

const pull = (base: string) => pullImage(base, 'demo/app', '1.0', () => {}, signal)

/** The origin behind a proxy that changes its answers. */
async function tampering(
  t: TestContext,
  change: (path: string, body: Buffer, response: ServerResponse) => Buffer,
): Promise<string> {
  const forward = async (asked: IncomingMessage, response: ServerResponse) => {
    const answer = await request(`${origin.url}${asked.url}`, { headers: { accept: asked.headers.accept ?? '*/*' } })
    const { 'content-type': type, 'docker-content-digest': digest } = answer.headers
    response.setHeader('content-type', type ?? '')
    if (digest !== undefined) response.setHeader('docker-content-digest', digest)
    response.end(change(asked.url ?? '', Buffer.from(await answer.body.arrayBuffer()), response))
  }
  const server = createServer((asked, response) => {
    forward(asked, response).catch(() => response.destroy())
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

describe('pullImage', () => {
  it('pulls what pushImage pushed, and counts its bytes', async () => {
    let received = 0
    const result = await pullImage(origin.url, 'demo/app', '1.0', (bytes) => (received += bytes), signal)
    assert.equal(result.digest, image.manifestDigest)
    assert.equal(result.verified, image.blobs.length + 1)
    assert.equal(received, image.sizeBytes)
    assert.ok((await readMetric(`${origin.url}/metrics`, 'shoal_origin_bytes_sent_total')) >= image.sizeBytes)
  })

  it('finds a byte that is wrong', async (t) => {
    const base = await tampering(t, (path, body) => {
      if (path.includes('/blobs/')) body.writeUInt8(body.readUInt8(100) ^ 1, 100)
      return body
    })
    await assert.rejects(pull(base), /wrong bytes: sha256:\w+ instead of sha256:/)
  })

  it('finds a blob that ends too early', async (t) => {
    const base = await tampering(t, (path, body) => (path.includes('/blobs/') ? body.subarray(0, -1) : body))
    await assert.rejects(pull(base), /sent \d+ bytes of sha256:\w+, which has \d+/)
  })

  it('finds a manifest that is not the one it was named', async (t) => {
    const base = await tampering(t, (path, body) =>
      path.includes('/manifests/') ? Buffer.concat([body, Buffer.from(' ')]) : body,
    )
    await assert.rejects(pull(base), /a manifest that is not the one it named/)
  })

  it('passes on what a registry says', async () => {
    await assert.rejects(
      pullImage(origin.url, 'demo/app', '2.0', () => {}, signal),
      /was answered 404: .*MANIFEST_UNKNOWN/,
    )
  })
})

describe('readMetric', () => {
  it('adds up the samples with a label', async (t) => {
    const text =
      '# HELP a_total x\na_total{source="peer"} 3\na_total{source="origin"} 4\na_total{source="peer",x="y"} 5\nab_total 9\n'
    const server = createServer((_request, response) => response.end(text)).listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(() => {
      server.closeAllConnections()
      server.close()
    })
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/metrics`
    assert.equal(await readMetric(url, 'a_total', 'source="peer"'), 8)
    assert.equal(await readMetric(url, 'a_total'), 12)
    assert.equal(await readMetric(url, 'none'), 0)
  })
})
