import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { digestOf, OciError } from '@shoal/oci'
import { InvalidRuleError } from './accounts/rules.ts'
import { Quotas, type CountObserver } from './quotas.ts'
import { codeOf, makeImage, startOrigin, temporaryFolder } from './testing.ts'
import type { UsageReport } from './usage.ts'

/** Storage whose content is what a test says. */
class Shelf {
  bytes: Record<string, number> = {}
  counts = 0
  #observer: CountObserver | undefined
  #running: Promise<UsageReport> | undefined

  observe(observer: CountObserver): void {
    this.#observer = observer
  }

  report(during: () => Promise<void> = () => Promise.resolve()): Promise<UsageReport> {
    this.#running ??= this.#count(during).finally(() => (this.#running = undefined))
    return this.#running
  }

  /** What a push does. */
  async take(quotas: Quotas, name: string, bytes: number): Promise<void> {
    await quotas.charged(name, async (charge) => {
      await charge(bytes)
      this.bytes[name] = (this.bytes[name] ?? 0) + bytes
    })
  }

  async #count(during: () => Promise<void>): Promise<UsageReport> {
    this.counts++
    this.#observer?.countBegins()
    const repositories = Object.entries(this.bytes).map(([repository, bytes]) => ({ repository, bytes, place: 'data' }))
    await during()
    const report = { countedMs: 0, places: [], repositories }
    this.#observer?.counted(report)
    return report
  }
}

const limited = (shelf: Shelf, limit = 100): Quotas => new Quotas([{ repositories: ['team/**'], limit }], shelf)
const denied = (error: unknown): boolean => error instanceof OciError && error.code === 'DENIED' && error.status === 403

test('all repositories that match count together, others not at all', async () => {
  const shelf = new Shelf()
  shelf.bytes = { 'team/a': 40, 'team/b/c': 30, other: 1000 }
  const quotas = limited(shelf)
  await assert.rejects(shelf.take(quotas, 'team/new', 31), denied)
  await shelf.take(quotas, 'team/new', 30)
  await shelf.take(quotas, 'other', 1_000_000)
  await assert.rejects(shelf.take(quotas, 'team/a', 1), /team\/\*\* uses 100 of the 100 bytes/)
})

test('of pushes at the same time only those that fit together are taken', async () => {
  const shelf = new Shelf()
  const quotas = limited(shelf)
  const outcomes = await Promise.allSettled(Array.from({ length: 20 }, () => shelf.take(quotas, 'team/a', 30)))
  assert.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 3)
})

test('a push that fails gives back what it took, also when a count came in between', async () => {
  const shelf = new Shelf()
  const quotas = limited(shelf)
  const failing = quotas.charged('team/a', async (charge) => {
    await charge(100)
    await assert.rejects(shelf.take(quotas, 'team/b', 1), denied)
    throw new Error('the disk is full')
  })
  await assert.rejects(failing, /disk is full/)
  await shelf.take(quotas, 'team/b', 100)
})

test('what is there already costs nothing, even when nothing more fits', async () => {
  const shelf = new Shelf()
  const quotas = limited(shelf)
  await shelf.take(quotas, 'team/a', 100)
  await quotas.charged('team/a', (charge) => charge(50, () => Promise.resolve(true)))
  await assert.rejects(quotas.requireRoom('team/a'), denied)
  await quotas.requireRoom('other')
})

test('a count corrects the running total, and what came during it is not lost', async () => {
  const shelf = new Shelf()
  const quotas = limited(shelf)
  await shelf.take(quotas, 'team/a', 90)
  shelf.bytes = { 'team/a': 10 }
  await shelf.report(() => shelf.take(quotas, 'team/a', 10))
  const { counts } = shelf
  await shelf.take(quotas, 'team/a', 80)
  assert.equal(shelf.counts, counts, 'counted although it fits')
})

test('before something is refused it is counted anew', async () => {
  const shelf = new Shelf()
  shelf.bytes = { 'team/a': 100 }
  const quotas = limited(shelf)
  await assert.rejects(shelf.take(quotas, 'team/a', 1), denied)
  shelf.bytes = {}
  await shelf.take(quotas, 'team/a', 100)
})

test('a storage that cannot be counted is no reason to take or to deny', async () => {
  const quotas = new Quotas([{ repositories: ['**'], limit: 1 }], {
    observe: () => undefined,
    report: () => Promise.reject(new Error('timeout')),
  })
  const pushed = quotas.charged('a', (charge) => charge(1))
  await assert.rejects(pushed, (error) => error instanceof OciError && error.code === 'UNAVAILABLE')
})

test('a pattern that matches nothing is refused', () => {
  assert.throws(() => new Quotas([{ repositories: ['Team/**'], limit: 1 }], new Shelf()), InvalidRuleError)
})

