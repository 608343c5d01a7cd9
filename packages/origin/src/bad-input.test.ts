// What no well-behaved client sends, over bare sockets, as client libraries would put it right: each is answered with the
// status and code of the OCI distribution specification 1.1 ("Error codes"), and what is stored stays as it was.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join, relative } from 'node:path'
import { digestOf, MAX_MANIFEST_BYTES } from '@shoal/oci'
import { INDEX_TYPE, makeImage, MANIFEST_TYPE, startOrigin, temporaryFolder } from './testing.ts'

const ANSWER_LIMIT_MS = 30_000

interface RawRequest {
  method: string
  /** Goes out as it stands, one byte for each character. */
  path: string
  headers?: Record<string, string | number>
  body?: Buffer | string
  /** Ends our half of the connection once all is sent, as a client does that dies. */
  cutOff?: boolean
}

interface RawAnswer {
  status: number
  code: string | undefined
}

async function send(url: string, { method, path, headers = {}, body = '', cutOff }: RawRequest): Promise<RawAnswer> {
  const { hostname, port } = new URL(url)
  const socket = connect({ host: hostname, port: Number(port), signal: AbortSignal.timeout(ANSWER_LIMIT_MS) })
  const pieces: Buffer[] = []
  socket.on('data', (piece: Buffer) => pieces.push(piece))
  // A reset after the answer is as good as an end: the registry need not read what it refused.
  socket.on('error', () => undefined)
  const closed = once(socket, 'close')
  const all = { Host: 'registry', Connection: 'close', 'Content-Length': body.length, ...headers }
  const head = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`)
  socket.write(Buffer.from(`${method} ${path} HTTP/1.1\r\n${head.join('')}\r\n`, 'latin1'))
  socket.write(body)
  if (cutOff) socket.end()
  await closed
  const text = Buffer.concat(pieces).toString()
  const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(text)?.[1])
  const json = text.slice(text.indexOf('\r\n\r\n') + 4)
  const answer = json.startsWith('{') ? (JSON.parse(json) as { errors: { code: string }[] }) : undefined
  return { status, code: answer?.errors[0]?.code }
}

/** Every file below a folder with the digest of its content. */
async function snapshot(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
  const lines = files.map(async (file) => `${relative(folder, file)} ${digestOf(await readFile(file))}`)
  return (await Promise.all(lines)).sort()
}

type Case = [what: string, request: RawRequest, status: number, code: string]

/** Sends all of them to a registry with an image `team/app:good` and an upload of it that holds `hello`. */
async function refuses(casesOf: (location: string) => Case[]): Promise<void> {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client, url } = origin
  assert.equal((await client.pushImage('team/app', 'good', makeImage())).status, 201)
  const location = await client.startUpload('team/app')
  assert.equal((await client.ask('PATCH', location, { body: 'hello' })).status, 202)
  const before = await snapshot(folder.path)
  const tags = (await client.get('/v2/team/app/tags/list')).json
  for (const [what, request, status, code] of casesOf(location)) {
    assert.deepEqual(await send(url, request), { status, code }, what)
    assert.deepEqual(await snapshot(folder.path), before, what)
  }
  assert.deepEqual((await client.get('/v2/team/app/tags/list')).json, tags)
  assert.deepEqual((await client.get('/v2/_catalog')).json, { repositories: ['team/app'] })
  // What was begun before all this can be ended still.
  assert.equal((await client.ask('PUT', `${location}?digest=${digestOf('hello')}`)).status, 201)
}

const BAD_NAMES: Record<string, string> = {
  'dots as they are': '..',
  'dots in the middle': 'team/../../app',
  'encoded dots': '%2e%2e',
  'dots encoded twice': '%252e%252e',
  'an encoded slash and dots': 'team%2f..%2f..%2fetc',
  'an absolute path': '%2fetc%2fpasswd',
  backslashes: 'team%5c..%5capp',
  'an encoded NUL': 'team/app%00',
  'a NUL before an ending': 'app%00.json',
  'a line break': 'app%0d%0aX-Evil:1',
  'a folder of the layout': 'team/app/_tags',
  'an empty part': 'team//app',
  'a capital letter': 'Team',
  'UTF-8 that ends too early': '%c3',
  'an overlong dot': '%c0%ae%c0%ae',
  'a surrogate': '%ed%a0%80',
  'too many characters': 'a'.repeat(256),
  'too many characters with slashes': `${'a/'.repeat(128)}a`,
  'more than any path has': 'a'.repeat(5_000),
}

test('names that are none lead nowhere', async () => {
  // Bytes above 127 are no HTTP at all (RFC 9112, section 3.2): they are refused before anyone reads a name.
  await refuses(() => [['bare bytes', { method: 'GET', path: '/v2/\xff\xfe/tags/list' }, 400, 'UNSUPPORTED']])
  await refuses(() =>
    Object.entries(BAD_NAMES).flatMap(([what, name]): Case[] => [
      [`POST with ${what}`, { method: 'POST', path: `/v2/${name}/blobs/uploads/` }, 400, 'NAME_INVALID'],
      [`GET with ${what}`, { method: 'GET', path: `/v2/${name}/tags/list` }, 400, 'NAME_INVALID'],
      [
        `PUT with ${what}`,
        {
          method: 'PUT',
          path: `/v2/${name}/manifests/latest`,
          headers: { 'Content-Type': INDEX_TYPE },
          body: JSON.stringify({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests: [] }),
        },
        400,
        'NAME_INVALID',
      ],
    ]),
  )
})

test('ids of uploads that were never given lead nowhere', async () => {
  const ids = ['..', '%2e%2e', '..%2f..%2fsessions', '%2fetc%2fpasswd', '%00', 'x%00', 'a'.repeat(129), '%ff']
  await refuses((location) => {
    const real = location.slice(location.lastIndexOf('/') + 1)
    return [...ids, `${real}%00`, `${real}%2f..%2f${real}`, `.%2f${real}`].flatMap((id): Case[] =>
      ['GET', 'PATCH', 'PUT', 'DELETE'].map((method) => {
        const query = method === 'PUT' ? `?digest=${digestOf('hello')}` : ''
        const request = { method, path: `/v2/team/app/blobs/uploads/${id}${query}` }
        return id === '%ff'
          ? [`${method} ${id}`, request, 400, 'NAME_INVALID']
          : [`${method} ${id}`, request, 404, 'BLOB_UPLOAD_UNKNOWN']
      }),
    )
  })
})

test('digests that are none or wrong, and ranges that do not fit', async () => {
  const bad = ['', 'sha256:', 'sha256:..%2f..%2fx', `sha256:${'A'.repeat(64)}`, `md5:${'0'.repeat(32)}`, 'sha256%00:x']
  await refuses((location) => {
    const patch = (range: string, body: string): RawRequest => ({
      method: 'PATCH',
      path: location,
      headers: { 'Content-Range': range },
      body,
    })
    return [
      ...bad.flatMap((digest): Case[] => [
        [`PUT ${digest}`, { method: 'PUT', path: `${location}?digest=${digest}` }, 400, 'DIGEST_INVALID'],
        [`GET ${digest}`, { method: 'GET', path: `/v2/team/app/blobs/${digest || 'x'}` }, 400, 'DIGEST_INVALID'],
      ]),
      // An empty `mount` is as good as none.
      ...bad
        .filter(Boolean)
        .map((digest): Case => [
          `mount ${digest}`,
          { method: 'POST', path: `/v2/team/app/blobs/uploads/?mount=${digest}&from=team/app` },
          400,
          'DIGEST_INVALID',
        ]),
      [
        'another digest than that of the bytes',
        { method: 'POST', path: `/v2/team/app/blobs/uploads/?digest=${digestOf('x')}`, body: 'y' },
        400,
        'DIGEST_INVALID',
      ],
      ['a range that was sent', patch('0-4', 'world'), 416, 'RANGE_INVALID'],
      ['a range after a gap', patch('6-10', 'world'), 416, 'RANGE_INVALID'],
      ['a range longer than the body', patch('5-100', 'world'), 400, 'SIZE_INVALID'],
      ['a range backwards', patch('9-5', 'world'), 400, 'BLOB_UPLOAD_INVALID'],
      ['a range below zero', patch('-1-3', 'world'), 400, 'BLOB_UPLOAD_INVALID'],
      ['a range of no number', patch('5-9e9', 'world'), 400, 'BLOB_UPLOAD_INVALID'],
      ['a range that no number holds', patch(`5-${'9'.repeat(40)}`, 'world'), 400, 'BLOB_UPLOAD_INVALID'],
    ]
  })
})

test('manifests that are too large, of an unknown kind, no UTF-8, or cut off', async () => {
  const put = (body: Buffer | string, type = MANIFEST_TYPE, headers = {}): RawRequest => ({
    method: 'PUT',
    path: '/v2/team/app/manifests/latest',
    headers: { 'Content-Type': type, ...headers },
    body,
  })
  const index = (type: string): string => JSON.stringify({ schemaVersion: 2, mediaType: type, manifests: [] })
  const text = index(INDEX_TYPE)
  const annotated = Buffer.from(text.replace('}', ',"annotations":{"a":"??"}}'), 'latin1')
  annotated.write('\xc3\x28', annotated.indexOf('??'), 'latin1')
  await refuses(() => [
    [
      'announced too large',
      { ...put(''), headers: { 'Content-Type': INDEX_TYPE, 'Content-Length': MAX_MANIFEST_BYTES + 1 } },
      413,
      'SIZE_INVALID',
    ],
    ['a length beyond all numbers', put('', INDEX_TYPE, { 'Content-Length': '9'.repeat(15) }), 413, 'SIZE_INVALID'],
    ['an unknown media type', put(index('text/html'), 'text/html'), 400, 'MANIFEST_INVALID'],
    ['no media type that is one', put(index('/'), '/'), 400, 'MANIFEST_INVALID'],
    ['bad UTF-8 in a text', put(annotated, INDEX_TYPE), 400, 'MANIFEST_INVALID'],
    ['bytes only', put(Buffer.from([0xff, 0xfe, 0x00]), INDEX_TYPE), 400, 'MANIFEST_INVALID'],
    ['nothing', put('', INDEX_TYPE), 400, 'MANIFEST_INVALID'],
    ['a folder for a tag', { ...put(text, INDEX_TYPE), path: '/v2/team/app/manifests/%2e%2e' }, 400, 'TAG_INVALID'],
    ['a tag with NUL', { ...put(text, INDEX_TYPE), path: '/v2/team/app/manifests/a%00' }, 400, 'TAG_INVALID'],
    [
      'a tag too long',
      { ...put(text, INDEX_TYPE), path: `/v2/team/app/manifests/${'t'.repeat(129)}` },
      400,
      'TAG_INVALID',
    ],
  ])
})

test('what is cut off in the middle does not appear', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client, url } = origin
  await client.pushImage('team/app', 'good', makeImage())
  const before = await snapshot(folder.path)
  const text = JSON.stringify({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests: [] })
  await send(url, {
    method: 'PUT',
    path: '/v2/team/app/manifests/latest',
    headers: { 'Content-Type': INDEX_TYPE, 'Content-Length': text.length + 1 },
    body: text,
    cutOff: true,
  })
  await send(url, {
    method: 'POST',
    path: `/v2/team/app/blobs/uploads/?digest=${digestOf('whole')}`,
    headers: { 'Content-Length': 6 },
    body: 'whole',
    cutOff: true,
  })
  const location = await client.startUpload('team/app')
  await send(url, {
    method: 'PUT',
    path: `${location}?digest=${digestOf('whole')}`,
    headers: { 'Content-Length': 6 },
    body: 'whole',
    cutOff: true,
  })
  assert.equal((await client.head(`/v2/team/app/blobs/${digestOf('whole')}`)).status, 404)
  assert.deepEqual((await client.get('/v2/team/app/tags/list')).json['tags'], ['good'])
  // What came of the last one may be gone on with; taken back, nothing of the three is left.
  assert.equal((await client.ask('DELETE', location)).status, 204)
  assert.deepEqual(await snapshot(folder.path), before)
})
