// One registry copies to another, both in this process.
import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import bcrypt from 'bcryptjs'
import pino from 'pino'
import { digestOf } from '@shoal/oci'
import {
  type Client,
  INDEX_TYPE,
  makeCacheIndex,
  makeImage,
  MANIFEST_TYPE,
  startOrigin,
  temporaryFolder,
  type TestImage,
  type TestOrigin,
} from '../testing.ts'

const LIMIT = { timeout: 30_000 }

interface Line extends Record<string, unknown> {
  msg: string
  reference?: string
}

/** What a registry logs, to be waited for. */
class Log {
  readonly lines: Line[] = []
  #news = Promise.withResolvers<void>()
  readonly logger = pino(
    { level: 'debug' },
    {
      write: (text: string) => {
        this.lines.push(JSON.parse(text) as Line)
        this.#news.resolve()
        this.#news = Promise.withResolvers()
      },
    },
  )

  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await this.#news.promise
  }

  of(message: string): Line[] {
    return this.lines.filter(({ msg }) => msg.startsWith(message))
  }

  copied(): string[] {
    return this.of('image copied').map(({ repository, reference }) => `${String(repository)}:${reference}`)
  }
}

const FAILED = 'an image could not be copied'

/** The queue is written after the copy was told in the log. */
async function untilPending(origin: TestOrigin, count: number): Promise<void> {
  const wanted = new RegExp(`replication_pending\\{[^}]*\\} ${count}\\n`)
  while (!wanted.test(await origin.metrics.metrics())) await new Promise((resolve) => setImmediate(resolve))
}

/** What is at a registry, digest by digest, as a client gets it. */
async function assertWhole(client: Client, name: string, reference: string, image: TestImage): Promise<void> {
  const manifest = await client.get(`/v2/${name}/manifests/${reference}`)
  assert.equal(manifest.body.toString(), image.text)
  for (const blob of image.blobs) {
    assert.deepEqual((await client.get(`/v2/${name}/blobs/${digestOf(blob)}`)).body, blob)
  }
}

test(
  'an index with its images and signatures is copied under another name; what is there is not sent',
  LIMIT,
  async () => {
    await using folder = await temporaryFolder()
    await using target = await startOrigin(join(folder.path, 'target'))
    const log = new Log()
    const replication = [{ url: target.url, repositories: ['team/**'], removePrefix: 'team', addPrefix: 'site-1' }]
    await using source = await startOrigin(join(folder.path, 'source'), { replication, logger: log.logger })
    const { client } = source

    const images = [makeImage([100_000, 500]), makeImage([2_000])]
    for (const image of images) assert.equal((await client.pushImage('team/web', image.digest, image)).status, 201)
    const manifests = images.map(({ descriptor }) => descriptor)
    const index = JSON.stringify({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests })
    const [first, second] = images as [TestImage, TestImage]
    const signature = makeImage([77], { subject: first.descriptor, artifactType: 'application/vnd.example.signature' })
    assert.equal((await client.pushImage('team/web', signature.digest, signature)).status, 201)
    assert.equal((await client.putManifest('team/web', '1.0', index, INDEX_TYPE)).status, 201)
    assert.equal((await client.pushImage('elsewhere', '1', makeImage())).status, 201)
    await log.until(() => log.copied().includes('team/web:1.0'))

    assert.equal((await target.client.get('/v2/site-1/web/manifests/1.0')).body.toString(), index)
    for (const image of [first, second, signature]) await assertWhole(target.client, 'site-1/web', image.digest, image)
    const referrers = (await target.client.get(`/v2/site-1/web/referrers/${first.digest}`)).json
    assert.deepEqual(
      (referrers['manifests'] as { digest: string }[]).map(({ digest }) => digest),
      [signature.digest],
    )
    const catalog = await target.client.get('/v2/_catalog')
    assert.deepEqual(catalog.json['repositories'], ['site-1/web'])

    // Blobs that the target has elsewhere are mounted.
    assert.equal((await client.pushImage('team/api', 'latest', first)).status, 201)
    await log.until(() => log.copied().includes('team/api:latest'))
    await assertWhole(target.client, 'site-1/api', 'latest', first)
    const line = log.of('image copied').find(({ reference }) => reference === 'latest')
    assert.deepEqual(line?.['blobs'], { present: 0, mounted: first.blobs.length, uploaded: 0 })
    assert.equal(line?.['sentBytes'], 0)

    const text = await source.metrics.metrics()
    const label = `target="${new URL(target.url).host}/site-1"`
    const sent = [...images, signature].flatMap(({ blobs }) => blobs).reduce((sum, { length }) => sum + length, 0)
    assert.ok(text.includes(`shoal_registry_replication_bytes_total{${label}} ${sent}`), text)
    assert.ok(text.includes(`shoal_registry_replication_total{${label},outcome="sent"} ${log.copied().length}`), text)
    assert.ok(text.includes(`shoal_registry_replication_oldest_seconds{${label}} 0`), text)
  },
)

