// A layer from one real agent to another over loopback, without limits, beside the same bytes from nginx to curl: what
// the transfer plane takes of both ends' processors, with everything that an agent does to a chunk.
import { spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fetchAll } from '../support/http.ts'
import { MiB, rawImage, type Image } from '../support/images.ts'
import { metricSum, parseMetrics } from '../support/metrics.ts'
import { cpuSeconds } from '../support/process-cost.ts'
import { pushImage } from '../support/push.ts'
import { layDown, pullByAgent, withDaemons, type AgentEndpoint, type Daemons, type WebServer } from './daemons.ts'
import { median, type SectionResult } from './figures.ts'

const LAYER_BYTES = 512 * MiB
const GIGABYTES = LAYER_BYTES / 1e9
const TARGET = { megabytesPerSecond: 350, receiver: 2.4, sender: 2.2 }

/** One transfer; processor time in seconds per GB. */
interface Cost {
  megabytesPerSecond: number
  sender: number
  receiver: number
}

async function receivedFromPeers({ adminUrl }: AgentEndpoint): Promise<number> {
  const { body } = await fetchAll(`${adminUrl}/metrics`)
  return metricSum(parseMetrics(body.toString()), 'shoal_chunk_bytes_received_total', { source: 'peer' })
}

/** The second agent gets from the first what that has. */
async function betweenAgents(from: AgentEndpoint, to: AgentEndpoint, image: string): Promise<Cost> {
  await pullByAgent(from, image)
  const before = { sender: cpuSeconds(from.pid), receiver: cpuSeconds(to.pid), bytes: await receivedFromPeers(to) }
  const start = performance.now()
  await pullByAgent(to, image)
  const seconds = (performance.now() - start) / 1000
  const bytes = (await receivedFromPeers(to)) - before.bytes
  if (bytes < LAYER_BYTES) throw new Error(`only ${bytes} bytes of ${image} came from the other agent`)
  return {
    megabytesPerSecond: (GIGABYTES * 1000) / seconds,
    sender: (cpuSeconds(from.pid) - before.sender) / GIGABYTES,
    receiver: (cpuSeconds(to.pid) - before.receiver) / GIGABYTES,
  }
}

