import { strict as assert } from 'node:assert'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { completionCurve } from './chart.ts'
import { simulate } from './cluster.ts'
import { readScenario, type Scenario } from './scenario.ts'
import { missedTargets, outcomeTable } from './table.ts'

const SCENARIOS = join(import.meta.dirname, '../scenarios')

function small(given: Partial<Scenario> = {}): Scenario {
  return {
    name: 'small',
    title: 'a few nodes',
    nodes: 12,
    blobsBytes: [32 * 1024 * 1024, 3_000_000],
    nodeBytesPerSecond: 12_500_000,
    originBytesPerSecond: 12_500_000,
    startWindowMs: 300,
    ...given,
  }
}

test('the same scenario and seed give the same run, another seed another one', () => {
  const scenario = small({ dying: { share: 0.1, fromMs: 100, toMs: 2000 }, trackerLostAtMs: 1000 })
  assert.deepEqual(simulate(scenario, 5), simulate(scenario, 5))
  assert.notDeepEqual(simulate(scenario, 5).times, simulate(scenario, 6).times)
  assert.equal(completionCurve(scenario, simulate(scenario, 5)), completionCurve(scenario, simulate(scenario, 5)))
})

test('a lone node takes what its link takes, and nobody beats the ideal', () => {
  const lone = simulate(small({ nodes: 1 }))
  assert.ok(lone.last >= 1 && lone.last < 1.05, `${lone.last}`)
  assert.ok(Math.abs(lone.egress - 1) < 1e-9)
  const many = simulate(small())
  assert.ok(many.times[0]! >= 1)
  assert.equal(many.finished, 12)
})

test('full queues hold up the control messages of a swarm, and cost a lone node next to nothing', () => {
  const queueBytes = 256 * 1024
  const p50 = (given: Partial<Scenario>) => simulate(small(given)).p50
  assert.ok(p50({ nodes: 1, queueBytes }) < p50({ nodes: 1 }) * 1.02)
  assert.ok(p50({ nodes: 16, queueBytes }) > p50({ nodes: 16 }) * 1.01)
  assert.ok(Math.abs(simulate(small({ queueBytes })).egress - 1) < 1e-9)
})

test('under leases every byte leaves the origin once', () => {
  const outcome = simulate(small({ nodes: 30 }))
  assert.equal(outcome.finished, 30)
  assert.ok(Math.abs(outcome.egress - 1) < 1e-9, `${outcome.egress}`)
})

test('whatever happens to the tracker and to some of the nodes, the healthy ones finish', () => {
  for (const trackerLostAtMs of [undefined, 0, 700]) {
    for (const seed of [1, 2, 3]) {
      const scenario = small({
        nodes: 20,
        dying: { share: 0.2, fromMs: 0, toMs: 3000 },
        ...(trackerLostAtMs === undefined ? {} : { trackerLostAtMs }),
      })
      const outcome = simulate(scenario, seed)
      assert.equal(outcome.finished, outcome.healthy, `tracker lost at ${trackerLostAtMs}, seed ${seed}`)
    }
  }
})

test('with a tracker a chunk crosses a border once; without one the zones still finish', () => {
  const zones = { count: 3, borderBytesPerSecond: 12_500_000 }
  const tracked = simulate(small({ nodes: 18, zones }))
  assert.ok(tracked.border <= 1 + 1e-9, `${tracked.border}`)
  assert.ok(Math.abs(tracked.egress - 1) < 1e-9)
  assert.equal(tracked.finished, 18)
  const untracked = simulate(small({ nodes: 18, zones, trackerLostAtMs: 0 }))
  assert.equal(untracked.finished, 18)
})

test('the small scenarios of the repository reach their targets with several seeds', async () => {
  for (const name of ['lab-8', 'lab-16', 'lab-24', 'lab-16-no-tracker', 'lab-16-tracker-lost']) {
    const scenario = await readScenario(join(SCENARIOS, `${name}.json`))
    for (const seed of [1, 2]) {
      const outcome = simulate(scenario, seed)
      assert.deepEqual(missedTargets(scenario, outcome), [], outcomeTable(scenario, outcome, seed))
    }
  }
})

test('every scenario file can be read and is named as its file', async () => {
  for (const file of await readdir(SCENARIOS)) {
    const scenario = await readScenario(join(SCENARIOS, file))
    assert.equal(`${scenario.name}.json`, file)
  }
})
