import { test } from 'node:test'
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { digestOf, type Digest } from '@shoal/oci'
import { chunkLength, chunkSizeFor } from '@shoal/store'
import { codeOf, makeImage, startOrigin, temporaryFolder, type Client } from './testing.ts'

const OCTET = { 'content-type': 'application/octet-stream' }

/** Every way that clients push a blob; all must come to the same. */
const WAYS: Record<
  string,
  (client: Client, name: string, bytes: Buffer<ArrayBuffer>, digest: Digest) => Promise<number>
> = {
  'one POST': async (client, name, bytes, digest) => (await client.pushBlob(name, bytes, digest)).status,
  'POST and PUT (containerd)': async (client, name, bytes, digest) => {
    const location = await client.startUpload(name)
    return (await client.ask('PUT', `${location}?digest=${digest}`, { body: bytes, headers: OCTET })).status
  },
  'a stream without length (docker)': async (client, name, bytes, digest) => {
    const location = await client.startUpload(name)
    const patch = await client.ask('PATCH', location, { body: new Blob([bytes]).stream(), duplex: 'half' })
    assert.equal(patch.status, 202)
    assert.equal(patch.headers.get('range'), `0-${Math.max(0, bytes.length - 1)}`)
    return (await client.ask('PUT', `${patch.headers.get('location')}?digest=${digest}`)).status
  },
  'chunks (podman, oras)': async (client, name, bytes, digest) => {
    let location = await client.startUpload(name)
    const size = Math.ceil(bytes.length / 3)
    for (let at = 0; at < bytes.length; at += size) {
      const body = bytes.subarray(at, at + size)
      const range = `${at}-${at + body.length - 1}`
      const patch = await client.ask('PATCH', location, { body, headers: { ...OCTET, 'content-range': range } })
      assert.equal(patch.status, 202)
      location = patch.headers.get('location') ?? ''
    }
    return (await client.ask('PUT', `${location}?digest=${digest}`)).status
  },
}

for (const [way, push] of Object.entries(WAYS)) {
  test(`a blob comes back as it was pushed, in ${way}`, async () => {
    await using folder = await temporaryFolder()
    await using origin = await startOrigin(folder.path)
    const { client } = origin
    for (const size of [0, 1, 300_000, 3_000_000]) {
      const bytes = randomBytes(size)
      const digest = digestOf(bytes)
      assert.equal(await push(client, 'team/app', bytes, digest), 201)
      const answer = await client.get(`/v2/team/app/blobs/${digest}`)
      assert.equal(answer.status, 200)
      assert.equal(answer.headers.get('x-shoal-origin'), '1')
      assert.ok(answer.body.equals(bytes))
      const part = await client.get(`/v2/team/app/blobs/${digest}`, { range: 'bytes=-100' })
      assert.equal(part.status, size === 0 ? 416 : 206)
      await checkChunkList(client, 'team/app', digest, bytes)
    }
    assert.deepEqual(await readdir(join(folder.path, 'uploads')), [])
    assert.deepEqual(await readdir(join(folder.path, 'sessions')), [])
  })

  test(`a wrong digest changes nothing, in ${way}`, async () => {
    await using folder = await temporaryFolder()
    await using origin = await startOrigin(folder.path)
    const bytes = randomBytes(300_000)
    const wrong = digestOf('something else')
    assert.equal(await push(origin.client, 'a', bytes, wrong), 400)
    assert.equal((await origin.client.head(`/v2/a/blobs/${wrong}`)).status, 404)
    assert.equal((await origin.client.head(`/v2/a/blobs/${digestOf(bytes)}`)).status, 404)
    assert.deepEqual(await readdir(join(folder.path, 'uploads')), [])
  })

  test(`sha512 works, in ${way}`, async () => {
    await using folder = await temporaryFolder()
    await using origin = await startOrigin(folder.path)
    const bytes = randomBytes(100_000)
    const digest = digestOf(bytes, 'sha512')
    assert.equal(await push(origin.client, 'a', bytes, digest), 201)
    assert.ok((await origin.client.get(`/v2/a/blobs/${digest}`)).body.equals(bytes))
    await checkChunkList(origin.client, 'a', digest, bytes)
  })
}

async function checkChunkList(client: Client, name: string, digest: Digest, bytes: Buffer): Promise<void> {
  const { status, json } = await client.get(`/v2/${name}/_shoal/chunks/${digest}`)
  assert.equal(status, 200)
  assert.equal(json['size'], bytes.length)
  assert.equal(json['chunkSize'], chunkSizeFor(bytes.length))
  const expected: Buffer[] = []
  for (let at = 0; at < bytes.length; at += chunkSizeFor(bytes.length)) {
    const length = chunkLength(bytes.length, expected.length)
    expected.push(
      createHash('sha256')
        .update(bytes.subarray(at, at + length))
        .digest(),
    )
  }
  assert.equal(json['hashes'], Buffer.concat(expected).toString('base64'))
}

