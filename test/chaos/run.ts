// What scripts/chaos runs: a chaos run of a given length, told live, with a report at the end.
import { parseArgs } from 'node:util'
import { missingRequirements } from '../support/requirements.ts'
import { FAULT_NAMES, parseFaultNames } from './fault-kinds.ts'
import { summary, writeReport } from './report.ts'
import { CHAOS_REQUIREMENTS, runChaos } from './run-chaos.ts'
import { schedule } from './schedule.ts'

const HELP = `scripts/chaos [options]

Injects faults into a cluster of real processes while every node pulls, and checks after each episode that nothing was
lost, nothing wrong was served, nothing hung, nothing leaked, and that all is well again by itself. Needs root.

  --seconds N       no episode begins later (600)
  --seed S          the same seed gives the same schedule (the time of day)
  --faults A,B      only these faults (all)
  --agents K        how many agents (4)
  --together N      faults that overlap in one episode (4)
  --first N         begins with this episode of the schedule (0)
  --brief           faults of 2 to 5 seconds, as in the tests
  --list            names the faults

The report is written to .reports/chaos. Exit code 1 when anything was violated.`

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '600' },
      seed: { type: 'string' },
      faults: { type: 'string' },
      agents: { type: 'string', default: '4' },
      together: { type: 'string', default: '4' },
      first: { type: 'string', default: '0' },
      brief: { type: 'boolean', default: false },
      list: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  const say = (line: string): void => void process.stdout.write(`${line}\n`)
  if (values.help || values.list) {
    say(values.list ? FAULT_NAMES.join('\n') : HELP)
    return 0
  }
  const [seconds, agents, together] = [values.seconds, values.agents, values.together].map(Number)
  if (
    seconds === undefined ||
    agents === undefined ||
    together === undefined ||
    !(seconds > 0 && agents >= 2 && together >= 1)
  ) {
    throw new RangeError('--seconds and --together take numbers from 1, --agents from 2')
  }
  const faults = values.faults === undefined ? FAULT_NAMES : parseFaultNames(values.faults)
  const missing = missingRequirements(CHAOS_REQUIREMENTS)
  if (missing.length > 0) throw new Error(`missing: ${missing.join(', ')}; see scripts/install-test-tools`)
  const seed = values.seed ?? String(Date.now())
  const { brief } = values
  const episodes = schedule({ seed, agents, faults, together, brief })
  for (let skipped = 0; skipped < Number(values.first); skipped++) episodes.next()
  const result = await runChaos({
    agents,
    episodes,
    forMs: seconds * 1000,
    tell: say,
  })
  const only = values.faults === undefined ? '' : ` --faults ${values.faults}`
  const command = `scripts/chaos --seconds ${seconds} --seed ${seed} --agents ${agents} --together ${together}${only}${brief ? ' --brief' : ''}`
  const path = writeReport(result, { seed, command })
  say(`\n${summary(result, seed)}\n\n${path}`)
  return result.violations.length > 0 ? 1 : 0
}

try {
  process.exitCode = await main()
} catch (error) {
  process.stderr.write(`${error instanceof RangeError ? error.message : String((error as Error).stack)}\n`)
  process.exitCode = error instanceof RangeError ? 2 : 1
}
