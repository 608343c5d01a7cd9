// Pulls by the admin API, and the rest of it.
import assert from 'node:assert/strict'
import test from 'node:test'
import { digestOf } from '@shoal/oci'
import { startAgent } from './testing/agents.ts'
import { refuse, startRegistry } from './testing/registry.ts'

const MIB = 1024 * 1024

test('a pull tells of the manifest, the layers, how they come, and the end', async (t) => {
  const registry = await startRegistry(t)
  const image = registry.addImage('team/app:1', [MIB, 1000])
  const agent = await startAgent(t)
  const events = await agent.pull(`${registry.host}/team/app:1`)
  const kinds = events.map(({ event }) => event)
  assert.equal(kinds[0], 'manifest')
  assert.equal(events[0]!['digest'], image.digest)
  assert.equal(kinds[1], 'layers')
  const expected = [image.config, ...image.layers]
  assert.deepEqual(
    (events[1]!['layers'] as { digest: string }[]).map(({ digest }) => digest),
    expected,
  )
  const finished = events.filter(({ event }) => event === 'layer-done')
  assert.deepEqual(finished.map(({ digest }) => digest).sort(), expected.toSorted())
  assert.ok(finished.every(({ source }) => source === 'origin'))
  assert.equal(kinds.at(-1), 'done')
  assert.equal(events.at(-1)!['digest'], image.digest)
  for (const digest of expected) {
    const last = events.filter((event) => event['event'] === 'progress' && event['digest'] === digest).at(-1)!
    assert.equal(last['receivedBytes'], last['sizeBytes'])
    assert.equal(last['fromOriginBytes'], last['sizeBytes'])
  }

  const again = await agent.pull(`${registry.host}/team/app@${image.digest}`)
  assert.ok(again.filter(({ event }) => event === 'layer-done').every(({ source }) => source === 'store'))
  assert.equal(again.at(-1)!['event'], 'done')
})

test('of an index the variant for the platform is pulled, and only that', async (t) => {
  const registry = await startRegistry(t)
  const arm = { os: 'linux', architecture: 'arm64' }
  const amd = { os: 'linux', architecture: 'amd64' }
  const [one, two] = [registry.addImage('team/app', [100], arm), registry.addImage('team/app', [100], amd)]
  const index = registry.addIndex('team/app:multi', [
    { image: one, platform: arm },
    { image: two, platform: amd },
  ])
  const agent = await startAgent(t)
  const events = await agent.pull(`${registry.host}/team/app:multi`, { platform: 'linux/arm64' })
  assert.equal(events[0]!['digest'], one.digest)
  assert.equal(events.at(-1)!['digest'], index)
  assert.equal(registry.askedFor(two.layers[0]!).length, 0)
  const none = await agent.pull(`${registry.host}/team/app:multi`, { platform: 'windows/amd64' })
  assert.equal(none.at(-1)!['code'], 'MANIFEST_UNKNOWN')
  assert.match(String(none.at(-1)!['message']), /windows\/amd64/)
})

test('an image for one platform is pulled for no other, and costs its configuration then', async (t) => {
  const registry = await startRegistry(t)
  const image = registry.addImage('team/app:1', [100])
  const unsaid = registry.addImage('team/data:1', [100], { os: '', architecture: '' })
  const old = registry.addImage('team/old:1', [100], { os: 'linux', architecture: 'arm' })
  const agent = await startAgent(t)
  const pull = async (name: string, platform: string) =>
    (await agent.pull(`${registry.host}/${name}`, { platform })).at(-1)!
  const refused = await pull('team/app:1', 'linux/arm64')
  assert.equal(refused['code'], 'MANIFEST_UNKNOWN')
  assert.match(String(refused['message']), /is for linux\/amd64 only, not for linux\/arm64/)
  assert.equal(registry.askedFor(image.layers[0]!).length, 0)
  assert.equal((await pull('team/app:1', 'linux/amd64/v3'))['digest'], image.digest)
  assert.equal((await pull('team/data:1', 'linux/arm64'))['digest'], unsaid.digest)
  assert.equal((await pull('team/old:1', 'linux/arm/v6'))['digest'], old.digest)
})

test('a layer that several layers share is pulled once', async (t) => {
  const registry = await startRegistry(t)
  const image = registry.addImage('team/app:1', [500])
  const manifest = JSON.parse(image.text) as { layers: unknown[] }
  manifest.layers.push(manifest.layers[0])
  registry.addManifest('team/app:2', JSON.stringify(manifest), 'application/vnd.oci.image.manifest.v1+json')
  const agent = await startAgent(t)
  const events = await agent.pull(`${registry.host}/team/app:2`)
  assert.equal(events.at(-1)!['event'], 'done')
  assert.equal(events.filter(({ event, digest }) => event === 'layer-done' && digest === image.layers[0]).length, 1)
})

