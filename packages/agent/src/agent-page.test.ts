import assert from 'node:assert/strict'
import test from 'node:test'
import { startAgent } from './testing/agents.ts'
import { startRegistry } from './testing/registry.ts'

test('a person sees on a page what is arriving, and from where', async (t) => {
  const registry = await startRegistry(t)
  const { layers } = registry.addImage('team/app:1', [700_000])
  const agent = await startAgent(t)
  const held = Promise.withResolvers<void>()
  registry.pace = (position) => (position > 300_000 ? held.promise : undefined)
  const pulling = agent.ask(`/v2/team/app/blobs/${layers[0]}?ns=${registry.host}`)
  const page = async () => await (await fetch(`${agent.agent.urls.admin}/`)).text()
  while (!(await page()).includes(layers[0]!)) await new Promise((resolve) => setImmediate(resolve))
  const shown = await page()
  for (const text of ['Shoal agent', 'ready', '684 KiB', 'active', 'peers are found through the DHT alone']) {
    assert.ok(shown.includes(text), `${text} is not on the page`)
  }
  held.resolve()
  assert.equal((await pulling).status, 200)
})
