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

/** Slow enough that on two cores the links are the limit, not the processor (docs/decisions/0007-what-limits-the-lab.md). */
const RATE = '25mbit'
const LAYER_BYTES = 32 * MiB
const SIZES = [2, 4, 8, 16, 24]
/** Beyond this many nodes the comparisons only get longer: their times grow with the number of nodes. */
const COMPARED_UP_TO = 8
/** Issue: 16 agents within 1.35 of the ideal, 24 within 1.5, and 1.02 images from the origin. */
const LAST_LIMITS = new Map([
  [16, 1.35],
  [24, 1.5],
])
const EGRESS_LIMIT = 1.02
/** How far the simulator may be from the lab, with 16 agents. */
const SIMULATION_TOLERANCE = 0.15

interface Times {
  median: number
  last: number
}

export async function coldRollouts(): Promise<SectionResult> {
  const rows: string[][] = []
  const targets: Target[] = []
  for (const agents of SIZES) {
    const { row, missed } = await withLab(`bench rollout ${agents}`, { agents, rate: RATE }, (lab) =>
      measure(lab, agents),
    )
    rows.push(row)
    targets.push(...missed)
  }
  return {
    title: 'Cold rollouts',
    method:
      `One layer of ${LAYER_BYTES / MiB} MiB, every node and the origin at ${RATE} each way, all asked within a second. ` +
      'Times in straight downloads by one node with nobody else about (its own time in the same lab is 1). ' +
      `“Straight” and “cache” are measured up to ${COMPARED_UP_TO} nodes.`,
    columns: [
      'agents',
      'median',
      'last',
      'simulated median',
      'simulated last',
      'images from the origin',
      'all straight: last',
      'one pull-through cache: last',
    ],
    rows,
    targets,
  }
}

async function measure(lab: Lab, agents: number): Promise<{ row: string[]; missed: Target[] }> {
  // Agents of a running cluster have met; what is cold is the image.
  await rollout(lab, { image: await lab.pushImage({ name: 'earlier', layers: [16 * MiB] }) })
  const image = await lab.pushImage({ layers: [LAYER_BYTES] })
  const straightMs = (await lab.straightDownload(image)).durationMs
  const result = await rollout(lab, { image })
  const failed = result.outcomes.filter(({ verified }) => !verified)
  if (failed.length > 0) throw new Error(`${failed.length} pulls failed: ${failed[0]?.error?.message}`)
  const real = timesOf(result.outcomes.map(({ durationMs }) => durationMs / straightMs))
  const egress = result.originContentBytes / result.imageBytes
  const virtual = simulated(agents)
  const compared = agents <= COMPARED_UP_TO
  const straight = compared ? (await allFrom(lab, image, `http://${lab.origin.host}`)) / straightMs : NaN
  const cached = compared ? (await allFrom(lab, image, await startCache(lab))) / straightMs : NaN
  const figure = (value: number): string => (Number.isNaN(value) ? '' : value.toFixed(2))
  const row = [
    String(agents),
    ...[real.median, real.last, virtual.median, virtual.last].map(figure),
    egress.toFixed(3),
    figure(straight),
    figure(cached),
  ]
  return { row, missed: targetsOf(agents, real, virtual, egress) }
}

function targetsOf(agents: number, real: Times, virtual: Times, egress: number): Target[] {
  const targets: Target[] = [
    { what: `${agents} agents: at most ${EGRESS_LIMIT} images from the origin`, met: egress <= EGRESS_LIMIT },
  ]
  const limit = LAST_LIMITS.get(agents)
  if (limit !== undefined) {
    targets.push({ what: `${agents} agents: the last within ${limit} straight downloads`, met: real.last <= limit })
  }
  if (agents === 16) {
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
function simulated(agents: number): Times {
  const bytesPerSecond = parseRate(RATE) / 8
  const { p50, last } = simulate(
    {
      name: `bench-${agents}`,
      title: `${agents} nodes`,
      nodes: agents,
      blobsBytes: [LAYER_BYTES],
      nodeBytesPerSecond: bytesPerSecond,
      originBytesPerSecond: bytesPerSecond,
      startWindowMs: 1000,
      queueBytes: queueBytes(parseRate(RATE)),
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
async function startCache(lab: Lab): Promise<string> {
  const link = lab.network.add('cache', { rateBits: parseRate(RATE) })
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
