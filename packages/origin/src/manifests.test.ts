import { test } from 'node:test'
import assert from 'node:assert/strict'
import { digestOf, MAX_MANIFEST_BYTES } from '@shoal/oci'
import { createUpstream } from '@shoal/upstream'
import {
  codeOf,
  INDEX_TYPE,
  makeCacheIndex,
  makeImage,
  MANIFEST_TYPE,
  startOrigin,
  temporaryFolder,
  type Answer,
  type Client,
  type TestImage,
} from './testing.ts'

function makeIndex(images: TestImage[]): string {
  return JSON.stringify({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests: images.map((image) => image.descriptor) })
}

test('an image is pulled as it was pushed, by tag and digest, also after a restart', async () => {
  await using folder = await temporaryFolder()
  const image = makeImage()
  {
    await using origin = await startOrigin(folder.path)
    const pushed = await origin.client.pushImage('team/app', '1.0', image)
    assert.equal(pushed.status, 201)
    assert.equal(pushed.headers.get('docker-content-digest'), image.digest)
    assert.equal(pushed.headers.get('location'), `/v2/team/app/manifests/${image.digest}`)
  }
  await using origin = await startOrigin(folder.path)
  for (const reference of ['1.0', image.digest]) {
    const answer = await origin.client.get(`/v2/team/app/manifests/${reference}`)
    assert.equal(answer.body.toString(), image.text)
    assert.equal(answer.headers.get('content-type'), MANIFEST_TYPE)
    assert.equal(answer.headers.get('docker-content-digest'), image.digest)
    assert.equal(answer.headers.get('x-shoal-source'), 'origin')
  }
  assert.equal((await origin.client.get(`/v2/other/manifests/${image.digest}`)).status, 404)
})

test('a manifest appears only when everything that it names is there', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const image = makeImage([10, 20])
  for (const blob of image.blobs) {
    const early = await client.putManifest('a', 'latest', image.text)
    assert.equal(codeOf(early), 'MANIFEST_BLOB_UNKNOWN')
    assert.equal((await client.get('/v2/a/manifests/latest')).status, 404)
    assert.equal((await client.get(`/v2/a/manifests/${image.digest}`)).status, 404)
    await client.pushBlob('elsewhere', blob)
    await client.pushBlob('a', blob)
  }
  assert.equal((await client.putManifest('a', 'latest', image.text)).status, 201)

  const other = makeImage([30])
  const index = makeIndex([image, other])
  assert.equal(codeOf(await client.putManifest('a', 'multi', index, INDEX_TYPE)), 'MANIFEST_BLOB_UNKNOWN')
  await client.pushImage('a', other.digest, other)
  assert.equal((await client.putManifest('a', 'multi', index, INDEX_TYPE)).status, 201)
  assert.equal((await client.get('/v2/a/manifests/multi')).body.toString(), index)
})

test('an index may name blobs, and appears when they are there', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const cache = makeCacheIndex()
  for (const blob of cache.blobs) {
    assert.equal(codeOf(await client.putManifest('a', 'cache', cache.text, INDEX_TYPE)), 'MANIFEST_BLOB_UNKNOWN')
    await client.pushBlob('a', blob)
  }
  assert.equal((await client.putManifest('a', 'cache', cache.text, INDEX_TYPE)).status, 201)
  assert.equal((await client.get('/v2/a/manifests/cache')).body.toString(), cache.text)

  const other = cache.text.replace('"size":1000', '"size":999')
  assert.equal(codeOf(await client.putManifest('a', 'cache', other, INDEX_TYPE)), 'SIZE_INVALID')
  // Who is told of an image asks for it as one.
  const image = makeImage()
  await client.pushBlob('a', Buffer.from(image.text))
  const multi = await client.putManifest('a', 'multi', makeIndex([image]), INDEX_TYPE)
  assert.equal(codeOf(multi), 'MANIFEST_BLOB_UNKNOWN')
})

