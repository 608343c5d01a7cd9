// An agent answers with flipped bits, in the middle of a cold rollout and as a node that has everything: it is found
// out, counted and left, and everybody else ends with right digests.
import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { withLab, type LabAgent } from '../lab/lab.ts'
import { rollout } from '../lab/rollout.ts'
import { MiB } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { lying } from './lies.ts'

const LIAR = 2

async function rejectedBy(agents: readonly LabAgent[]): Promise<number> {
  const each = await Promise.all(agents.map((agent) => agent.metric('shoal_chunks_rejected_total', { reason: 'hash' })))
  return each.reduce((sum, count) => sum + count, 0)
}

async function withLiar(
  t: TestContext,
  name: string,
  work: (parts: {
    honest: LabAgent[]
    liar: LabAgent
    lab: Parameters<Parameters<typeof withLab>[2]>[0]
  }) => Promise<void>,
): Promise<void> {
  if (!requires(t, 'namespaces', 'docker-registry')) return
  const agentPreload = (index: number) => (index === LIAR ? lying('flips') : undefined)
  await withLab(name, { agents: 8, rate: '100mbit', agentPreload }, async (lab) => {
    const honest = lab.agents.filter(({ index }) => index !== LIAR)
    await work({ lab, honest, liar: lab.agent(LIAR) })
  })
}

test('a liar in a cold rollout is found out, counted and left; all others finish', async (t) => {
  await withLiar(t, 'liar cold', async ({ lab, honest, liar }) => {
    const image = await lab.pushImage({ layers: [64 * MiB] })
    const result = await rollout(lab, { image })
    for (const { name, verified, error } of result.outcomes) {
      // The liar itself is told the truth, and may or may not be served to the end.
      if (name !== liar.name) assert.ok(verified, `${name}: ${error?.message ?? 'wrong digest'}`)
    }
    const rejected = await rejectedBy(honest)
    const copies = result.originContentBytes / result.imageBytes
    t.diagnostic(`${rejected} chunks rejected, ${copies.toFixed(3)} images left the origin`)
    assert.ok(rejected > 0, 'nobody has counted a rejected chunk')
    assert.ok(copies <= 2.1, `${copies.toFixed(2)} images left the origin`)
  })
})

test('a liar that has everything is asked a few times and no more', async (t) => {
  await withLiar(t, 'liar seed', async ({ lab, honest, liar }) => {
    const first = await lab.pushImage({ name: 'first', layers: [32 * MiB] })
    const second = await lab.pushImage({ name: 'second', layers: [32 * MiB] })
    await liar.pull(first)
    await liar.pull(second)
    const result = await rollout(lab, { image: first, agents: honest })
    for (const { name, verified, error } of result.outcomes) assert.ok(verified, `${name}: ${error?.message}`)
    const rejected = await rejectedBy(honest)
    assert.ok(rejected > 0, 'nobody has counted a rejected chunk')
    // Every node finds out for itself; what is under way at that moment is wrong, too.
    assert.ok(rejected <= 16 * honest.length, `${rejected} chunks were rejected before the liar was left`)

    // Those who have found out do not ask it again for something else.
    const again = await rollout(lab, { image: second, agents: honest })
    for (const { name, verified, error } of again.outcomes) assert.ok(verified, `${name}: ${error?.message}`)
    const more = (await rejectedBy(honest)) - rejected
    t.diagnostic(`${rejected} chunks rejected, then ${more}`)
    assert.ok(more <= rejected, `${more} more chunks were rejected, after ${rejected}`)
  })
})
