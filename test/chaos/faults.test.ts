// The short form of scripts/chaos: every fault once, several at a time, while every node pulls. What must hold afterwards
// is in invariants.ts and pulls.ts.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { requires } from '../support/requirements.ts'
import { FAULT_NAMES } from './fault-kinds.ts'
import { summary } from './report.ts'
import { CHAOS_REQUIREMENTS, RECOVERY_LIMIT_MS, runChaos } from './run-chaos.ts'
import { fullRound } from './schedule.ts'

const SEED = 'short form'
const AGENTS = 4

test('every fault once: no wrong byte, no hung pull, nothing lost or leaked, well again by itself', async (t) => {
  if (!requires(t, ...CHAOS_REQUIREMENTS)) return
  const episodes = fullRound({ seed: SEED, agents: AGENTS, together: 7, brief: true })
  const result = await runChaos({ agents: AGENTS, episodes, tell: (line) => t.diagnostic(line) })
  t.diagnostic(`\n${summary(result, SEED)}`)
  for (const [name, why] of result.impossible) t.diagnostic(`${name}: not possible here: ${why}`)
  assert.deepEqual(result.violations, [])
  const done = new Set([...result.injected.keys(), ...result.impossible.keys()])
  assert.deepEqual([...done].sort(), [...FAULT_NAMES].sort())
  assert.equal(result.recoveries.length, episodes.length * AGENTS)
  assert.ok(Math.max(...result.recoveries) <= RECOVERY_LIMIT_MS)
  // The faults leave room for work: pulls do succeed while they last.
  assert.ok(result.pulls.succeeded > result.recoveries.length, 'no pull succeeded while there were faults')
})
