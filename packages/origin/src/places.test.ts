import { test } from 'node:test'
import assert from 'node:assert/strict'
import { readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import bcrypt from 'bcryptjs'
import { digestOf } from '@shoal/oci'
import { FolderInUseError } from './storage/folder-claim.ts'
import { Client, makeImage, startOrigin, temporaryFolder, type Answer, type TestOrigin } from './testing.ts'

interface UsageAnswer {
  places: { place: string; bytes: number; blobs: number }[]
  namespaces: { namespace: string; bytes: number; repositories: number }[]
  repositories: { repository: string; place: string; bytes: number }[]
}

const usageOf = (answer: Answer): UsageAnswer => answer.json as unknown as UsageAnswer

/** A registry with `team-a/**` in a folder of its own. */
async function startPlaced(folder: string, extra: Parameters<typeof startOrigin>[1] = {}): Promise<TestOrigin> {
  const places = { 'team-a': { directory: join(folder, 'a'), repositories: ['team-a/**', 'base/*'] } }
  return startOrigin(join(folder, 'data'), { places, ...extra })
}

test('each namespace lies where its rule puts it, and nowhere else', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startPlaced(folder.path)
  const { client } = origin
  const image = makeImage([1000])
  const blobsIn = async (place: string): Promise<number> => {
    const files = await readdir(join(folder.path, place, 'blobs'), { recursive: true }).catch(() => [])
    return files.filter((file) => file.includes('sha256-')).length
  }
  assert.equal((await client.pushImage('team-a/web/front', '1', image)).status, 201)
  assert.deepEqual([await blobsIn('a'), await blobsIn('data')], [3, 0])
  assert.equal((await client.pushImage('team-b/web', '1', image)).status, 201)
  assert.equal((await client.pushImage('base/os/deep', '1', image)).status, 201)
  assert.deepEqual([await blobsIn('a'), await blobsIn('data')], [3, 3])
  for (const name of ['team-a/web/front', 'team-b/web', 'base/os/deep']) {
    assert.equal((await client.get(`/v2/${name}/manifests/1`)).body.toString(), image.text)
  }
  const names = ['base/os/deep', 'team-a/web/front', 'team-b/web']
  assert.deepEqual((await client.get('/v2/_catalog')).json['repositories'], names)
})

test('a blob is mounted from the same place only', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startPlaced(folder.path)
  const { client } = origin
  const bytes = Buffer.from('some layer')
  await client.pushBlob('team-a/one', bytes)
  const mount = async (name: string, from: string | undefined): Promise<number> => {
    const query = `mount=${digestOf(bytes)}${from === undefined ? '' : `&from=${from}`}`
    return (await client.ask('POST', `/v2/${name}/blobs/uploads/?${query}`)).status
  }
  assert.equal(await mount('team-a/two', 'team-a/one'), 201)
  assert.equal(await mount('base/three', undefined), 201)
  // The client is told to upload it.
  assert.equal(await mount('team-b/one', 'team-a/one'), 202)
  assert.equal(await mount('team-b/one', undefined), 202)
  assert.equal((await client.head(`/v2/team-b/one/blobs/${digestOf(bytes)}`)).status, 404)
})

test('tells how much each place, namespace and repository takes', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startPlaced(folder.path, { usageInterval: 3_600_000 })
  const { client } = origin
  const image = makeImage([5000, 700])
  const size = image.text.length + image.blobs.reduce((sum, blob) => sum + blob.length, 0)
  for (const name of ['team-a/x', 'team-a/y', 'other']) await client.pushImage(name, '1', image)
  {
    // Counted at the start, when there was nothing; a report that is that young would be the answer.
    await origin.close()
  }
  await using again = await startPlaced(folder.path)
  const usage = usageOf(await again.client.get('/api/v1/usage'))
  assert.deepEqual(usage.repositories, [
    { repository: 'other', place: 'default', bytes: size },
    { repository: 'team-a/x', place: 'team-a', bytes: size },
    { repository: 'team-a/y', place: 'team-a', bytes: size },
  ])
  assert.deepEqual(usage.namespaces, [
    { namespace: 'other', bytes: size, repositories: 1 },
    { namespace: 'team-a', bytes: 2 * size, repositories: 2 },
  ])
  const place = usage.places.find((one) => one.place === 'team-a')
  assert.equal(place?.blobs, 4)
  // Content once, and the small objects around it.
  assert.ok(place.bytes >= size && place.bytes < size + 4_000, `${place.bytes} of ${size}`)
  const metrics = (await again.client.get('/metrics')).body.toString()
  assert.match(metrics, new RegExp(`^shoal_registry_storage_bytes\\{place="team-a"\\} ${place.bytes}$`, 'm'))
})

