// Cold rollouts of real agents in network namespaces, beside what people do without Shoal: everybody pulls straight from
// the registry, or through one pull-through cache. And beside the simulator, which has to agree with what is real.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { simulate } from '@shoal/simulator'
import { withLab, type Lab, type PushedImage } from '../lab/lab.ts'
import { parseRate, queueBytes } from '../lab/network.ts'
import { LabNode } from '../lab/node.ts'
import { rollout } from '../lab/rollout.ts'
import { MiB } from '../support/images.ts'
import { findProgram } from '../support/requirements.ts'
import { percentile, type SectionResult, type Target } from './figures.ts'

interface Scenario {
  agents: number
  /** Of every link, each way. */
  rate: string
  layerBytes: number
  /** Within so many straight downloads the last agent is to be done. @default none */
  lastLimit?: number
}

/** Slow enough that on two cores the links are the limit, not the processor (docs/decisions/0007-what-limits-the-lab.md). */
const SLOW = { rate: '25mbit', layerBytes: 32 * MiB }
/** The rate of the issue. On two cores the processor is the limit. */
const FAST = { rate: '100mbit', layerBytes: 128 * MiB }
/** Issue: 16 agents at 100 Mbit/s within 1.35 of the ideal, 24 within 1.5, and 1.02 images from the origin. */
const SCENARIOS: Scenario[] = [
  { agents: 2, ...SLOW },
  { agents: 4, ...SLOW },
  { agents: 8, ...SLOW },
  { agents: 16, ...SLOW, lastLimit: 1.35 },
  { agents: 24, ...SLOW, lastLimit: 1.5 },
  { agents: 16, ...FAST, lastLimit: 1.35 },
]
/** Beyond this many nodes the comparisons only get longer: their times grow with the number of nodes. */
const COMPARED_UP_TO = 8
const EGRESS_LIMIT = 1.02
/** How far the simulator, which knows no processors, may be from the lab, with 16 agents that do not use all of them. */
const SIMULATION_TOLERANCE = 0.15
const SIMULATED_AGENTS = 16

interface Times {
  median: number
  last: number
}

export async function coldRollouts(): Promise<SectionResult> {
  const rows: string[][] = []
  const targets: Target[] = []
  for (const scenario of SCENARIOS) {
    const { agents, rate } = scenario
    const measured = await withLab(`bench rollout ${agents} ${rate}`, { agents, rate }, (lab) => measure(lab, scenario))
    rows.push(measured.row)
    targets.push(...measured.targets)
  }
  return {
    title: 'Cold rollouts',
    method:
      `One layer of ${SLOW.layerBytes / MiB} MiB at ${SLOW.rate}, of ${FAST.layerBytes / MiB} MiB at ${FAST.rate}, every node and the origin at that rate each way, all asked ` +
      'within a second; before, they roll out another image of the same size. Times in straight downloads by one node with nobody else about (its own time in the same lab is 1). ' +
      `“Straight” and “cache” are measured up to ${COMPARED_UP_TO} nodes.`,
    columns: [
      'agents',
      'rate',
      'median',
      'last',
      'simulated median',
      'simulated last',
      'images from the origin',
      'all straight: last',
      'one pull-through cache: last',
      'processors idle',
    ],
    rows,
    targets,
  }
}