test('a push over the quota is denied at the blob, and leaves nothing', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path, { quotas: [{ repositories: ['team/**'], limit: 20_000 }] })
  const { client } = origin
  assert.equal((await client.pushImage('team/small', '1', makeImage([5_000]))).status, 201)
  const layer = Buffer.alloc(18_000, 7)
  const one = await client.pushBlob('team/big', layer)
  assert.deepEqual([one.status, codeOf(one)], [403, 'DENIED'])
  assert.match(one.json.errors?.[0]?.message ?? '', /team\/\*\* uses \d+ of the 20000 bytes/)

  for (const [what, options] of Object.entries({
    'with its length': { body: layer },
    'as it comes': { body: new Blob([layer]).stream(), duplex: 'half' as const },
  })) {
    const location = await client.startUpload('team/big')
    assert.equal(codeOf(await client.ask('PATCH', location, options)), 'DENIED', what)
    assert.equal((await client.get(location)).status, 404, what)
  }
  assert.deepEqual(await readdir(join(folder.path, 'uploads')), [])

  assert.equal((await client.head(`/v2/team/big/blobs/${digestOf(layer)}`)).status, 404)
  const files = await readdir(join(folder.path, 'blobs'), { recursive: true })
  assert.ok(!files.some((file) => file.endsWith(digestOf(layer).slice('sha256:'.length))))
  assert.deepEqual((await client.get('/v2/_catalog')).json['repositories'], ['team/small'])
  assert.equal((await client.pushBlob('elsewhere', layer)).status, 201)
})

test('uploads under way count, and what is over gives its room back', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path, { quotas: [{ repositories: ['team/**'], limit: 100_000 }] })
  const { client } = origin
  const part = Buffer.alloc(60_000, 7)
  const append = async (location: string, body = part): Promise<number> =>
    (await client.ask('PATCH', location, { body })).status
  const [one, two] = [await client.startUpload('team/a'), await client.startUpload('team/b')]
  assert.equal(await append(one), 202)
  assert.equal(await append(two), 403)
  assert.equal((await client.ask('DELETE', one)).status, 204)
  const three = await client.startUpload('team/b')
  assert.equal(await append(three), 202)
  // It counts once, not as an upload and as a blob.
  assert.equal(await append(three, Buffer.alloc(30_000, 7)), 202)
  const digest = digestOf(Buffer.alloc(90_000, 7))
  assert.equal((await client.ask('PUT', `${three}?digest=${digest}`)).status, 201)
  assert.equal(await append(await client.startUpload('team/c'), Buffer.alloc(10_001)), 403)
  assert.equal(await append(await client.startUpload('team/c'), Buffer.alloc(9_999)), 202)
})

test('a blob that is there already may be pushed again where it would not fit', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path, { quotas: [{ repositories: ['team/**'], limit: 100_000 }] })
  const { client } = origin
  const blob = Buffer.alloc(60_000, 7)
  assert.equal((await client.pushBlob('team/a', blob)).status, 201)
  assert.equal((await client.pushBlob('team/a', blob)).status, 201)
  const location = await client.startUpload('team/a')
  assert.equal((await client.ask('PUT', `${location}?digest=${digestOf(blob)}`, { body: blob })).status, 201)
  assert.equal((await client.pushBlob('team/b', blob)).status, 403)
})

test('what an upload has sent counts for its place', async () => {
  await using folder = await temporaryFolder()
  {
    await using origin = await startOrigin(folder.path)
    const location = await origin.client.startUpload('team/a')
    await origin.client.ask('PATCH', location, { body: Buffer.alloc(60_000) })
  }
  await using origin = await startOrigin(folder.path)
  const { places } = (await origin.client.get('/api/v1/usage')).json as { places: { bytes: number }[] }
  assert.equal(places[0]?.bytes, 60_000)
})

test('of an upload only what has come counts', async () => {
  const shelf = new Shelf()
  const quotas = limited(shelf)
  const hold = quotas.hold('team/a')
  await hold.cover(80)
  await assert.rejects(hold.cover(101), denied)
  await assert.rejects(shelf.take(quotas, 'team/b', 21), denied)
  await hold.cover(30)
  await shelf.take(quotas, 'team/b', 70)
  hold.release()
  await shelf.take(quotas, 'team/b', 30)
})

test('mounts and manifests count; what is there may still be tagged', async () => {
  await using folder = await temporaryFolder()
  const image = makeImage([5_000])
  const blobBytes = image.blobs.reduce((sum, { length }) => sum + length, 0)
  const quotas = [{ repositories: ['team/**'], limit: blobBytes + image.descriptor.size }]
  await using origin = await startOrigin(folder.path, { quotas })
  const { client } = origin
  assert.equal((await client.pushImage('team/a', '1', image)).status, 201)
  // Nothing is left. A new name for what is there takes nothing; a blob or a manifest more does.
  assert.equal((await client.putManifest('team/a', '2', image.text)).status, 201)
  const layer = image.manifest.layers[0]?.digest ?? ''
  const mounted = await client.ask('POST', `/v2/team/b/blobs/uploads/?mount=${layer}&from=team/a`)
  assert.equal(codeOf(mounted), 'DENIED')
  const changed = JSON.stringify({ ...image.manifest, annotations: { changed: 'yes' } })
  assert.equal(codeOf(await client.putManifest('team/a', '3', changed)), 'DENIED')
  assert.deepEqual((await client.get('/v2/team/a/tags/list')).json['tags'], ['1', '2'])
  assert.equal(codeOf(await client.ask('POST', '/v2/team/a/blobs/uploads/')), 'DENIED')
})