test('sparse indexes are taken where that is allowed', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path, { allowSparseIndexes: true })
  const index = makeIndex([makeImage()])
  assert.equal((await origin.client.putManifest('a', 'multi', index, INDEX_TYPE)).status, 201)
})

test('layers that must not be passed on need not be there', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const image = makeImage([])
  const foreign = {
    mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
    digest: digestOf('windows'),
    size: 7,
    urls: ['https://example.com/windows'],
  }
  for (const blob of image.blobs) await origin.client.pushBlob('a', blob)
  assert.equal((await origin.client.putManifest('a', '1', { ...image.manifest, layers: [foreign] })).status, 201)
  const config = { ...foreign, digest: digestOf('of another repository') }
  const answer = await origin.client.putManifest('a', '2', { ...image.manifest, config })
  assert.deepEqual([answer.status, codeOf(answer)], [400, 'MANIFEST_BLOB_UNKNOWN'], 'a config is no layer')
})

test('bad manifests are refused with the code of the specification', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const image = makeImage()
  await client.pushImage('a', 'good', image)
  const [layer] = image.manifest.layers
  const cases: [string, string, unknown, string, string][] = [
    ['no JSON', 'latest', '{', MANIFEST_TYPE, 'MANIFEST_INVALID'],
    ['bad UTF-8', 'latest', Buffer.from([0x7b, 0xff, 0x7d]).toString('latin1'), MANIFEST_TYPE, 'MANIFEST_INVALID'],
    ['unknown type', 'latest', { ...image.manifest, mediaType: 'x/y' }, 'x/y', 'MANIFEST_INVALID'],
    ['contradicting types', 'latest', image.text, INDEX_TYPE, 'MANIFEST_INVALID'],
    ['schema 1', 'latest', { schemaVersion: 1 }, MANIFEST_TYPE, 'MANIFEST_INVALID'],
    ['wrong size', 'latest', { ...image.manifest, layers: [{ ...layer, size: 1 }] }, MANIFEST_TYPE, 'SIZE_INVALID'],
    ['wrong digest', digestOf('x'), image.text, MANIFEST_TYPE, 'DIGEST_INVALID'],
    ['bad digest', 'sha256:x', image.text, MANIFEST_TYPE, 'DIGEST_INVALID'],
    ['bad tag', '-latest', image.text, MANIFEST_TYPE, 'TAG_INVALID'],
    ['long tag', 't'.repeat(129), image.text, MANIFEST_TYPE, 'TAG_INVALID'],
    ['bad tag in the query', `${image.digest}?tag=..`, image.text, MANIFEST_TYPE, 'TAG_INVALID'],
  ]
  for (const [what, reference, manifest, type, code] of cases) {
    const answer = await client.putManifest('a', reference, manifest, type)
    assert.equal(answer.status, 400, what)
    assert.equal(codeOf(answer), code, what)
  }
  for (const name of ['A', 'a/../b', 'a//b', '-a', 'a'.repeat(256), 'host:5000/a', 'ä']) {
    const answer = await client.putManifest(encodeURIComponent(name), 'latest', image.text)
    assert.equal(codeOf(answer), 'NAME_INVALID', name)
  }
  assert.deepEqual((await client.get('/v2/a/tags/list')).json, { name: 'a', tags: ['good'] })
})

test('a tag moves to the new image at once', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const images = [makeImage(), makeImage(), makeImage()]
  for (const image of images) await client.pushImage('a', image.digest, image)
  const [first] = images
  assert.ok(first)
  await client.putManifest('a', 'latest', first.text)
  const texts = new Set(images.map((image) => image.text))
  const moving = (async () => {
    for (let round = 0; round < 30; round++) {
      const { status } = await client.putManifest('a', 'latest', images[round % images.length]?.text)
      assert.equal(status, 201)
    }
  })()
  let done = false
  const end = moving.finally(() => (done = true))
  while (!done) {
    const answer = await client.get('/v2/a/manifests/latest')
    assert.equal(answer.status, 200)
    assert.ok(texts.has(answer.body.toString()))
    assert.equal(answer.headers.get('docker-content-digest'), digestOf(answer.body))
  }
  await end
})

