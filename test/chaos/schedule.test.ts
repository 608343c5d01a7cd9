// The seed decides all: the same one gives the same schedule, every fault comes in its turn.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FAULT_KINDS, FAULT_NAMES, parseFaultNames } from './fault-kinds.ts'
import { fullRound, schedule, type Episode, type ScheduleOptions } from './schedule.ts'

function first(count: number, options: ScheduleOptions): Episode[] {
  const episodes: Episode[] = []
  for (const episode of schedule(options)) if (episodes.push(episode) === count) break
  return episodes
}

test('the same seed gives the same schedule, another seed another one', () => {
  const options = { seed: 'one', agents: 4 }
  assert.deepEqual(first(30, options), first(30, options))
  assert.notDeepEqual(first(30, options), first(30, { ...options, seed: 'two' }))
})

test('each fault comes once before any comes again, and no agent is befallen twice at a time', () => {
  for (const seed of ['a', 'b', 'c', 'd']) {
    const episodes = fullRound({ seed, agents: 3, together: 5, brief: true })
    const names = episodes.flatMap(({ faults }) => faults.map(({ name }) => name))
    assert.deepEqual(names.slice(0, FAULT_NAMES.length).sort(), [...FAULT_NAMES].sort())
    for (const { faults } of episodes) {
      const victims = faults.filter(({ name }) => FAULT_KINDS[name].on === 'agent').map(({ agent }) => agent)
      assert.equal(new Set(victims).size, victims.length)
    }
  }
})

test('what only shows when it lasts goes on for 5 to 60 seconds in a long run', () => {
  const stops = first(400, { seed: 'stops', agents: 4, faults: ['agent-stopped'] }).flatMap(({ faults }) => faults)
  const durations = stops.map(({ durationMs }) => durationMs)
  assert.ok(Math.min(...durations) >= 5000 && Math.min(...durations) < 6000)
  assert.ok(Math.max(...durations) <= 60_000 && Math.max(...durations) > 45_000)
})

test('faults are named as they are', () => {
  assert.deepEqual(parseFaultNames('origin-401,agent-killed'), ['origin-401', 'agent-killed'])
  assert.throws(() => parseFaultNames('agent-killed,toString'), /no fault named toString: agent-killed/)
})
