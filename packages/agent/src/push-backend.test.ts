// Pushes through whole agents, with raw HTTP, to a registry that says what it got and from whom.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { digestOf } from '@shoal/oci'
import type { AgentConfig } from './config.ts'
import { startAgent, type TestAgent } from './testing/agents.ts'
import { takePushes } from './testing/push-registry.ts'
import { MANIFEST_TYPE, refuse, startRegistry, type TestImage } from './testing/registry.ts'

const RIGHT = `Basic ${Buffer.from('ann:right').toString('base64')}`
const CHALLENGE = 'Basic realm="the registry"'

async function setUp(t: TestContext, config: Partial<AgentConfig> = {}) {
  const registry = await startRegistry(t)
  const state = { closed: false }
  const uploads = takePushes(registry, (request, response) => {
    if (!state.closed || request.headers.authorization === RIGHT) return false
    refuse(response, 401, 'UNAUTHORIZED', { 'www-authenticate': CHALLENGE })
    return true
  })
  const agent = await startAgent(t, config)
  return { registry, uploads, agent, state, base: `/v2/${registry.host}/team/app` }
}

async function begin(agent: TestAgent, base: string, headers: Record<string, string> = {}): Promise<string> {
  const answer = await agent.ask(`${base}/blobs/uploads/`, { method: 'POST', headers })
  assert.equal(answer.status, 202, answer.body.toString())
  return answer.headers.get('location') ?? ''
}

/** In two pieces, as docker and others may. */
async function pushBlob(agent: TestAgent, base: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
  const location = await begin(agent, base)
  const half = Math.floor(bytes.length / 2)
  const first = await agent.ask(location, { method: 'PATCH', body: bytes.subarray(0, half) })
  assert.deepEqual([first.status, first.headers.get('range')], [202, `0-${Math.max(0, half - 1)}`])
  const last = await agent.ask(`${location}?digest=${digestOf(bytes)}`, { method: 'PUT', body: bytes.subarray(half) })
  assert.equal(last.status, 201, last.body.toString())
}

/** An image that no registry has yet. */
async function newImage(t: TestContext): Promise<{ image: TestImage; blobs: Uint8Array<ArrayBuffer>[] }> {
  const source = await startRegistry(t)
  const image = source.addImage('team/app:1', [3_000_000, 1])
  return { image, blobs: [image.config, ...image.layers].map((digest) => new Uint8Array(source.blobs.get(digest)!)) }
}

const spooled = (agent: TestAgent) => readdir(join(agent.directory, 'pushes'))

test('after a push through one agent, another pulls without a byte from the origin', async (t) => {
  const { registry, uploads, agent, base } = await setUp(t)
  const { image, blobs } = await newImage(t)
  for (const bytes of blobs) await pushBlob(agent, base, bytes)
  const put = await agent.ask(`${base}/manifests/1`, {
    method: 'PUT',
    body: image.text,
    headers: { 'content-type': MANIFEST_TYPE },
  })
  assert.deepEqual([put.status, put.headers.get('docker-content-digest')], [201, image.digest])
  for (const bytes of blobs) assert.ok(registry.blobs.get(digestOf(bytes))?.equals(bytes), 'the origin has it')
  assert.equal(registry.manifests.get('team/app:1')?.bytes.toString(), image.text)
  assert.deepEqual([[...uploads], await spooled(agent)], [[], []], 'nothing is left over')

  const { address } = await agent.status()
  const second = await startAgent(t, { bootstrapPeers: address.multiaddrs })
  while ((await second.status()).peersConnected === 0) await new Promise((resolve) => setImmediate(resolve))
  assert.equal((await second.ask(`${base}/manifests/1`)).body.toString(), image.text)
  for (const bytes of blobs) {
    const got = await second.ask(`${base}/blobs/${digestOf(bytes)}`)
    assert.ok(got.body.equals(bytes))
  }
  await second.idle()
  assert.equal(registry.blobBytes, 0)
  assert.equal(await second.metric('shoal_chunk_bytes_received_total', 'source="origin"'), 0)
})

test('the origin decides who may push, before a byte is sent, and hears the client and not the node', async (t) => {
  const { registry, agent, state, base } = await setUp(t)
  state.closed = true
  const named = `/v2/team/app/blobs/uploads/?ns=${registry.host}`
  const refused = await agent.ask(named, { method: 'POST' })
  assert.deepEqual([refused.status, refused.code], [401, 'UNAUTHORIZED'])
  assert.equal(refused.headers.get('www-authenticate'), CHALLENGE, 'so that a client can answer it')
  const bytes = randomBytes(1000)
  const location = await begin(agent, base, { authorization: RIGHT })
  const path = `${location}?digest=${digestOf(bytes)}`
  assert.equal((await agent.ask(path, { method: 'PUT', body: bytes })).status, 401)
  assert.equal(registry.blobs.size, 0)
  assert.equal((await agent.ask(`${base}/blobs/${digestOf(bytes)}`)).status, 401)
  const done = await agent.ask(path, { method: 'PUT', headers: { authorization: RIGHT } })
  assert.equal(done.status, 201, 'what came stays for one who may')

  const login = { username: 'ann', password: 'right' }
  const readable = await startAgent(t, { registries: { [registry.host]: { ...login, access: 'node' } } })
  assert.equal((await readable.ask(`${base}/blobs/uploads/`, { method: 'POST' })).status, 401)
  const writable = await startAgent(t, { registries: { [registry.host]: { ...login, pushAs: 'node' } } })
  assert.equal((await writable.ask(`${base}/blobs/uploads/`, { method: 'POST' })).status, 202)
})

