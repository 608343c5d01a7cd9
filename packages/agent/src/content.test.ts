// Manifests that are in the store: from memory where they can be, never after they are gone.
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { digestOf } from '@shoal/oci'
import { openStore } from '@shoal/store'
import { UpstreamError, type Upstream } from '@shoal/upstream'
import type { Swarm } from '@shoal/swarm'
import { Content } from './content.ts'
import { silent } from './testing/agents.ts'
import { MANIFEST_TYPE } from './testing/registry.ts'

const TARGET = { registry: 'r.example', repository: 'app' }
const { signal } = new AbortController()

/** Content of a node that has a store, and nobody to ask. */
async function setUp(t: TestContext) {
  const directory = await mkdtemp(join(tmpdir(), 'shoal-content-'))
  const store = await openStore({ directory, quotaBytes: 1e9, logger: silent })
  t.after(async () => {
    await store.close()
    await rm(directory, { recursive: true, force: true })
  })
  const nobody = new UpstreamError('NOT_FOUND', TARGET.registry, 'it was asked')
  const upstream = { headManifest: () => Promise.reject(nobody) } as unknown as Upstream
  const swarm = { connectedAgents: 0, askSize: () => Promise.resolve(undefined) } as unknown as Swarm
  const content = new Content({ store, swarm, upstream, logger: silent })
  const put = async (text: string, mediaType = MANIFEST_TYPE) => {
    const bytes = Buffer.from(text)
    const digest = digestOf(bytes)
    await store.put(digest, bytes, mediaType)
    return digest
  }
  return { store, put, ask: (digest: ReturnType<typeof digestOf>) => content.manifest(TARGET, digest, {}, signal) }
}

const layer = { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: digestOf(Buffer.from('layer')), size: 7 }
const config = { ...layer, mediaType: 'application/vnd.oci.image.config.v1+json' }
const manifest = JSON.stringify({ schemaVersion: 2, mediaType: MANIFEST_TYPE, config, layers: [layer] })

test('a stored manifest is read and parsed once, and asked for elsewhere once it is gone', async (t) => {
  const { store, put, ask } = await setUp(t)
  const digest = await put(manifest)
  const [first, again] = [await ask(digest), await ask(digest)]
  assert.deepEqual([first.source, Buffer.from(first.bytes).toString()], ['store', manifest])
  assert.equal(again.parsed, first.parsed)
  assert.deepEqual(again, first)
  await store.delete(digest)
  await assert.rejects(ask(digest), /it was asked/)
})

test('whoever named a wrong size is blamed, though the origin brought the manifest before the swarm had failed', async (t) => {
  const { store } = await setUp(t)
  const bytes = Buffer.from(manifest)
  const digest = digestOf(bytes)
  const blamed: unknown[] = []
  const swarm = {
    connectedAgents: 1,
    askSize: () => Promise.resolve({ sizeBytes: bytes.length + 1, mediaType: '', saidBy: 'liar' }),
    download: () => Promise.resolve({ done: new Promise(() => undefined), hold: () => () => undefined }),
    blame: (...word: unknown[]) => blamed.push(word),
  } as unknown as Swarm
  const upstream = {
    headManifest: () => new Promise(() => undefined),
    getManifest: () => Promise.resolve({ bytes, mediaType: MANIFEST_TYPE }),
  } as unknown as Upstream
  const content = new Content({ store, swarm, upstream, logger: silent })
  const answer = await content.manifest(TARGET, digest, {}, signal, performance.now())
  assert.deepEqual([answer.source, Buffer.from(answer.bytes).toString()], ['origin', manifest])
  assert.deepEqual(blamed, [['liar', digest, 'wrong_size']])
})

test('a manifest that was kept again with another type is answered with that', async (t) => {
  const { store, put, ask } = await setUp(t)
  const digest = await put('{}', 'application/vnd.oci.image.index.v1+json')
  assert.equal((await ask(digest)).mediaType, 'application/vnd.oci.image.index.v1+json')
  await store.delete(digest)
  await put('{}')
  assert.equal((await ask(digest)).mediaType, MANIFEST_TYPE)
})

test('what is no manifest is passed on as it is, be it empty', async (t) => {
  const { put, ask } = await setUp(t)
  for (const text of ['', '{}', 'no JSON at all']) {
    const digest = await put(text)
    for (let round = 0; round < 2; round++) {
      const { bytes, parsed } = await ask(digest)
      assert.deepEqual([Buffer.from(bytes).toString(), parsed], [text, undefined])
    }
  }
})