test('an index of blobs is copied with them', LIMIT, async () => {
  await using folder = await temporaryFolder()
  await using target = await startOrigin(join(folder.path, 'target'))
  const log = new Log()
  const replication = [{ url: target.url }]
  await using source = await startOrigin(join(folder.path, 'source'), { replication, logger: log.logger })
  const { blobs, text } = makeCacheIndex()
  for (const blob of blobs) assert.equal((await source.client.pushBlob('ci/cache', blob)).status, 201)
  assert.equal((await source.client.putManifest('ci/cache', 'main', text, INDEX_TYPE)).status, 201)
  await log.until(() => log.copied().length === 1)
  assert.equal((await target.client.get('/v2/ci/cache/manifests/main')).body.toString(), text)
  for (const blob of blobs) {
    assert.deepEqual((await target.client.get(`/v2/ci/cache/blobs/${digestOf(blob)}`)).body, blob)
  }
})

test(
  'an index of which a part was never here goes to who takes it so, and is told as refused by who does not',
  LIMIT,
  async () => {
    await using folder = await temporaryFolder()
    await using sparse = await startOrigin(join(folder.path, 'sparse'), { allowSparseIndexes: true })
    await using strict = await startOrigin(join(folder.path, 'strict'))
    const log = new Log()
    const replication = [
      { name: 'sparse', url: sparse.url },
      { name: 'strict', url: strict.url },
    ]
    const options = { replication, logger: log.logger, allowSparseIndexes: true }
    await using source = await startOrigin(join(folder.path, 'source'), options)
    const image = makeImage()
    const manifests = [image.descriptor, makeImage().descriptor]
    const index = JSON.stringify({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests })
    assert.equal((await source.client.pushImage('app', image.digest, image)).status, 201)
    assert.equal((await source.client.putManifest('app', 'multi', index, INDEX_TYPE)).status, 201)
    const copied = (): boolean =>
      log.of('image copied').some((line) => line['target'] === 'sparse' && line.reference === 'multi')
    const failures = (): Line[] => log.of(FAILED).filter(({ reference }) => reference === 'multi')
    await log.until(() => copied() && failures().length > 0)
    assert.equal((await sparse.client.get('/v2/app/manifests/multi')).body.toString(), index)
    for (const { client } of [sparse, strict]) await assertWhole(client, 'app', image.digest, image)
    const [failure] = failures()
    assert.equal(failure?.['target'], 'strict')
    assert.match(JSON.stringify(failure), /the manifest names the manifest/)
  },
)

test('what a stopped registry had to copy is copied after its start: of each tag only the newest', LIMIT, async () => {
  await using folder = await temporaryFolder()
  const data = join(folder.path, 'target')
  const before = await startOrigin(data)
  const { url, port } = before
  await before.close()
  const log = new Log()
  const options = { replication: [{ url }], logger: log.logger }
  const images = [makeImage(), makeImage(), makeImage()]
  const other = makeImage()
  {
    await using source = await startOrigin(join(folder.path, 'source'), options)
    for (const image of images) assert.equal((await source.client.pushImage('app', 'latest', image)).status, 201)
    assert.equal((await source.client.pushImage('app', 'other', other)).status, 201)
    await log.until(() => log.of(FAILED).length > 0)
    await untilPending(source, 2)
    assert.match(await source.metrics.metrics(), /replication_oldest_seconds\{[^}]*\} [0-9.]*[1-9]/)
    assert.equal((await source.client.pushImage('app', 'gone', makeImage())).status, 201)
    assert.equal((await source.client.ask('DELETE', '/v2/app/manifests/gone')).status, 202)
  }
  assert.deepEqual(log.copied(), [])
  const [failure] = log.of(FAILED)
  assert.deepEqual([failure?.['code'], failure?.['level']], ['UNREACHABLE', 40])

  await using target = await startOrigin(data, { port })
  await using source = await startOrigin(join(folder.path, 'source'), options)
  await log.until(() => log.copied().length === 2 && log.of('not copied').length === 1)
  assert.deepEqual(log.copied().toSorted(), ['app:latest', 'app:other'])
  await assertWhole(target.client, 'app', 'latest', images[2] as TestImage)
  await assertWhole(target.client, 'app', 'other', other)
  const tags = await target.client.get('/v2/app/tags/list')
  assert.deepEqual(tags.json['tags'], ['latest', 'other'])
  await untilPending(source, 0)
})

