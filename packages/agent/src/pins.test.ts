// Pinned images: what stays, for how long, and what an operator is told.
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { digestOf, type Digest } from '@shoal/oci'
import { openStore, type Store, type StoreRecords } from '@shoal/store'
import { Pins, type Pin } from './pins.ts'
import { startAgent, type TestAgent } from './testing/agents.ts'
import { startRegistry } from './testing/registry.ts'

const LAYER = 600_000

async function pins(agent: TestAgent): Promise<{ image: string; digest: string; digests: string[] }[]> {
  const answer = await fetch(`${agent.agent.urls.admin}/api/v1/pins`)
  return ((await answer.json()) as { pins: { image: string; digest: string; digests: string[] }[] }).pins
}

async function unpin(agent: TestAgent, image: string): Promise<unknown> {
  const url = `${agent.agent.urls.admin}/api/v1/pins?image=${encodeURIComponent(image)}`
  const answer = await fetch(url, { method: 'DELETE' })
  return answer.status === 200 ? ((await answer.json()) as { unpinned: boolean }).unpinned : answer.status
}

test('a pinned image outlives others and a restart; unpinned it goes like any other', async (t) => {
  const registry = await startRegistry(t)
  const names = ['kept:1', 'other:1', 'other:2'].map((name) => `team/${name}`)
  const [kept] = names.map((name) => registry.addImage(name, [LAYER]))
  const [image, ...others] = names.map((name) => `${registry.host}/${name}`) as [string, string, string]
  const storeQuota = 2 * LAYER + 100_000
  const first = await startAgent(t, { storeQuota })
  assert.equal((await first.pull(image, { pin: true })).at(-1)!['event'], 'done')
  assert.deepEqual(
    (await pins(first)).map(({ image: name, digest, digests }) => [name, digest, digests.toSorted()]),
    [[image, kept!.digest, [kept!.digest, kept!.config, ...kept!.layers].toSorted()]],
  )
  await first.close()

  const agent = await startAgent(t, { storeQuota, dataDirectory: first.directory })
  for (const other of others) assert.equal((await agent.pull(other)).at(-1)!['event'], 'done')
  const sources = (events: Record<string, unknown>[]) =>
    events.filter(({ event }) => event === 'layer-done').map(({ source }) => source)
  assert.deepEqual(sources(await agent.pull(image)), ['store', 'store'])

  assert.equal(await unpin(agent, image), true)
  assert.equal(await unpin(agent, image), false)
  assert.equal(await unpin(agent, 'Not An Image'), 400)
  assert.deepEqual(await pins(agent), [])
  for (const other of others) await agent.pull(other)
  for (const name of ['more:1', 'more:2']) {
    registry.addImage(`team/${name}`, [LAYER])
    await agent.pull(`${registry.host}/team/${name}`)
  }
  assert.ok(sources(await agent.pull(image)).includes('origin'))
})

test('a layer that two pinned images share stays until both are unpinned', async (t) => {
  const registry = await startRegistry(t)
  const one = registry.addImage('team/one:1', [LAYER])
  registry.addManifest('team/two:1', one.text, 'application/vnd.oci.image.manifest.v1+json')
  const agent = await startAgent(t, { storeQuota: 2 * LAYER + 100_000 })
  const [first, second] = [`${registry.host}/team/one:1`, `${registry.host}/team/two:1`]
  await agent.pull(first, { pin: true })
  await agent.pull(second, { pin: true })
  await unpin(agent, first)
  for (const name of ['a:1', 'b:1']) {
    registry.addImage(`team/${name}`, [LAYER])
    assert.equal((await agent.pull(`${registry.host}/team/${name}`)).at(-1)!['event'], 'done')
  }
  const again = (await agent.pull(second)).filter(({ event }) => event === 'layer-done')
  assert.ok(again.every(({ source }) => source === 'store'))
})

