// What scripts/lab runs: builds a lab, rolls one image out to all agents at once, shows how it goes and what it cost.
import { parseArgs } from 'node:util'
import { GiB, KiB, MiB } from '../support/images.ts'
import { missingRequirements } from '../support/requirements.ts'
import { createLab } from './lab.ts'
import { parseRate } from './network.ts'
import type { OriginKind } from './origins.ts'
import { describeRollout, rollout } from './rollout.ts'
import { cleanStaleRuns } from './runs.ts'

const HELP = `scripts/lab [options]

Rolls an image out to a cluster of real processes, each in a network namespace of its own, and measures it. Needs root.

  --agents N        how many agents (16)
  --rate RATE       of every link, each way (100mbit)
  --origin-rate R   of the origin's link, if different
  --delay MS        one way, on every link (0)
  --image SIZES     size of each layer, as 128MiB or 64MiB,64MiB,20KiB (128MiB)
  --within MS       all agents are asked within this time (1000)
  --no-tracker      agents find each other through the DHT alone
  --origin KIND     shoal or docker-registry (docker-registry)
  --keep-logs       keeps logs in .reports/lab-show
  --clean           only removes what crashed labs have left behind`

function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(B|KiB|MiB|GiB)$/.exec(text.trim())
  const unit = { B: 1, KiB, MiB, GiB }[match?.[2] ?? '']
  if (match === null || unit === undefined) throw new RangeError(`not a size such as 128MiB: ${text}`)
  return Math.round(Number(match[1]) * unit)
}

function parseOptions() {
  const { values } = parseArgs({
    options: {
      agents: { type: 'string', default: '16' },
      rate: { type: 'string', default: '100mbit' },
      'origin-rate': { type: 'string' },
      delay: { type: 'string', default: '0' },
      image: { type: 'string', default: '128MiB' },
      within: { type: 'string', default: '1000' },
      'no-tracker': { type: 'boolean', default: false },
      origin: { type: 'string', default: 'docker-registry' },
      'keep-logs': { type: 'boolean', default: false },
      clean: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (!['shoal', 'docker-registry'].includes(values.origin)) throw new RangeError(`no origin named ${values.origin}`)
  const agents = Number(values.agents)
  if (!Number.isInteger(agents) || agents < 1 || agents > 200) throw new RangeError('--agents takes 1 to 200')
  parseRate(values.rate)
  return {
    ...values,
    agents,
    delayMs: Number(values.delay),
    withinMs: Number(values.within),
    layers: values.image.split(',').map(parseSize),
    origin: values.origin as OriginKind,
  }
}

/** Redraws its lines in place on a terminal; elsewhere it says nothing until the end. */
class LiveBars {
  readonly #state = new Map<string, number>()
  readonly #total: number
  #drawn = 0
  #timer: NodeJS.Timeout | undefined

  constructor(names: readonly string[], totalBytes: number) {
    this.#total = totalBytes
    for (const name of names) this.#state.set(name, 0)
    if (process.stdout.isTTY) this.#timer = setInterval(() => this.#draw(), 200)
  }

  set(name: string, bytes: number): void {
    this.#state.set(name, bytes)
  }

  #draw(): void {
    if (this.#drawn > 0) process.stdout.write(`\x1b[${this.#drawn}A`)
    for (const [name, bytes] of this.#state) {
      const share = Math.min(1, bytes / this.#total)
      const bar = '█'.repeat(Math.round(share * 40)).padEnd(40, '·')
      process.stdout.write(`\x1b[2K${name.padEnd(6)}${bar} ${String(Math.round(share * 100)).padStart(3)} %\n`)
    }
    this.#drawn = this.#state.size
  }

  end(): void {
    clearInterval(this.#timer)
    if (process.stdout.isTTY) this.#draw()
  }
}

async function main(): Promise<number> {
  let options: ReturnType<typeof parseOptions>
  try {
    options = parseOptions()
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n${HELP}\n`)
    return 2
  }
  if (options.help) {
    process.stdout.write(`${HELP}\n`)
    return 0
  }
  const needed = ['namespaces', ...(options.origin === 'docker-registry' ? ['docker-registry'] : [])]
  const missing = missingRequirements(needed)
  if (missing.length > 0) {
    process.stderr.write(`missing: ${missing.join(', ')} (scripts/install-test-tools installs what Debian has)\n`)
    return 1
  }
  if (options.clean) {
    const removed = cleanStaleRuns()
    process.stdout.write(removed.length > 0 ? `removed ${removed.join(', ')}\n` : 'nothing was left behind\n')
    return 0
  }
  process.stdout.write(`starting an origin (${options.origin}), ${options['no-tracker'] ? 'no' : 'a'} tracker and `)
  process.stdout.write(`${options.agents} agents at ${options.rate}\n`)
  const lab = await createLab({
    agents: options.agents,
    rate: options.rate,
    ...(options['origin-rate'] === undefined ? {} : { originRate: options['origin-rate'] }),
    delayMs: options.delayMs,
    tracker: !options['no-tracker'],
    originKind: options.origin,
  })
  try {
    // Agents of a running cluster have met and have done this before, so that their code is compiled; what is cold is the
    // image.
    await rollout(lab, { image: await lab.pushImage({ name: 'earlier', layers: options.layers }) })
    const image = await lab.pushImage({ layers: options.layers })
    process.stdout.write('one straight download for comparison\n')
    const straight = await lab.straightDownload(image)
    process.stdout.write(`rollout of ${(image.totalBytes / MiB).toFixed(1)} MiB\n`)
    const bars = new LiveBars(
      lab.agents.map(({ name }) => name),
      image.totalBytes,
    )
    const result = await rollout(lab, {
      image,
      withinMs: options.withinMs,
      onProgress: (agent, bytes) => bars.set(agent.name, bytes),
    }).finally(() => bars.end())
    process.stdout.write(`\n${describeRollout(result, straight.durationMs)}\n`)
    const good = result.outcomes.every(({ verified }) => verified)
    if (!good || options['keep-logs']) process.stdout.write(`logs: ${lab.saveLogs('show')}\n`)
    return good ? 0 : 1
  } finally {
    lab.close()
  }
}

process.exitCode = await main()