test('a pull that cannot succeed ends with one error that says why', async (t) => {
  const registry = await startRegistry(t)
  const image = registry.addImage('team/app:1', [1000, 2000])
  const agent = await startAgent(t)
  const last = async (name: string) => {
    const events = await agent.pull(name)
    assert.equal(events.filter(({ event }) => event === 'error').length, 1)
    assert.equal(events.at(-1)!['event'], 'error')
    return events.at(-1)!['code']
  }
  assert.equal(await last(`${registry.host}/team/app:none`), 'MANIFEST_UNKNOWN')
  assert.equal(await last(`${registry.host}/team/app@${digestOf('none')}`), 'MANIFEST_UNKNOWN')
  assert.ok(await last('not a NAME'))
  registry.blobs.delete(image.layers[1]!)
  assert.ok(await last(`${registry.host}/team/app:1`))
  registry.mood = (_request, response) => {
    refuse(response, 403, 'DENIED')
    return true
  }
  assert.equal(await last(`${registry.host}/team/other:1`), 'DENIED')
})

test('a pull that is given up stops its downloads', async (t) => {
  const registry = await startRegistry(t)
  registry.addImage('team/app:1', [4 * MIB])
  registry.pace = (position) => (position >= MIB ? new Promise(() => undefined) : undefined)
  const agent = await startAgent(t, { shutdownGrace: 100 })
  const stop = new AbortController()
  const response = await fetch(`${agent.agent.urls.admin}/api/v1/pulls`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ image: `${registry.host}/team/app:1` }),
    signal: stop.signal,
  })
  while ((await agent.status()).downloads.length === 0) await new Promise((resolve) => setImmediate(resolve))
  stop.abort()
  await assert.rejects(response.text())
  while ((await agent.status()).downloads.length > 0) await new Promise((resolve) => setImmediate(resolve))
})

test('a body that is no pull is refused', async (t) => {
  const agent = await startAgent(t)
  for (const body of ['{}', '{"image":""}', '{"image":5,"x":1}', '[]', 'no json']) {
    const response = await fetch(`${agent.agent.urls.admin}/api/v1/pulls`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
    })
    await response.text()
    assert.equal(response.status, 400, body)
  }
})

test('health, readiness, status and metrics', async (t) => {
  const agent = await startAgent(t, { zone: 'rack-7' })
  const { admin } = agent.agent.urls
  assert.equal((await fetch(`${admin}/healthz`)).status, 200)
  assert.equal((await fetch(`${admin}/readyz`)).status, 200)
  const status = (await (await fetch(`${admin}/api/v1/status`)).json()) as Record<string, unknown>
  assert.equal(status['zone'], 'rack-7')
  assert.equal(status['peerId'], agent.agent.peerId)
  assert.deepEqual(status['downloads'], [])
  assert.deepEqual(status['banned'], [])
  const metrics = await (await fetch(`${admin}/metrics`)).text()
  for (const name of [
    'shoal_chunk_bytes_received_total{source="peer"} 0',
    'shoal_chunk_bytes_received_total{source="origin"} 0',
    'shoal_chunks_rejected_total{reason="hash"} 0',
    'shoal_chunk_bytes_sent_total 0',
    'shoal_downloads_active 0',
    'shoal_peers_connected',
    'shoal_store_bytes',
    'process_cpu_seconds_total',
  ]) {
    assert.ok(metrics.includes(`\n${name}`), name)
  }
})

test('the status shows nothing of the configuration beyond the rates', async (t) => {
  const registries = { 'registry.test': { username: 'u', password: 'planted-secret' } }
  const agent = await startAgent(t, { registries })
  const text = JSON.stringify(await agent.status())
  assert.doesNotMatch(text, /planted-secret|registry\.test/)
})

test('limits are told, and changed while the agent runs', async (t) => {
  const agent = await startAgent(t, { uploadRate: 1000, originConcurrency: 3 })
  const url = `${agent.agent.urls.admin}/api/v1/limits`
  const before = (await (await fetch(url)).json()) as Record<string, number>
  assert.deepEqual([before['uploadRate'], before['originRate'], before['originConcurrency']], [1000, 0, 3])
  const change = async (body: object) => {
    const headers = { 'content-type': 'application/json' }
    const answer = await fetch(url, { method: 'PATCH', headers, body: JSON.stringify(body) })
    return { status: answer.status, limits: await answer.json() }
  }
  const wanted = { uploadRate: 0, downloadRate: 7, originRate: 8, uploadSlots: 9, originConcurrency: 10 }
  assert.deepEqual(await change(wanted), { status: 200, limits: wanted })
  assert.deepEqual(await change({ originRate: 0 }), { status: 200, limits: { ...wanted, originRate: 0 } })
  assert.deepEqual(await (await fetch(url)).json(), { ...wanted, originRate: 0 })
  for (const body of [{}, { uploadSlots: 0 }, { originRate: -1 }, { originConcurrency: 1.5 }, { rate: 1 }]) {
    assert.equal((await change(body)).status, 400, JSON.stringify(body))
  }
})

test('an origin is asked at a rate that was set while the pull runs', async (t) => {
  const registry = await startRegistry(t)
  registry.addImage('team/app:1', [2 * MIB])
  const agent = await startAgent(t, { originRate: 1024, shutdownGrace: 100 })
  const pulled = agent.pull(`${registry.host}/team/app:1`)
  while ((await agent.status()).downloads.length === 0) await new Promise((resolve) => setImmediate(resolve))
  await fetch(`${agent.agent.urls.admin}/api/v1/limits`, {
    method: 'PATCH',
    headers: { 'content-type': 'application/json' },
    body: '{"originRate":0}',
  })
  // At the old rate it would take half an hour.
  assert.equal((await pulled).at(-1)!['event'], 'done')
})
