// `scripts/simulate`: runs named scenarios, prints a table for each and draws its completion curve.
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { completionCurve } from './chart.ts'
import { simulate } from './cluster.ts'
import { readScenario, ScenarioError } from './scenario.ts'
import { missedTargets, outcomeTable } from './table.ts'

const SCENARIOS = resolve(import.meta.dirname, '../scenarios')
const REPORTS = resolve(import.meta.dirname, '../../../.reports/simulation')
/** What runs when nothing is named: everything that takes less than a minute or two. */
const EXCLUDED_BY_DEFAULT = ['rollout-15000']

const HELP = `Usage: scripts/simulate [SCENARIO...] [--seed N] [--out DIR] [--list]

Runs rollouts in virtual time with the daemon's own decisions. SCENARIO is a name from
packages/simulator/scenarios or a path to a JSON file; without any, all but ${EXCLUDED_BY_DEFAULT.join(', ')}.

  --seed N   seed of all chance; the same seed gives the same figures (default 1)
  --out DIR  where the curves and tables go (default .reports/simulation)
  --list     names the scenarios

Exit code 0 when every target is reached, 1 when one is missed, 2 for wrong usage.
`

/** @returns the exit code */
export async function simulateCommand(args: string[], print: (text: string) => void): Promise<number> {
  try {
    return await run(args, print)
  } catch (error) {
    const usage = error instanceof ScenarioError || (error as { code?: string }).code?.startsWith('ERR_PARSE_ARGS')
    if (usage !== true) throw error
    print(`${(error as Error).message}\n\n${HELP}`)
    return 2
  }
}

async function run(args: string[], print: (text: string) => void): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      seed: { type: 'string', default: '1' },
      out: { type: 'string', default: REPORTS },
      list: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    print(HELP)
    return 0
  }
  const known = (await readdir(SCENARIOS)).filter((file) => file.endsWith('.json')).map((file) => file.slice(0, -5))
  known.sort()
  if (values.list) {
    for (const name of known) print(`${name.padEnd(24)} ${(await readScenario(pathOf(name))).title}\n`)
    return 0
  }
  const seed = Number(values.seed)
  if (!Number.isInteger(seed)) throw new ScenarioError(`--seed must be a whole number, not ${values.seed}`)
  const names = positionals.length > 0 ? positionals : known.filter((name) => !EXCLUDED_BY_DEFAULT.includes(name))
  await mkdir(values.out, { recursive: true })
  let missed = 0
  for (const name of names) {
    const scenario = await readScenario(pathOf(name))
    const startedMs = performance.now()
    const outcome = simulate(scenario, seed)
    const table = outcomeTable(scenario, outcome, seed)
    const tookSeconds = ((performance.now() - startedMs) / 1000).toFixed(1)
    print(`${table}\nSimulated in ${tookSeconds} s.\n\n`)
    await writeFile(join(values.out, `${scenario.name}.svg`), completionCurve(scenario, outcome))
    await writeFile(join(values.out, `${scenario.name}.md`), table)
    missed += missedTargets(scenario, outcome).length
  }
  print(missed === 0 ? 'All targets reached.\n' : `${missed} targets missed.\n`)
  return missed === 0 ? 0 : 1
}

function pathOf(name: string): string {
  return name.endsWith('.json') ? resolve(name) : join(SCENARIOS, `${name}.json`)
}