/** Processor time of a line of shell, in seconds. */
async function shellSeconds(line: string, ...parameters: string[]): Promise<number> {
  const script = `TIMEFORMAT='%U %S'; time (${line})`
  const shell = spawn('bash', ['-o', 'pipefail', '-c', script, 'bash', ...parameters], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const [said, [code]] = await Promise.all([text(shell.stderr), once(shell, 'exit') as Promise<[number | null]>])
  if (code !== 0) throw new Error(`${line} (${parameters.join(', ')}) ended with ${code}: ${said}`)
  const [user = NaN, system = NaN] = said.trim().split(' ').map(Number)
  return user + system
}

/** curl's bytes go to a file and through SHA-256, as an agent's do. */
async function fromWebServer(server: WebServer, url: string, folder: string): Promise<Cost> {
  const before = server.cpuSeconds()
  const start = performance.now()
  const seconds = await shellSeconds('curl -sfk "$1" | tee "$2" | sha256sum >/dev/null', url, join(folder, 'copy'))
  return {
    megabytesPerSecond: (GIGABYTES * 1e6) / (performance.now() - start),
    sender: (server.cpuSeconds() - before) / GIGABYTES,
    receiver: seconds / GIGABYTES,
  }
}

/** What a receiver cannot do without, in CPU seconds per GB: TLS, a new file, SHA-256 of each chunk and of the whole. */
async function floorOf(tlsUrl: string, folder: string): Promise<number> {
  const tls = await shellSeconds('curl -sfk "$1" >/dev/null', tlsUrl)
  const path = join(folder, 'floor')
  const piece = randomBytes(4 * MiB)
  const whole = createHash('sha256')
  const before = process.cpuUsage()
  const file = openSync(path, 'w')
  for (let written = 0; written < LAYER_BYTES; written += piece.length) {
    createHash('sha256').update(piece).digest()
    whole.update(piece)
    writeSync(file, piece)
  }
  closeSync(file)
  const { user, system } = process.cpuUsage(before)
  rmSync(path)
  return (tls + (user + system) / 1e6) / GIGABYTES
}

async function measure(daemons: Daemons, rounds: number): Promise<{ costs: Map<string, Cost[]>; floor: number }> {
  const registry = await daemons.dockerRegistry()
  const tracker = await daemons.tracker()
  const config = { registries: { [registry.host]: { plainHttp: true } }, trackers: [tracker.host] }
  const from = await daemons.agent('sender', config)
  const to = await daemons.agent('receiver', config)
  const costs = new Map<string, Cost[]>()
  const note = (way: string, cost: Cost): void => void costs.set(way, [...(costs.get(way) ?? []), cost])
  let image: Image | undefined
  // One round before those that count: compilers and connections get warm.
  for (let round = 0; round <= rounds; round++) {
    image = rawImage(`between/${round}`, [LAYER_BYTES])
    await pushImage(registry.url, 'bench/between', `v${round}`, image)
    const cost = await betweenAgents(from, to, `${registry.host}/bench/between:v${round}`)
    if (round > 0) note('agent to agent', cost)
  }
  const layer = image?.blobs.at(-1)
  if (layer === undefined) throw new RangeError('at least one round is needed')
  const folder = join(daemons.folder, 'pages')
  const file = 'layer'
  layDown(folder, file, layer.bytes())
  const server = await daemons.webServer(folder)
  const floors: number[] = []
  for (let round = 0; round <= rounds; round++) {
    floors.push(await floorOf(`${server.tlsUrl}/${file}`, daemons.folder))
    for (const [way, base] of [
      ['nginx to curl, TLS 1.3', server.tlsUrl],
      ['nginx to curl, plain TCP', server.url],
    ] as const) {
      const cost = await fromWebServer(server, `${base}/${file}`, daemons.folder)
      if (round > 0) note(way, cost)
    }
  }
  return { costs, floor: median(floors.slice(1)) }
}

export async function betweenTwoAgents(rounds: number): Promise<SectionResult> {
  const { costs, floor } = await withDaemons((daemons) => measure(daemons, rounds))
  const middle = (way: string, key: keyof Cost): number => median((costs.get(way) ?? []).map((cost) => cost[key]))
  const ours = (key: keyof Cost): number => middle('agent to agent', key)
  return {
    title: 'Between two agents',
    method:
      `A layer of ${LAYER_BYTES / MiB} MiB, another one each round, ${rounds} rounds, medians. The agents are whole ` +
      'daemons, the receiver pulls by itself (`shoal pull`): chunks checked, written, the whole checked again. curl ' +
      'writes to a file and pipes through sha256sum. The floor is what a receiver cannot do without on this machine: TLS ' +
      '(curl to nowhere), SHA-256 twice (Node), a new file. What a new file costs is decided by the machine: where memory ' +
      'that was free for a while is given back to a host, its first touch is the largest part.',
    columns: ['', 'MB/s', 'sender CPU s/GB', 'receiver CPU s/GB'],
    rows: [
      ...[...costs.keys()].map((way) => [
        way,
        middle(way, 'megabytesPerSecond').toFixed(0),
        middle(way, 'sender').toFixed(2),
        middle(way, 'receiver').toFixed(2),
      ]),
      ['floor of a receiver', '', '', floor.toFixed(2)],
      ['agent to agent, times the floor', '', '', (ours('receiver') / floor).toFixed(2)],
    ],
    targets: [
      {
        what: `at least ${TARGET.megabytesPerSecond} MB/s`,
        met: ours('megabytesPerSecond') >= TARGET.megabytesPerSecond,
      },
      { what: `receiver at most ${TARGET.receiver} CPU s/GB`, met: ours('receiver') <= TARGET.receiver },
      { what: `sender at most ${TARGET.sender} CPU s/GB`, met: ours('sender') <= TARGET.sender },
    ],
  }
}