test('a blob that is not what its digest says reaches neither the origin nor the store', async (t) => {
  const { registry, agent, base } = await setUp(t)
  const wrong = digestOf('something else')
  const location = await begin(agent, base)
  const answer = await agent.ask(`${location}?digest=${wrong}`, { method: 'PUT', body: randomBytes(300_000) })
  assert.deepEqual([answer.status, answer.code], [400, 'DIGEST_INVALID'])
  const manifest = await agent.ask(`${base}/manifests/${wrong}`, { method: 'PUT', body: '{}' })
  assert.deepEqual([manifest.status, manifest.code], [400, 'DIGEST_INVALID'])
  assert.deepEqual([registry.blobs.size, registry.manifests.size], [0, 0])
  assert.equal((await agent.status()).store.storedBytes, 0)
})

test('an upload tells where it stands, is resumed there, and can be given up', async (t) => {
  const { registry, uploads, agent, base } = await setUp(t)
  const bytes = randomBytes(10_000)
  const location = await begin(agent, base)
  await agent.ask(location, { method: 'PATCH', body: bytes.subarray(0, 4000) })
  const state = await agent.ask(location)
  assert.deepEqual([state.status, state.headers.get('range')], [204, '0-3999'])
  const headers = { 'content-range': '5000-9999' }
  const gap = await agent.ask(location, { method: 'PATCH', body: bytes.subarray(5000), headers })
  assert.deepEqual([gap.status, gap.headers.get('range')], [416, '0-3999'])
  uploads.clear()
  const path = `${location}?digest=${digestOf(bytes)}`
  const done = await agent.ask(path, { method: 'PUT', body: bytes.subarray(4000) })
  assert.equal(done.status, 201, 'though the origin has dropped its upload meanwhile')
  assert.ok(registry.blobs.get(digestOf(bytes))?.equals(bytes))

  const second = await begin(agent, base)
  const elsewhere = second.replace('/team/app/', '/team/other/')
  assert.equal((await agent.ask(elsewhere)).code, 'BLOB_UPLOAD_UNKNOWN', 'an upload belongs to its repository')
  assert.equal((await agent.ask(second, { method: 'DELETE' })).status, 204)
  assert.equal((await agent.ask(second)).status, 404)
  assert.deepEqual([[...uploads], await spooled(agent)], [[], []])
})

test('mounts are passed on within a registry; deletes are not', async (t) => {
  const { registry, uploads, agent, base } = await setUp(t)
  const digest = registry.addBlob(5000)
  const mount = (from: string) =>
    agent.ask(`${base}/blobs/uploads/?mount=${digest}&from=${encodeURIComponent(from)}`, { method: 'POST' })
  assert.equal((await mount(`${registry.host}/team/base`)).status, 201)
  assert.deepEqual(registry.askedFor('from=team%2Fbase').length, 1)
  assert.equal((await mount('registry.test/team/base')).status, 202, 'another registry: an upload is opened')
  assert.equal(uploads.size, 1)
  const deleted = await agent.ask(`${base}/blobs/${digest}`, { method: 'DELETE' })
  assert.deepEqual([deleted.status, deleted.code], [405, 'UNSUPPORTED'])
  assert.ok(registry.blobs.has(digest))
})

test("a mount in the node's name opens nothing that the client may not read where it is", async (t) => {
  const { registry, uploads, state } = await setUp(t)
  const login = { username: 'ann', password: 'right', pushAs: 'node' as const }
  const agent = await startAgent(t, { registries: { [registry.host]: login } })
  const digest = registry.addBlob(5000)
  state.closed = true
  const mount = (authorization?: string) =>
    agent.ask(`/v2/${registry.host}/team/app/blobs/uploads/?mount=${digest}&from=${registry.host}/team/secret`, {
      method: 'POST',
      ...(authorization === undefined ? {} : { headers: { authorization } }),
    })
  assert.equal((await mount()).status, 202, 'an upload is opened: who has the bytes may send them')
  assert.deepEqual([registry.askedFor('mount='), uploads.size], [[], 1])
  assert.equal((await mount(RIGHT)).status, 201)
})

test('a push that does not fit is refused with what to do, and leaves its room to the next', async (t) => {
  const { registry, agent, base } = await setUp(t, { storeQuota: 4_000_000 })
  const large = randomBytes(5_000_000)
  const location = await begin(agent, base)
  const path = `${location}?digest=${digestOf(large)}`
  const refused = await agent.ask(path, { method: 'PUT', body: large })
  assert.deepEqual([refused.status, refused.code], [403, 'DENIED'])
  assert.match(refused.body.toString(), /push to the registry itself/)
  assert.equal((await agent.ask(location, { method: 'DELETE' })).status, 204)
  await pushBlob(agent, base, large.subarray(0, 3_000_000))
  assert.equal(registry.blobs.size, 1)
})