test('a wrong login is told without the password, and no push is lost by it', LIMIT, async () => {
  await using folder = await temporaryFolder()
  const htpasswdFile = join(folder.path, 'accounts')
  const passwordFile = join(folder.path, 'password')
  await writeFile(htpasswdFile, `copy:${await bcrypt.hash('right-secret', 4)}\n`)
  await writeFile(passwordFile, 'wrong-secret\n')
  const accessRules = [{ repositories: ['open/**'], users: ['copy'], actions: ['pull' as const, 'push' as const] }]
  await using target = await startOrigin(join(folder.path, 'target'), { htpasswdFile, accessRules })
  const log = new Log()
  const replication = [{ name: 'site-2', url: target.url, username: 'copy', passwordFile }]
  await using source = await startOrigin(join(folder.path, 'source'), { replication, logger: log.logger })
  const image = makeImage()
  assert.equal((await source.client.pushImage('open/app', '1', image)).status, 201)
  await log.until(() => log.of(FAILED).length > 0)
  assert.deepEqual([log.of(FAILED)[0]?.['code'], log.of(FAILED)[0]?.['target']], ['UNAUTHORIZED', 'site-2'])
  await writeFile(passwordFile, 'right-secret\n')
  await log.until(() => log.copied().length === 1)

  // What the target refuses for good does not hold up others.
  assert.equal((await source.client.pushImage('closed/app', '1', image)).status, 201)
  await log.until(() => log.of(FAILED).some(({ repository }) => repository === 'closed/app'))
  assert.equal((await source.client.pushImage('open/app', '2', makeImage())).status, 201)
  await log.until(() => log.copied().length === 2)
  await untilPending(source, 1)
  assert.doesNotMatch(JSON.stringify(log.lines), /(right|wrong)-secret/)
})

test('two registries that copy to each other come to rest', LIMIT, async () => {
  await using folder = await temporaryFolder()
  const log = new Log()
  const reserved = await startOrigin(join(folder.path, 'b'))
  const { port } = reserved
  await reserved.close()
  const urlOfB = `http://127.0.0.1:${port}`
  await using a = await startOrigin(join(folder.path, 'a'), { replication: [{ url: urlOfB }], logger: log.logger })
  const replication = [{ name: 'back', url: a.url }]
  await using b = await startOrigin(join(folder.path, 'b'), { replication, port, logger: log.logger })
  const image = makeImage()
  assert.equal((await a.client.pushImage('app', '1', image)).status, 201)
  await log.until(() => log.copied().length === 2)
  await assertWhole(b.client, 'app', '1', image)
  // B has copied it back, by looking only: A has seen one push.
  assert.match(await b.metrics.metrics(), /replication_bytes_total\{target="back"\} 0\n/)
  for (const origin of [a, b]) await untilPending(origin, 0)
  assert.equal(log.copied().length, 2)
  assert.equal((await b.client.get('/v2/app/manifests/1')).headers.get('content-type'), MANIFEST_TYPE)
})

test('rules that cannot be told apart, or name files that are not there, are refused at the start', async () => {
  await using folder = await temporaryFolder()
  const url = 'https://registry.example.com'
  const start = (replication: { url: string; caFile?: string }[]) =>
    startOrigin(join(folder.path, 'data'), { replication })
  await assert.rejects(start([{ url }, { url }]), /two rules called registry.example.com/)
  await assert.rejects(start([{ url, caFile: '/nonexistent/ca' }]), {
    message: `replication to ${url} cannot be done: caFile cannot be read: /nonexistent/ca (ENOENT)`,
  })
  await using origin = await start([{ url }])
  assert.equal((await origin.client.get('/v2/')).status, 200)
})