test('an image that is not there cannot be pinned', async (t) => {
  const registry = await startRegistry(t)
  const agent = await startAgent(t)
  assert.equal((await agent.pull(`${registry.host}/team/none:1`, { pin: true })).at(-1)!['event'], 'error')
  assert.deepEqual(await pins(agent), [])
})

/** A store with two blobs whose disk can be made to fail. */
async function harmedStore(t: TestContext) {
  const directory = await mkdtemp(join(tmpdir(), 'shoal-pins-'))
  const store = await openStore({ directory, hashing: 'inline' })
  t.after(async () => {
    await store.close()
    await rm(directory, { recursive: true, force: true })
  })
  const digests: Digest[] = []
  for (const text of ['one', 'two']) {
    const digest = digestOf(text)
    await store.put(digest, Buffer.from(text))
    digests.push(digest)
  }
  const full = () => Promise.reject(new Error('the disk is full'))
  const harmed = (records: Partial<StoreRecords<Pin>>, more: Partial<Store> = {}): Store =>
    proxied(store, {
      ...more,
      records: <T>(name: string) => proxied(store.records<T>(name), records as Partial<StoreRecords<T>>),
    })
  const pinned = () => [...store.list()].filter((entry) => entry.pinned).map(({ digest }) => digest)
  return { store, digests, full, harmed, pinned }
}

/** An object of which some methods do something else. */
function proxied<T extends object>(object: T, changed: Partial<T>): T {
  return new Proxy(object, {
    get(target, key) {
      if (Object.hasOwn(changed, key)) return changed[key as keyof T]
      const value: unknown = target[key as keyof T]
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}

test('what cannot be written down as pinned does not stay pinned, unless another image has it', async (t) => {
  const { store, digests, full, harmed, pinned } = await harmedStore(t)
  const [one, two] = digests as [Digest, Digest]
  let left = 1
  const pin = (digest: Digest) => (left-- > 0 ? store.pin(digest) : full())
  for (const broken of [harmed({ put: full }), harmed({}, { pin })]) {
    await assert.rejects(new Pins(broken).pin('alpine:3', one, digests), /the disk is full/)
    assert.deepEqual(pinned(), [])
  }
  const pins = new Pins(store)
  assert.equal(await pins.pin('other:1', two, [two]), true)
  await assert.rejects(new Pins(harmed({ put: full })).pin('alpine:3', one, digests), /the disk is full/)
  assert.deepEqual(pinned(), [two])
})

test('an image that could not be unpinned can be unpinned again', async (t) => {
  const { store, digests, full, harmed, pinned } = await harmedStore(t)
  const pins = new Pins(store)
  await pins.pin('alpine:3', digests[0]!, digests)
  for (const broken of [harmed({}, { unpin: full }), harmed({ delete: full })]) {
    await assert.rejects(new Pins(broken).unpin('alpine:3'), /the disk is full/)
    assert.equal((await pins.list()).length, 1)
  }
  assert.equal(await pins.unpin('alpine:3'), true)
  assert.deepEqual(pinned(), [])
})

test('what no pinned image names is let go of at the start', async (t) => {
  const registry = await startRegistry(t)
  const image = registry.addImage('team/kept:1', [LAYER])
  const first = await startAgent(t)
  await first.pull(`${registry.host}/team/kept:1`, { pin: true })
  await first.close()
  const directory = join(first.directory, 'store')
  const stray = digestOf('stray')
  const before = await openStore({ directory, hashing: 'inline' })
  await before.put(stray, Buffer.from('stray'))
  await before.pin(stray)
  await before.close()
  await (await startAgent(t, { dataDirectory: first.directory })).close()
  const store = await openStore({ directory, hashing: 'inline' })
  const pinned = [...store.list()].filter((entry) => entry.pinned).map(({ digest }) => digest)
  await store.close()
  assert.deepEqual(pinned.toSorted(), [image.digest, image.config, ...image.layers].toSorted())
})
