// Things break while everybody pulls: the tracker dies, an agent dies and comes back. Everybody else is to finish, with
// every byte right.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { withLab, type Lab, type LabAgent, type LabOptions, type PushedImage } from '../lab/lab.ts'
import { rollout, type RolloutResult } from '../lab/rollout.ts'
import { MiB } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { until } from '../support/until.ts'

const OPTIONS: LabOptions = { agents: 16, rate: '100mbit' }
const LAYER_BYTES = 128 * MiB

function assertAllVerified({ outcomes }: RolloutResult, except: readonly LabAgent[] = []): void {
  for (const { name, verified, error } of outcomes) {
    if (!except.some((agent) => agent.name === name))
      assert.ok(verified, `${name}: ${error?.message ?? 'wrong digest'}`)
  }
}

/** Resolves when that many agents have each got that share of the layer. */
function halfway(
  share: number,
  agents: number,
): { told: (agent: LabAgent, bytes: number) => void; reached: Promise<void> } {
  const there = new Set<string>()
  let resolve = (): void => {}
  const reached = new Promise<void>((done) => (resolve = done))
  return {
    reached,
    told: (agent, bytes) => {
      if (bytes >= share * LAYER_BYTES) there.add(agent.name)
      if (there.size >= agents) resolve()
    },
  }
}

/** A rollout during which something is done once half of the agents have a quarter. */
async function disturbedRollout(lab: Lab, image: PushedImage, disturb: () => Promise<void>): Promise<RolloutResult> {
  const { told, reached } = halfway(0.25, lab.agents.length / 2)
  const running = rollout(lab, { image, onProgress: told })
  const ended = running.then(() => 'ended')
  assert.equal(await Promise.race([ended, reached.then(() => 'reached')]), 'reached', 'the rollout ended too early')
  await disturb()
  return running
}

test('the tracker is killed in the middle of a rollout, and all finish', async (t) => {
  if (!requires(t, 'namespaces', 'docker-registry')) return
  await withLab('tracker killed', OPTIONS, async (lab) => {
    const result = await disturbedRollout(lab, await lab.pushImage({ layers: [LAYER_BYTES] }), async () =>
      lab.tracker?.kill(),
    )
    assert.equal(lab.tracker?.running, false)
    assertAllVerified(result)
    const copies = result.originContentBytes / result.imageBytes
    t.diagnostic(`${copies.toFixed(3)} images left the origin`)
    assert.ok(copies <= 3, `${copies.toFixed(2)} images left the origin after the tracker was gone`)

    // A restarted tracker is right again, because agents tell it anew.
    await lab.tracker?.start()
    const nodes = async (): Promise<number> => {
      const page = await lab.tracker?.probe.get('http://127.0.0.1:7711/api/v1/nodes')
      const list = JSON.parse(page?.text ?? '[]') as unknown[] | { nodes: unknown[] }
      return Array.isArray(list) ? list.length : list.nodes.length
    }
    await until(async () => (await nodes()) >= 16, { what: '16 nodes at the restarted tracker' })
  })
})

test('an agent is killed in the middle of a rollout: others finish, and it resumes with what it had', async (t) => {
  if (!requires(t, 'namespaces', 'docker-registry')) return
  await withLab('agent killed', OPTIONS, async (lab) => {
    const victim = lab.agent(5)
    let had = 0
    const image = await lab.pushImage({ layers: [LAYER_BYTES] })
    const result = await disturbedRollout(lab, image, async () => {
      had = (await victim.received('peer')) + (await victim.received('origin'))
      await victim.kill()
    })
    assertAllVerified(result, [victim])
    assert.equal(result.outcomes.find(({ name }) => name === victim.name)?.verified, false)
    assert.ok(had >= 0.1 * LAYER_BYTES, `the victim had only ${had} bytes when it was killed`)

    await victim.start()
    const again = await rollout(lab, {
      image: { ...(await lab.pushImage({ layers: [LAYER_BYTES] })) },
      agents: [victim],
    })
    assertAllVerified(again)
    const fetched = again.fromPeersBytes + again.fromOriginBytes
    t.diagnostic(`had ${(had / MiB).toFixed(1)} MiB when killed, fetched ${(fetched / MiB).toFixed(1)} MiB after`)
    assert.ok(fetched > 0, 'nothing was left to fetch')
    // In flight when it was killed: a few chunks.
    assert.ok(fetched <= LAYER_BYTES - had + 10 * MiB, `fetched ${fetched} bytes though it had ${had}`)
    assert.ok(again.fromOriginBytes <= MiB, `${again.fromOriginBytes} bytes came from the origin though peers have all`)
  })
})
