// Measures Shoal beside what it is compared with, always both in one run, and writes what came out as Markdown.
import { mkdirSync, writeFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { betweenTwoAgents } from './between-agents.ts'
import { dht } from './dht.ts'
import { renderSection, type SectionResult } from './figures.ts'
import { idle } from './idle.ts'
import { liars } from './liars.ts'
import { lone } from './lone.ts'
import { lookaheadGain } from './lookahead.ts'
import { mirror } from './mirror.ts'
import { peakMemory } from './peak-memory.ts'
import { registry, registryMemory } from './registry.ts'
import { rollingUpdate } from './rolling.ts'
import { coldRollouts } from './rollout.ts'
import { trackerMemory } from './tracker-memory.ts'
import { tracker } from './tracker.ts'
import { transfer } from './transfer.ts'

const USAGE = `usage: scripts/bench [--rounds N] [--nodes N] [--gib N] [--out FILE] [--require] [SECTION…]

sections (all of them if none is named):
  transfer  cost of a byte on the transfer plane and on a libp2p stream
  agents    a layer from one agent to another over loopback, beside nginx and curl
  lone      a cold pull through a lone agent beside the same pull straight from the origin
  lookahead  layers fetched before they are asked for, beside an agent that waits
  mirror    a stored layer and manifest from an agent beside nginx and docker-registry
  idle      memory and CPU of an idle agent and tracker
  memory    peak memory of an agent while a large blob passes through
  rollout   cold rollouts of 2 to 24 agents beside straight pulls, a pull-through cache, and the simulator
  rolling   an image that shares a layer with what all have, given to a fifth of the agents at a time
  liars     what one agent of eight that lies costs a cold rollout, for each kind of lie
  liars-wide  the same with an origin that has four times a node's rate
  tracker   messages of 1000 to 15 000 nodes against one tracker
  tracker-memory  what a tracker takes for what 15 000 nodes have in their stores
  dht       announcing and finding among 10, 30 and 60 processes
  registry  a layer of 1 GB pushed to Shoal's registry and pulled, beside docker-registry
  registry-memory  peak memory of the registry while a large layer goes in and out, with a folder and a bucket

  --rounds N   rounds of transfer (7), lone (7), lookahead (7), agents (5), mirror (3), registry (3)
               and liars (1)
  --nodes N    agents of idle (10)
  --out FILE   the report goes there, too
  --gib N      size of the blob of memory and registry-memory (8)
  --require    exit code 1 when a target is missed
`

const REPORTS = resolve(import.meta.dirname, '../../.reports/bench')

interface Options {
  rounds: number | undefined
  nodes: number
  gib: number
}

const SECTIONS: Record<string, (options: Options) => Promise<SectionResult>> = {
  transfer: ({ rounds = 7 }) => transfer(rounds),
  agents: ({ rounds = 5 }) => betweenTwoAgents(rounds),
  lone: ({ rounds = 7 }) => lone(rounds),
  lookahead: ({ rounds = 7 }) => lookaheadGain(rounds),
  mirror: ({ rounds = 3 }) => mirror(rounds),
  idle: ({ nodes }) => idle(nodes),
  memory: ({ gib }) => peakMemory(gib),
  rollout: () => coldRollouts(),
  rolling: () => rollingUpdate(),
  liars: ({ rounds = 1 }) => liars(rounds, 'narrow'),
  'liars-wide': ({ rounds = 1 }) => liars(rounds, 'wide'),
  tracker: () => tracker(),
  'tracker-memory': () => trackerMemory(),
  dht: () => dht(),
  registry: ({ rounds = 3 }) => registry(rounds),
  'registry-memory': ({ gib }) => registryMemory(gib),
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      rounds: { type: 'string' },
      nodes: { type: 'string', default: '10' },
      gib: { type: 'string', default: '8' },
      out: { type: 'string' },
      require: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  const unknown = positionals.filter((name) => !(name in SECTIONS))
  const numbers = [values.rounds ?? '1', values.nodes, values.gib].map(Number)
  if (values.help || unknown.length > 0 || !numbers.every((number) => number > 0)) {
    process.stderr.write(unknown.length > 0 ? `no section ${unknown.join(', ')}\n\n${USAGE}` : USAGE)
    return values.help ? 0 : 2
  }
  const options: Options = {
    rounds: values.rounds === undefined ? undefined : Number(values.rounds),
    nodes: Number(values.nodes),
    gib: Number(values.gib),
  }
  const [processor] = cpus()
  const machine = `${cpus().length} × ${processor?.model ?? 'unknown'}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB`
  const date = new Date().toISOString()
  const head = `# Bench\n\n${date.slice(0, 16)} UTC, ${machine}, Linux ${release()}, Node ${process.version}\n\n    scripts/bench ${process.argv.slice(2).join(' ')}\n`
  process.stdout.write(`${head}\n`)
  const parts = [head]
  let failed = false
  for (const name of positionals.length > 0 ? positionals : Object.keys(SECTIONS)) {
    try {
      const result = await (SECTIONS[name] as (typeof SECTIONS)[string])(options)
      failed ||= values.require && result.targets.some(({ met }) => !met)
      parts.push(renderSection(result))
    } catch (error) {
      // One section that cannot run (a program is missing, say) must not cost the others.
      failed = true
      parts.push(`## ${name}\n\nDid not run: ${(error as Error).message}\n`)
    }
    process.stdout.write(`${parts.at(-1)}\n`)
  }
  mkdirSync(REPORTS, { recursive: true })
  const file = join(REPORTS, `${date.slice(0, 19).replace(/:/g, '')}.md`)
  const report = parts.join('\n')
  writeFileSync(file, report)
  if (values.out !== undefined) writeFileSync(values.out, report)
  process.stdout.write(`report: ${file}\n`)
  return failed ? 1 : 0
}

try {
  process.exitCode = await main()
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n\n${USAGE}`)
  process.exitCode = 2
}
