// An update of nodes that have most of it already: what they share with the version before does not move.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MiB } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { withLab } from './lab.ts'

/** Manifests, configs, headers, and what nodes tell each other meanwhile. */
const SLACK = 1.5

test('of an image that shares layers, updated on 20 % of the nodes at a time, only the new bytes move', async (t) => {
  if (!requires(t, 'namespaces', 'docker-registry')) return
  await withLab('rolling-update', { agents: 5 }, async (lab) => {
    const spec = { kind: 'raw', seed: 'rolling' } as const
    const old = await lab.push('lab/rolling', 'v1', { ...spec, layerBytes: [16 * MiB] })
    const next = await lab.push('lab/rolling', 'v2', { ...spec, layerBytes: [16 * MiB, 4 * MiB] })
    const newBytes = next.totalBytes - 16 * MiB
    await Promise.all(lab.agents.map((agent) => agent.pull(old)))
    const originBefore = await lab.origin.contentBytesSent()
    for (const agent of lab.agents) {
      const received = async (): Promise<number> => (await agent.received('peer')) + (await agent.received('origin'))
      const before = await received()
      const linkBefore = lab.counters().get(agent.name)?.receivedBytes ?? 0
      const pulled = await agent.pull(next)
      assert.equal(pulled.bytes, next.totalBytes)
      assert.equal((await received()) - before, newBytes)
      const overLink = (lab.counters().get(agent.name)?.receivedBytes ?? 0) - linkBefore
      assert.ok(overLink <= SLACK * newBytes, `${overLink} bytes came over the link for ${newBytes} new ones`)
    }
    const fromOrigin = (await lab.origin.contentBytesSent()) - originBefore
    assert.ok(fromOrigin <= 1.02 * newBytes, `the origin sent ${fromOrigin} bytes for ${newBytes} new ones`)
  })
})
