// What the browser of somebody who reaches an endpoint may be made to do by a page of others.
import assert from 'node:assert/strict'
import { hostname } from 'node:os'
import { test } from 'node:test'
import { MemoryBackend, rawConnection, readToEnd, startServer } from './testing.ts'
import { isLocalName } from './web-pages.ts'

async function statusOf(port: number, method: string, path: string, headers: Record<string, string>): Promise<number> {
  const lines = Object.entries({ ...headers, Connection: 'close', 'Content-Length': '0' })
  const head = lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')
  const socket = await rawConnection(port, `${method} ${path} HTTP/1.1\r\n${head}\r\n`)
  const { bytes } = await readToEnd(socket)
  return Number(/^HTTP\/1\.1 (\d+)/.exec(bytes.toString())?.[1])
}

test('a page of another origin writes nothing, as a form would neither', async () => {
  const webPages = { allowedOrigins: ['https://ui.example.com'] }
  await using server = await startServer({ backend: new MemoryBackend() }, { push: true, webPages })
  const path = '/v2/app/blobs/uploads/?digest=sha256:x'
  const host = 'registry.example.com:9000'
  for (const origin of ['https://evil.example', 'null', 'https://registry.example.com:9001']) {
    assert.equal(await statusOf(server.port, 'POST', path, { Host: host, Origin: origin }), 403, origin)
  }
  // 405: it is asked, and this backend takes no pushes.
  for (const origin of ['https://ui.example.com', `https://${host}`, `http://${host}`]) {
    assert.equal(await statusOf(server.port, 'POST', path, { Host: host, Origin: origin }), 405, origin)
  }
  assert.equal(await statusOf(server.port, 'POST', path, { Host: host }), 405, 'no browser')
  assert.equal(await statusOf(server.port, 'GET', '/v2/', { Host: host, Origin: 'https://evil.example' }), 200)
})

test('an endpoint for this machine alone is not asked by the name of another', async () => {
  await using server = await startServer({ backend: new MemoryBackend() }, { webPages: { localNamesOnly: true } })
  for (const host of ['evil.example', 'evil.example:7700', 'localhost.evil.example', '127.0.0.1.evil.example', 'a b']) {
    assert.notEqual(await statusOf(server.port, 'GET', '/v2/', { Host: host }), 200, host)
  }
  for (const host of ['127.0.0.1:7700', 'localhost:7700', '[::1]:7700', 'app.localhost', '10.0.0.7', hostname()]) {
    assert.equal(await statusOf(server.port, 'GET', '/v2/', { Host: host }), 200, host)
  }
  await using open = await startServer({ backend: new MemoryBackend() })
  assert.equal(await statusOf(open.port, 'GET', '/v2/', { Host: 'registry.example.com' }), 200)
})

test('no header at all is no browser', () => {
  assert.equal(isLocalName(undefined), true)
})