test('a chunk out of order is refused with where the upload stands', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const location = await client.startUpload('a')
  const first = { body: 'hello', headers: { ...OCTET, 'content-range': '0-4' } }
  assert.equal((await client.ask('PATCH', location, first)).status, 202)
  for (const range of ['0-4', '6-10', '4-8']) {
    const answer = await client.ask('PATCH', location, { body: 'world', headers: { ...OCTET, 'content-range': range } })
    assert.equal(answer.status, 416, range)
    assert.equal(codeOf(answer), 'RANGE_INVALID')
    assert.equal(answer.headers.get('range'), '0-4')
    assert.equal(answer.headers.get('location'), location)
  }
  const state = await client.get(location)
  assert.equal(state.status, 204)
  assert.equal(state.headers.get('range'), '0-4')
  const digest = digestOf('helloworld')
  const last = { body: 'world', headers: { ...OCTET, 'content-range': '5-9' } }
  assert.equal((await client.ask('PUT', `${location}?digest=${digest}`, last)).status, 201)
  assert.equal((await client.get(`/v2/a/blobs/${digest}`)).body.toString(), 'helloworld')
})

test('a part that contradicts itself is taken back', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const location = await client.startUpload('a')
  await client.ask('PATCH', location, { body: 'hello', headers: OCTET })
  for (const [range, body, code] of [
    ['5-100', 'world', 'SIZE_INVALID'],
    ['100-5', 'world', 'BLOB_UPLOAD_INVALID'],
    ['five', 'world', 'BLOB_UPLOAD_INVALID'],
  ] as const) {
    const answer = await client.ask('PATCH', location, { body, headers: { ...OCTET, 'content-range': range } })
    assert.equal(answer.status, 400)
    assert.equal(codeOf(answer), code)
  }
  for (const range of ['5-6', '5-100']) {
    // Without a length, only the bytes themselves show that the range is wrong.
    const body = new Blob(['world']).stream()
    const headers = { 'content-range': range }
    const answer = await client.ask('PATCH', location, { body, headers, duplex: 'half' })
    assert.equal(codeOf(answer), 'SIZE_INVALID')
    assert.equal((await client.get(location)).headers.get('range'), '0-4')
  }
  await client.ask('PATCH', location, { body: '!', headers: OCTET })
  assert.equal((await client.ask('PUT', `${location}?digest=${digestOf('hello!')}`)).status, 201)
})

test('an upload belongs to its repository, and is gone after cancelling', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const location = await client.startUpload('a')
  const elsewhere = location.replace('/v2/a/', '/v2/b/')
  for (const method of ['GET', 'PATCH', 'DELETE']) {
    const answer = await client.ask(method, elsewhere)
    assert.equal(answer.status, 404)
    if (method !== 'GET') assert.equal(codeOf(answer), 'BLOB_UPLOAD_UNKNOWN')
  }
  assert.equal((await client.ask('DELETE', location)).status, 204)
  assert.equal((await client.get(location)).status, 404)
  assert.equal((await client.get('/v2/a/blobs/uploads/..%2f..%2fx')).status, 404)
  assert.equal((await client.ask('PUT', location)).status, 400)
  const bad = await client.ask('PUT', `${location}?digest=md5:x`)
  assert.equal(codeOf(bad), 'DIGEST_INVALID')
})

/** Sends a part of a PATCH and breaks the connection once the registry has taken it. */
async function breakOff(
  client: Client,
  location: string,
  bytes: Buffer,
  isThere: () => Promise<boolean>,
): Promise<void> {
  const { hostname, port } = new URL(client.url)
  const socket = connect({ host: hostname, port: Number(port) })
  await once(socket, 'connect')
  socket.write(`PATCH ${location} HTTP/1.1\r\nHost: x\r\nContent-Length: ${bytes.length * 2}\r\n\r\n`)
  socket.write(bytes)
  while (!(await isThere())) await new Promise((resolve) => setImmediate(resolve))
  socket.destroy()
}

