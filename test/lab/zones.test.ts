// Two zones of real agents: the nodes of a zone share what one of them has brought in.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MiB } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { withLab } from './lab.ts'
import { describeRollout, rollout } from './rollout.ts'

const AGENTS = 8

test('in a rollout to two zones about one copy crosses into each', async (t) => {
  if (!requires(t, 'namespaces', 'docker-registry')) return
  const agentConfig = (index: number) => ({ zone: index % 2 === 0 ? 'east' : 'west' })
  await withLab('zones', { agents: AGENTS, rate: '50mbit', agentConfig }, async (lab) => {
    await rollout(lab, { image: await lab.pushImage({ name: 'earlier', layers: [8 * MiB] }) })
    const crossedBytes = async (): Promise<number> => {
      const each = lab.agents.map((agent) => agent.metric('shoal_chunk_bytes_from_other_zones_total'))
      return (await Promise.all(each)).reduce((sum, bytes) => sum + bytes, 0)
    }
    const before = await crossedBytes()
    const image = await lab.pushImage({ layers: [32 * MiB] })
    const straight = await lab.straightDownload(image)
    const result = await rollout(lab, { image })
    const crossed = ((await crossedBytes()) - before) / result.imageBytes
    const table = `${describeRollout(result, straight.durationMs)}\ncrossed a border: ${crossed.toFixed(2)} images`
    t.diagnostic(`\n${table}`)
    for (const { name, verified } of result.outcomes) assert.ok(verified, name)
    assert.ok(result.originContentBytes <= 1.05 * result.imageBytes, table)
    // Half of the image comes from the origin into each zone, the other half across the border. Who starves on a machine
    // without processor time helps itself; without the rule it would be a share of every node's traffic.
    assert.ok(crossed <= 1.3, table)
  })
})
