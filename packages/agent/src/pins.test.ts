// Pinned images: what stays, for how long, and what an operator is told.
import assert from 'node:assert/strict'
import test from 'node:test'
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
