// The report of a chaos run: a page in Markdown, and the closing table that the command prints.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { FAULT_NAMES } from './fault-kinds.ts'
import type { ChaosResult } from './run-chaos.ts'

const FOLDER = resolve(import.meta.dirname, '../../.reports/chaos')

function table(rows: readonly (readonly [string, string | number])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length))
  return rows.map(([name, value]) => `| ${name.padEnd(width)} | ${String(value).padStart(8)} |`).join('\n')
}

export function summary(result: ChaosResult, seed: string): string {
  const injected = [...result.injected.values()].reduce((sum, count) => sum + count, 0)
  const slowest = Math.max(0, ...result.recoveries)
  return table([
    ['seed', seed],
    ['seconds', Math.round(result.tookMs / 1000)],
    ['runs (episodes)', result.episodes],
    ['faults injected', injected],
    ['kinds of faults injected', result.injected.size],
    ['pulls tried', result.pulls.tried],
    ['pulls succeeded', result.pulls.succeeded],
    ['pulls refused within the bound', result.pulls.refused],
    ['pulls right after the faults', result.recoveries.length],
    ['slowest of those, ms', Math.round(slowest)],
    ['daemons started again by the supervisor', result.restarts.length],
    ['violations', result.violations.length],
  ])
}

/** Writes the page; gives back its path. */
export function writeReport(result: ChaosResult, { seed, command }: { seed: string; command: string }): string {
  const kinds = FAULT_NAMES.flatMap((name) => {
    const count = result.injected.get(name)
    const why = result.impossible.get(name)
    if (count === undefined && why === undefined) return []
    return [[name, count ?? `not possible here: ${why}`] as const]
  })
  const list = (lines: readonly string[]): string =>
    lines.length === 0 ? 'None.' : lines.map((line) => `- ${line.replaceAll('\n', '\n  ')}`).join('\n')
  const head = '| | |\n| --- | ---: |\n'
  const page = [
    `# Chaos, seed ${seed}\n\n\`${command}\``,
    `${head}${summary(result, seed)}`,
    `## Faults injected\n\n${head}${table(kinds)}`,
    `## Violations\n\n${list(result.violations)}`,
    `## Daemons that ended by themselves and were started again\n\n${list(result.restarts)}`,
  ].join('\n\n')
  mkdirSync(FOLDER, { recursive: true })
  const path = join(FOLDER, `seed-${seed.replace(/[^a-zA-Z0-9]+/g, '-')}.md`)
  writeFileSync(path, `${page}\n`)
  return path
}