test('several tags in one push', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const image = makeImage()
  await origin.client.pushImage('a', '1', image)
  const answer = await origin.client.putManifest('a', `${image.digest}?tag=2&tag=3`, image.text)
  assert.equal(answer.headers.get('oci-tag'), '2, 3')
  assert.deepEqual((await origin.client.get('/v2/a/tags/list')).json['tags'], ['1', '2', '3'])
})

/** A list with all that its links lead to. */
async function pagesOf(client: Client, start: string): Promise<Answer[]> {
  const pages: Answer[] = []
  for (let path: string | undefined = start; path !== undefined;) {
    const answer = await client.get(path)
    pages.push(answer)
    path = /^<([^>]+)>; rel="next"$/.exec(answer.headers.get('link') ?? '')?.[1]
  }
  return pages
}

test('tags are sorted and paged, repositories too', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const image = makeImage([])
  for (const name of ['b', 'a/z', 'a-b', 'a']) await client.pushImage(name, 'x', image)
  for (const tag of ['v2', 'v10', 'latest', 'A']) await client.putManifest('a', tag, image.text)
  await client.pushBlob('only/a/blob', image.blobs[0] ?? Buffer.alloc(0))

  assert.deepEqual((await client.get('/v2/a/tags/list')).json['tags'], ['A', 'latest', 'v10', 'v2', 'x'])
  const collect = async (start: string, field: string): Promise<unknown[]> =>
    (await pagesOf(client, start)).flatMap(({ json }) => json[field] as unknown[])
  assert.deepEqual(await collect('/v2/a/tags/list?n=2', 'tags'), ['A', 'latest', 'v10', 'v2', 'x'])
  const repositories = ['a', 'a-b', 'a/z', 'b']
  assert.deepEqual(await collect('/v2/_catalog?n=1', 'repositories'), repositories)
  assert.deepEqual(await collect('/v2/_catalog', 'repositories'), repositories)
  assert.deepEqual(await collect('/v2/_catalog?n=10&last=a-b', 'repositories'), ['a/z', 'b'])
  const unknown = await client.get('/v2/only/a/blob/tags/list')
  assert.equal(unknown.status, 404)
  assert.equal(codeOf(unknown), 'NAME_UNKNOWN')
})

test('deleting a tag keeps the image, deleting the image takes its tags', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const image = makeImage()
  const other = makeImage()
  await client.pushImage('a', '1', image)
  await client.putManifest('a', '2', image.text)
  await client.pushImage('a', 'other', other)
  assert.equal((await client.ask('DELETE', '/v2/a/manifests/1')).status, 202)
  assert.equal((await client.get('/v2/a/manifests/1')).status, 404)
  assert.equal((await client.get(`/v2/a/manifests/${image.digest}`)).status, 200)
  assert.equal((await client.ask('DELETE', `/v2/a/manifests/${image.digest}`)).status, 202)
  assert.equal((await client.get('/v2/a/manifests/2')).status, 404)
  assert.deepEqual((await client.get('/v2/a/tags/list')).json['tags'], ['other'])
  for (const reference of ['2', image.digest]) {
    const again = await client.ask('DELETE', `/v2/a/manifests/${reference}`)
    assert.equal(codeOf(again), 'MANIFEST_UNKNOWN')
  }
  assert.equal(codeOf(await client.ask('DELETE', `/v2/a/blobs/${digestOf('none')}`)), 'BLOB_UNKNOWN')
  await client.ask('DELETE', `/v2/a/manifests/${other.digest}`)
  assert.deepEqual((await client.get('/v2/_catalog')).json['repositories'], [])
})