for (const restart of [false, true]) {
  test(`a broken upload is resumed${restart ? ' after a restart' : ''}`, async () => {
    await using folder = await temporaryFolder()
    const bytes = randomBytes(5_000_000)
    const digest = digestOf(bytes)
    let origin = await startOrigin(folder.path)
    const location = await origin.client.startUpload('a')
    const { client } = origin
    const received = async (): Promise<number> => {
      const state = await client.get(location)
      return Number(/^0-(\d+)$/.exec(state.headers.get('range') ?? '')?.[1]) + 1
    }
    const half = bytes.subarray(0, 2_500_000)
    await breakOff(client, location, half, async () => (await received()) >= 2 * 1024 * 1024)
    if (restart) {
      await origin.close()
      origin = await startOrigin(folder.path)
    }
    await using running = origin
    // Going on ends the broken request, if it is still there; then the state is final.
    let answer = await running.client.ask('PATCH', location, {
      body: 'x',
      headers: { 'content-range': '1-1', ...OCTET },
    })
    assert.equal(answer.status, 416)
    const at = Number(answer.headers.get('range')?.slice(2)) + 1
    assert.ok(at >= 2 * 1024 * 1024 && at <= half.length)
    const headers = { ...OCTET, 'content-range': `${at}-${bytes.length - 1}` }
    answer = await running.client.ask('PATCH', location, { body: bytes.subarray(at), headers })
    assert.equal(answer.status, 202)
    assert.equal((await running.client.ask('PUT', `${location}?digest=${digest}`)).status, 201)
    assert.ok((await running.client.get(`/v2/a/blobs/${digest}`)).body.equals(bytes))
    await checkChunkList(running.client, 'a', digest, bytes)
  })
}

test('a blob is visible where it was pushed or mounted, and nowhere else', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const bytes = randomBytes(100)
  const digest = digestOf(bytes)
  assert.equal((await client.pushBlob('a', bytes)).status, 201)
  assert.equal((await client.head(`/v2/b/blobs/${digest}`)).status, 404)
  const unknown = await client.ask('POST', `/v2/b/blobs/uploads/?mount=${digestOf('no')}&from=a`)
  assert.equal(unknown.status, 202)
  assert.ok(unknown.headers.get('location'))
  const mounted = await client.ask('POST', `/v2/b/blobs/uploads/?mount=${digest}&from=a`)
  assert.equal(mounted.status, 201)
  assert.equal(mounted.headers.get('location'), `/v2/b/blobs/${digest}`)
  const anywhere = await client.ask('POST', `/v2/c/d/blobs/uploads/?mount=${digest}`)
  assert.equal(anywhere.status, 201)
  assert.equal((await client.ask('DELETE', `/v2/a/blobs/${digest}`)).status, 202)
  assert.equal((await client.head(`/v2/a/blobs/${digest}`)).status, 404)
  for (const name of ['b', 'c/d']) assert.ok((await client.get(`/v2/${name}/blobs/${digest}`)).body.equals(bytes))
  const tricky = await client.ask('POST', `/v2/e/blobs/uploads/?mount=${digest}&from=${encodeURIComponent('../b')}`)
  assert.equal(codeOf(tricky), 'NAME_INVALID')
})

test('the end of an upload may be asked for again, meanwhile or later', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const blob = randomBytes(2_000_000)
  const digest = digestOf(blob)
  const location = await client.startUpload('app')
  assert.equal((await client.ask('PATCH', location, { body: blob })).status, 202)
  const finish = () => client.ask('PUT', `${location}?digest=${digest}`)
  const answers = [...(await Promise.all([finish(), finish()])), await finish()]
  assert.deepEqual(
    answers.map(({ status }) => status),
    [201, 201, 201],
  )
  const wrong = await client.ask('PUT', `${location}?digest=${digestOf('other')}`)
  assert.equal(codeOf(wrong), 'BLOB_UPLOAD_UNKNOWN')
})

test('many uploads of the same blob at once end in one blob', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const bytes = randomBytes(500_000)
  const digest = digestOf(bytes)
  const names = ['a', 'b', 'c', 'a', 'b', 'c']
  const answers = await Promise.all(names.map((name) => origin.client.pushBlob(name, bytes)))
  assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([201]))
  for (const name of names) assert.ok((await origin.client.get(`/v2/${name}/blobs/${digest}`)).body.equals(bytes))
})

test('a manifest that is too large is refused, with and without a length', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const image = makeImage()
  const text = JSON.stringify({ ...image.manifest, annotations: { x: 'x'.repeat(4 * 1024 * 1024) } })
  const known = await origin.client.putManifest('a', 'latest', text)
  assert.equal(known.status, 413)
  assert.equal(codeOf(known), 'SIZE_INVALID')
  const stream = await origin.client.ask('PUT', '/v2/a/manifests/latest', {
    body: new Blob([text]).stream(),
    duplex: 'half',
  })
  assert.equal(stream.status, 413)
})
