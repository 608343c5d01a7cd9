// Layers that an agent fetches before a client asks: which, how many, and when it gives up.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import test, { type TestContext } from 'node:test'
import { digestOf, parseManifest, type Digest } from '@shoal/oci'
import { Registry } from 'prom-client'
import type { BlobContent, ManifestContent } from './content.ts'
import { Lookahead } from './lookahead.ts'
import { silent, startAgent, type TestAgent } from './testing/agents.ts'
import { MANIFEST_TYPE, startRegistry } from './testing/registry.ts'

const LAYER = 50_000
const METRIC = 'shoal_lookahead_layers_total'

/** A cold image of three layers at an agent with this bound. */
async function start(t: TestContext, lookahead: number) {
  const registry = await startRegistry(t)
  const image = registry.addImage('team/app:1', [LAYER, LAYER, LAYER])
  const agent = await startAgent(t, { lookahead })
  const path = (rest: string) => `/v2/team/app/${rest}?ns=${registry.host}`
  return { registry, image, agent, path }
}

async function fetched(agent: TestAgent, count: number): Promise<void> {
  while ((await agent.metric(METRIC, 'fetched')) < count) await new Promise((resolve) => setImmediate(resolve))
}

test('the manifest of an image brings its layers, in order, up to the bound', async (t) => {
  const { registry, image, agent, path } = await start(t, 2 * LAYER + 1000)
  assert.equal((await agent.ask(path('manifests/1'))).status, 200)
  await fetched(agent, 3)
  const [first, second, third] = image.layers as [Digest, Digest, Digest]
  for (const digest of [image.config, first, second])
    assert.equal(registry.askedFor(`GET`).filter((line) => line.includes(digest)).length, 1)
  assert.deepEqual(registry.askedFor(third), [])

  const answer = await agent.ask(path(`blobs/${second}`))
  assert.deepEqual([answer.status, answer.body.length], [200, LAYER])
  assert.equal(registry.askedFor(second).filter((line) => line.startsWith('GET')).length, 1)
})

test('a question about an image, an index, and a bound of 0 bring nothing', async (t) => {
  const { registry, image, agent, path } = await start(t, 1e9)
  registry.addIndex('team/many:1', [{ image, platform: { os: 'linux', architecture: 'amd64' } }])
  assert.equal((await agent.ask(path('manifests/1'), { method: 'HEAD' })).status, 200)
  assert.equal((await agent.ask(`/v2/team/many/manifests/1?ns=${registry.host}`)).status, 200)
  const off = await start(t, 0)
  assert.equal((await off.agent.ask(off.path('manifests/1'))).status, 200)
  for (const one of [agent, off.agent]) {
    await one.idle()
    assert.equal(await one.metric(METRIC), 0)
  }
  assert.deepEqual([...registry.askedFor('/blobs/'), ...off.registry.askedFor('/blobs/')], [])
})

/** What was begun by now has had its turn. */
function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

/** A lookahead over content that never arrives, and what becomes of the one layer of its image. */
function endless(patienceMs: number) {
  const layer = digestOf(Buffer.from('a layer'))
  const described = { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: layer, size: 7 }
  const config = { ...described, mediaType: 'application/vnd.oci.image.config.v1+json' }
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MANIFEST_TYPE, config, layers: [described] }))
  const manifest: ManifestContent = {
    ...{ digest: digestOf(bytes), mediaType: MANIFEST_TYPE, sizeBytes: bytes.length, bytes, source: 'origin' },
    parsed: parseManifest(bytes, MANIFEST_TYPE),
  }
  const events = new EventTarget()
  const blob = (): Promise<BlobContent> => {
    const download = { done: new Promise<void>(() => undefined) } as NonNullable<BlobContent['download']>
    const release = (): void => void events.dispatchEvent(new Event('released'))
    const open = () => assert.fail('nobody reads it')
    queueMicrotask(() => events.dispatchEvent(new Event('asked')))
    return Promise.resolve({ sizeBytes: 7, source: 'swarm', stored: undefined, download, open, release })
  }
  const lookahead = new Lookahead({
    content: { blob, isStored: () => false },
    limitBytes: 1e6,
    patienceMs,
    registry: new Registry(),
    logger: silent,
  })
  const begin = () => lookahead.begin({ registry: 'r.example', repository: 'app' }, manifest, { requestId: '1' })
  return { lookahead, layer, begin, asked: () => once(events, 'asked'), released: () => once(events, 'released') }
}

test('an image that nobody wants is given up, one that a client gets is not', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { lookahead, layer, begin, asked, released } = endless(1000)
  const [begun, given] = [asked(), released()]
  begin()
  await begun
  t.mock.timers.tick(1000)
  await given
  await settled()

  let isReleased = false
  const again = asked()
  const later = released().then(() => (isReleased = true))
  begin()
  await again
  const left = lookahead.wanted(layer)
  t.mock.timers.tick(60_000)
  left()
  left()
  t.mock.timers.tick(999)
  await settled()
  assert.equal(isReleased, false)
  t.mock.timers.tick(1)
  await later
})

test('an agent that ends waits for no layer', async () => {
  const { lookahead, begin, asked, released } = endless(60_000)
  const [begun, done] = [asked(), released()]
  begin()
  await begun
  lookahead.close()
  await done
})