test('referrers are listed while they are there, with filter', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const subject = makeImage()
  const list = async (query = '') => {
    const answer = await client.get(`/v2/a/referrers/${subject.digest}${query}`)
    assert.equal(answer.status, 200)
    assert.equal(answer.headers.get('content-type'), INDEX_TYPE)
    const entries = answer.json['manifests'] as { digest: string }[]
    return { applied: answer.headers.get('oci-filters-applied'), digests: entries.map(({ digest }) => digest), entries }
  }
  assert.deepEqual((await list()).digests, [])
  const extra = { subject: subject.descriptor, annotations: { note: 'signed' } }
  const signature = makeImage([], { ...extra, artifactType: 'application/sig' })
  const plain = makeImage([5], { subject: subject.descriptor })
  const pushed = await client.pushImage('a', signature.digest, signature)
  assert.equal(pushed.headers.get('oci-subject'), subject.digest)
  await client.pushImage('a', 'plain', plain)
  await client.pushImage('a', 'subject', subject)
  assert.deepEqual(new Set((await list()).digests), new Set([signature.digest, plain.digest]))
  const filtered = await list('?artifactType=application/sig')
  assert.equal(filtered.applied, 'artifactType')
  assert.deepEqual(filtered.entries, [
    { ...signature.descriptor, artifactType: 'application/sig', annotations: { note: 'signed' } },
  ])
  const byConfig = await list('?artifactType=application/vnd.oci.image.config.v1%2Bjson')
  assert.deepEqual(byConfig.digests, [plain.digest])
  await client.ask('DELETE', `/v2/a/manifests/${plain.digest}`)
  assert.deepEqual((await list()).digests, [signature.digest])
})

test('referrers with much to say come in pages that clients can read', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const subject = makeImage()
  await client.pushImage('a', '1', subject)
  const pushed: { digest: string; artifactType: string }[] = []
  for (const [at, bytes] of [1_900_000, 1_900_000, 1_900_000, 4_150_000, 10].entries()) {
    const artifactType = at === 1 ? 'application/sig' : 'application/sbom'
    const note = 'x'.repeat(bytes)
    const referrer = makeImage([], { subject: subject.descriptor, artifactType, annotations: { note } })
    assert.equal((await client.pushImage('a', referrer.digest, referrer)).status, 201)
    pushed.push({ digest: referrer.digest, artifactType })
  }
  const digestsOf = async (query: string, leastPages: number): Promise<string[]> => {
    const pages = await pagesOf(client, `/v2/a/referrers/${subject.digest}${query}`)
    assert.ok(pages.length >= leastPages, `${pages.length} pages`)
    for (const { status, body, headers } of pages) {
      assert.equal(status, 200)
      assert.ok(body.length <= MAX_MANIFEST_BYTES, `${body.length} bytes`)
      assert.equal(headers.get('oci-filters-applied'), query === '' ? null : 'artifactType')
    }
    return pages.flatMap(({ json }) => (json['manifests'] as { digest: string }[]).map(({ digest }) => digest))
  }
  const inOrder = (list: typeof pushed): string[] => list.map(({ digest }) => digest).sort()
  assert.deepEqual(await digestsOf('', 3), inOrder(pushed))
  for (const artifactType of ['application/sig', 'application/sbom']) {
    const wanted = inOrder(pushed.filter((one) => one.artifactType === artifactType))
    assert.deepEqual(await digestsOf(`?artifactType=${artifactType}`, wanted.length === 1 ? 1 : 2), wanted)
  }
  const { host } = new URL(origin.url)
  const upstream = createUpstream({ proxy: false, registries: { [host]: { endpoint: origin.url } } })
  try {
    const target = { registry: host, repository: 'a' }
    const options = { signal: AbortSignal.timeout(60_000) }
    const { descriptors } = await upstream.listReferrers(target, subject.digest, undefined, options)
    assert.deepEqual(
      descriptors.map((one) => (one as { digest: string }).digest),
      inOrder(pushed),
    )
  } finally {
    await upstream.close()
  }
})
