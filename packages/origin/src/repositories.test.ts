// What repositories ask of a storage in which every request takes its time, as a bucket does.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { setImmediate as turn } from 'node:timers/promises'
import { digestOf } from '@shoal/oci'
import { pino } from 'pino'
import { collectPlace } from './collection/collector.ts'
import { Retention } from './collection/retention.ts'
import { blobPath } from './layout.ts'
import type { Place } from './places.ts'
import { Repositories } from './repositories.ts'
import type { StorageDriver } from './storage/driver.ts'
import { FilesystemDriver } from './storage/filesystem.ts'
import { INDEX_TYPE, temporaryFolder } from './testing.ts'

/** Requests that were made, those under way at once, and what each waits for before it is made. */
interface Traffic {
  asked: string[]
  most: number
  before: (request: string) => Promise<unknown>
}

async function openShared(folder: string): Promise<{ place: Place; traffic: Traffic }> {
  const traffic: Traffic = { asked: [], most: 0, before: () => turn() }
  let underWay = 0
  const driver = new Proxy<StorageDriver>(await FilesystemDriver.open(folder), {
    get(target, key) {
      if (key === 'isShared') return true
      const value: unknown = Reflect.get(target, key, target)
      if (typeof value !== 'function' || !['read', 'stat', 'list'].includes(String(key))) {
        return typeof value === 'function' ? (value.bind(target) as unknown) : value
      }
      return async (...rest: unknown[]): Promise<unknown> => {
        const request = `${String(key)} ${String(rest[0])}`
        traffic.asked.push(request)
        traffic.most = Math.max(traffic.most, ++underWay)
        await traffic.before(request)
        return (Reflect.apply(value, target, rest) as Promise<unknown>).finally(() => underWay--)
      }
    },
  })
  const retention = new Retention(driver, 0)
  const place = { driver, retention, repositories: new Repositories({ driver, retention }), name: 'x', kind: 'bucket' }
  return { place: place as Place, traffic }
}

const manifest = (seed: string): Buffer =>
  Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests: [], annotations: { seed } }))

test('tags are read side by side, and once for a collection however much there is to remove', async () => {
  await using folder = await temporaryFolder()
  const { place, traffic } = await openShared(folder.path)
  const { repositories } = place
  const tags = Array.from({ length: 40 }, (_, at) => `build-${at}`)
  for (const tag of tags) await repositories.putManifest('app', tag, manifest(tag), INDEX_TYPE)
  for (const one of ['x', 'y', 'z']) {
    await repositories.putManifest('app', digestOf(manifest(one)), manifest(one), INDEX_TYPE)
  }
  const readsOfTags = (): number => traffic.asked.filter((request) => /^read .*\/_tags\//.test(request)).length

  Object.assign(traffic, { asked: [], most: 0 })
  const options = { removeUntagged: true, logger: pino({ level: 'silent' }), signal: new AbortController().signal }
  const report = await collectPlace(place, { ...options, nowMs: Date.now() + 1000 })
  assert.equal(report.manifests, 3)
  assert.equal(readsOfTags(), tags.length)
  assert.ok(traffic.most > 8, `${traffic.most} at once`)

  Object.assign(traffic, { asked: [], most: 0 })
  await repositories.deleteManifest('app', digestOf(manifest('build-5')))
  assert.ok(traffic.most > 8, `${traffic.most} at once`)
  assert.equal((await repositories.tags('app')).length, tags.length - 1)
})

test('repositories are listed and searched side by side; a blob that is nowhere is looked for in none', async () => {
  await using folder = await temporaryFolder()
  const { place, traffic } = await openShared(folder.path)
  const { repositories, driver } = place
  const names = Array.from({ length: 40 }, (_, at) => `team-${at % 4}/app-${at}`).sort()
  for (const name of names) await repositories.putManifest(name, 'a', manifest('a'), INDEX_TYPE)
  Object.assign(traffic, { asked: [], most: 0 })
  assert.deepEqual(await repositories.names(), names)
  assert.ok(traffic.most > 8, `${traffic.most} at once`)

  const [bytes, last] = [Buffer.from('layer'), names.at(-1) as string]
  traffic.asked = []
  assert.equal(await repositories.findBlob(digestOf(bytes), () => true, 1000), undefined)
  assert.equal(traffic.asked.length, 1)
  await driver.write(blobPath(digestOf(bytes)), bytes)
  await repositories.linkBlob(last, digestOf(bytes))
  traffic.most = 0
  assert.equal(await repositories.findBlob(digestOf(bytes), (name) => name === last, 1000), last)
  assert.equal(await repositories.findBlob(digestOf(bytes), () => true, 1000), last)
  assert.ok(traffic.most > 8, `${traffic.most} at once`)
  assert.equal(await repositories.findBlob(digestOf(bytes), (name) => name !== last, 1000), undefined)
})

test('the list of repositories is not begun anew while it is being read, however long that takes', async (t) => {
  t.mock.timers.enable({ apis: ['Date'] })
  await using folder = await temporaryFolder()
  const { place, traffic } = await openShared(folder.path)
  await place.repositories.putManifest('app', 'a', manifest('a'), INDEX_TYPE)
  const walks = (): number => traffic.asked.filter((request) => request === 'list repositories').length
  const goOn = Promise.withResolvers<void>()
  traffic.before = (request) => (request === 'list repositories' ? goOn.promise : turn())
  const asked = [place.repositories.names()]
  t.mock.timers.tick(60_000)
  asked.push(place.repositories.names())
  goOn.resolve()
  for (const names of await Promise.all(asked)) assert.deepEqual(names, ['app'])
  t.mock.timers.tick(9_000)
  await place.repositories.names()
  assert.equal(walks(), 1)
  t.mock.timers.tick(2_000)
  await place.repositories.names()
  assert.equal(walks(), 2)
})