test('usage is shown to those who may see the repositories', async () => {
  await using folder = await temporaryFolder()
  const htpasswdFile = join(folder.path, 'htpasswd')
  const lines = ['admin', 'ann'].map((user) => `${user}:${bcrypt.hashSync(`${user}-password`, 4)}\n`)
  await writeFile(htpasswdFile, lines.join(''))
  const client = (origin: TestOrigin, user: string): Client => {
    const authorization = `Basic ${Buffer.from(`${user}:${user}-password`).toString('base64')}`
    return new Client(origin.url, { authorization })
  }
  const options: Parameters<typeof startOrigin>[1] = {
    htpasswdFile,
    accessRules: [
      { repositories: ['**'], users: ['admin'], actions: ['pull', 'push'] },
      { repositories: ['team-a/**'], users: ['ann'], actions: ['pull'] },
    ],
  }
  {
    await using origin = await startPlaced(folder.path, options)
    for (const name of ['team-a/x', 'secret/y']) {
      assert.equal((await client(origin, 'admin').pushImage(name, '1', makeImage([10]))).status, 201)
    }
  }
  await using origin = await startPlaced(folder.path, options)
  const repositories = async (user: string) =>
    usageOf(await client(origin, user).get('/api/v1/usage')).repositories.map(({ repository }) => repository)
  assert.deepEqual(await repositories('admin'), ['secret/y', 'team-a/x'])
  assert.deepEqual(await repositories('ann'), ['team-a/x'])
  assert.equal((await new Client(origin.url).get('/api/v1/usage')).status, 401)
  assert.notDeepEqual(usageOf(await client(origin, 'ann').get('/api/v1/usage')).places, [])
  const { token } = (await new Client(origin.url).get('/token')).json
  const anonymous = new Client(origin.url, { authorization: `Bearer ${String(token)}` })
  const { places, repositories: seen } = usageOf(await anonymous.get('/api/v1/usage'))
  assert.deepEqual([places, seen], [[], []], 'a token that nobody has logged in for')
})

for (const [what, options, expected] of [
  ['an unknown default place', { defaultPlace: 'nowhere' }, /defaultPlace names nowhere, which is not among places/],
  ['a place that is neither', { places: { x: { repositories: ['x'] } } }, /either a directory or a bucket/],
  ['a place for nothing', { places: { x: { directory: '/x' } } }, /must give x repositories/],
  ['a pattern of a user', { places: { x: { directory: '/x', repositories: ['{user}'] } } }, /matches no repository/],
] as const) {
  test(`${what} is refused`, async () => {
    await using folder = await temporaryFolder()
    const given = structuredClone(options) as Parameters<typeof startOrigin>[1] & {
      places?: Record<string, { directory?: string }>
    }
    for (const place of Object.values(given.places ?? {})) {
      if (place.directory !== undefined) place.directory = join(folder.path, 'x')
    }
    await assert.rejects(startOrigin(folder.path, given), expected)
  })
}

test('one folder is not two places', async () => {
  await using folder = await temporaryFolder()
  const places = { x: { directory: folder.path, repositories: ['x'] } }
  await assert.rejects(startOrigin(folder.path, { places }), /the same place/)
})

test('a folder belongs to one registry at a time, and to the next one when that has ended', async () => {
  await using folder = await temporaryFolder()
  const origin = await startPlaced(folder.path)
  await assert.rejects(startPlaced(folder.path), new FolderInUseError(join(folder.path, 'a')))
  await assert.rejects(startOrigin(join(folder.path, 'data')), new FolderInUseError(join(folder.path, 'data')))
  const image = makeImage([1000])
  assert.equal((await origin.client.pushImage('web', '1', image)).status, 201)
  await origin[Symbol.asyncDispose]()
  await using next = await startPlaced(folder.path)
  assert.equal((await next.client.get('/v2/web/manifests/1')).body.toString(), image.text)
})