async function measure(lab: Lab, scenario: Scenario): Promise<{ row: string[]; targets: Target[] }> {
  const { agents, rate, layerBytes } = scenario
  // Agents of a running cluster have met, and their code is compiled; what is cold is the image.
  await rollout(lab, { image: await lab.pushImage({ name: 'earlier', layers: [layerBytes] }) })
  const image = await lab.pushImage({ layers: [layerBytes] })
  const straightMs = (await lab.straightDownload(image)).durationMs
  const result = await rollout(lab, { image })
  const failed = result.outcomes.filter(({ verified }) => !verified)
  if (failed.length > 0) throw new Error(`${failed.length} pulls failed: ${failed[0]?.error?.message}`)
  const real = timesOf(result.outcomes.map(({ durationMs }) => durationMs / straightMs))
  const egress = result.originContentBytes / result.imageBytes
  const virtual = simulated(scenario)
  const compared = agents <= COMPARED_UP_TO
  const straight = compared ? (await allFrom(lab, image, `http://${lab.origin.host}`)) / straightMs : NaN
  const cached = compared ? (await allFrom(lab, image, await startCache(lab, rate))) / straightMs : NaN
  const figure = (value: number): string => (Number.isNaN(value) ? '' : value.toFixed(2))
  const row = [
    String(agents),
    rate,
    ...[real.median, real.last, virtual.median, virtual.last].map(figure),
    egress.toFixed(3),
    figure(straight),
    figure(cached),
    `${(result.idleShare * 100).toFixed(0)} %`,
  ]
  return { row, targets: targetsOf(scenario, real, virtual, egress) }
}

function targetsOf({ agents, rate, lastLimit }: Scenario, real: Times, virtual: Times, egress: number): Target[] {
  const who = `${agents} agents at ${rate}`
  const targets: Target[] = [
    { what: `${who}: at most ${EGRESS_LIMIT} images from the origin`, met: egress <= EGRESS_LIMIT },
  ]
  if (lastLimit !== undefined)
    targets.push({ what: `${who}: the last within ${lastLimit} straight downloads`, met: real.last <= lastLimit })
  if (agents === SIMULATED_AGENTS && rate === SLOW.rate) {
    const apart = Math.max(Math.abs(virtual.median / real.median - 1), Math.abs(virtual.last / real.last - 1))
    targets.push({
      what: `lab and simulator at most ${SIMULATION_TOLERANCE * 100} % apart (${(apart * 100).toFixed(0)} %)`,
      met: apart <= SIMULATION_TOLERANCE,
    })
  }
  return targets
}

function timesOf(ratios: readonly number[]): Times {
  return { median: percentile(ratios, 0.5), last: Math.max(...ratios) }
}

/** The same rollout in virtual time. */
function simulated({ agents, rate, layerBytes }: Scenario): Times {
  const bytesPerSecond = parseRate(rate) / 8
  const { p50, last } = simulate(
    {
      name: `bench-${agents}`,
      title: `${agents} nodes`,
      nodes: agents,
      blobsBytes: [layerBytes],
      nodeBytesPerSecond: bytesPerSecond,
      originBytesPerSecond: bytesPerSecond,
      startWindowMs: 1000,
      queueBytes: queueBytes(parseRate(rate)),
    },
    1,
  )
  return { median: p50, last }
}

/** Everybody pulls from one place at once; the time of the last in milliseconds. */
async function allFrom(lab: Lab, image: PushedImage, endpoint: string): Promise<number> {
  const pulls = lab.agents.map((agent) =>
    agent.probe.pull({ endpoint, repository: image.repository, reference: image.tag }),
  )
  return Math.max(...(await Promise.all(pulls)).map(({ durationMs }) => durationMs))
}

/** Debian's registry as a pull-through cache on a node of its own; gives back its URL. */
async function startCache(lab: Lab, rate: string): Promise<string> {
  const link = lab.network.add('cache', { rateBits: parseRate(rate) })
  const folder = lab.run.directory('cache')
  const config = join(folder, 'cache.yml')
  const lines = [
    'version: 0.1',
    `storage: {filesystem: {rootdirectory: ${join(folder, 'data')}}}`,
    'http: {addr: "0.0.0.0:5000"}',
    `proxy: {remoteurl: "http://${lab.origin.host}"}`,
    'log: {level: error, accesslog: {disabled: true}}',
  ]
  writeFileSync(config, `${lines.join('\n')}\n`)
  const program = findProgram('docker-registry') ?? 'docker-registry'
  const cache = new LabNode({
    link,
    folder,
    command: [program, 'serve', config],
    readyUrl: 'http://127.0.0.1:5000/v2/',
  })
  lab.run.atEnd(() => cache.close())
  await cache.start()
  return `http://${link.address}:5000`
}
