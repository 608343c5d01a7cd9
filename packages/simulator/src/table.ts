// The outcome of a run for people: one table per scenario, with what was aimed at.
import { TARGET_NAMES, idealMs, type Scenario, type TargetName } from './scenario.ts'
import { valueOf, type Outcome } from './outcome.ts'

const MEANING: Record<TargetName, string> = {
  p50: 'half of the nodes, times the ideal',
  p99: '99 % of the nodes',
  'p99.9': '99.9 % of the nodes',
  last: 'the last node',
  egress: 'bytes from the origin, in images',
  border: 'bytes into the busiest zone, in images',
}

/** Targets that a run has missed. */
export function missedTargets(scenario: Scenario, outcome: Outcome): TargetName[] {
  return TARGET_NAMES.filter((name) => {
    const target = scenario.targets?.[name]
    return target !== undefined && !(valueOf(outcome, name) <= target)
  })
}

/** The table of one scenario as Markdown. */
export function outcomeTable(scenario: Scenario, outcome: Outcome, seed: number): string {
  const lines = [
    `## ${scenario.name}`,
    '',
    `${scenario.title}. Seed ${seed}; ideal ${(idealMs(scenario) / 1000).toFixed(1)} s; ` +
      `${outcome.finished} of ${outcome.healthy} nodes have it.`,
    '',
    '| figure | value | at most | |',
    '|---|---|---|---|',
  ]
  for (const name of TARGET_NAMES) {
    const value = valueOf(outcome, name)
    if (Number.isNaN(value)) continue
    const target = scenario.targets?.[name]
    const verdict = target === undefined ? '' : value <= target ? 'reached' : '**missed**'
    lines.push(`| ${name} (${MEANING[name]}) | ${value.toFixed(3)} | ${target?.toFixed(2) ?? ''} | ${verdict} |`)
  }
  lines.push(
    `| requests for each chunk from a peer | ${outcome.requestsPerChunk.toFixed(2)} | | |`,
    `| control messages for each node and second | ${outcome.messagesPerNodeSecond.toFixed(0)} | | |`,
    `| tracker messages a second | ${outcome.trackerMessagesPerSecond.toFixed(0)} | | |`,
    '',
  )
  return lines.join('\n')
}
