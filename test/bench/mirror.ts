// Serving what is stored: an agent's mirror endpoint beside Debian's docker-registry and nginx, the same bytes, the same client.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { Agent } from 'node:http'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { open } from '../support/http.ts'
import { MiB, OCI, rawImage } from '../support/images.ts'
import { pushImage } from '../support/push.ts'
import { layDown, pullByAgent, withDaemons, type Daemons } from './daemons.ts'
import { median, percentile, type SectionResult, type Target } from './figures.ts'
import { cpuSeconds } from '../support/process-cost.ts'

const LAYER_BYTES = 512 * MiB
const REQUESTS_PER_SECOND = 500
const REQUEST_SECONDS = 10
/** What is told of times: half of them, and 99 of 100, are at most this. */
const SHARES = [0.5, 0.99]
/** Asked before those that count: connections and compiled code are not what is measured. */
const WARM_UP_SECONDS = 2

/** Requests for the first byte of a layer, one after another. */
const READS = 200
const WARM_UP_READS = 50

/** Who serves, and under which URLs. */
interface Server {
  name: string
  layer: string
  manifest: string
  /** Of all its processes so far. */
  cpuSeconds: () => number
}

interface Served {
  megabytesPerSecond: number
  cpuSecondsPerGigabyte: number
}

/** As many clients at once read the whole URL. */
async function download(server: Server, clients: number): Promise<Served> {
  const url = server.layer
  const cpu = server.cpuSeconds()
  const start = performance.now()
  const runs = Array.from({ length: clients }, async () => {
    const curl = spawn('curl', ['-sf', '-o', '/dev/null', url], { stdio: 'ignore' })
    const [code] = (await once(curl, 'exit')) as [number | null]
    if (code !== 0) throw new Error(`curl ${url} ended with ${code}`)
  })
  await Promise.all(runs)
  const seconds = (performance.now() - start) / 1000
  const gigabytes = (LAYER_BYTES * clients) / 1e9
  return {
    megabytesPerSecond: (gigabytes * 1000) / seconds,
    cpuSecondsPerGigabyte: (server.cpuSeconds() - cpu) / gigabytes,
  }
}

/** Times to the first byte, in milliseconds, of requests that begin at a fixed rate whatever the answers do. */
async function firstBytes(url: string): Promise<number[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: 64 })
  const times: number[] = []
  const ask = async (dueMs: number, counts: boolean): Promise<void> => {
    const answer = await open(url, { agent, headers: { accept: OCI.manifest } })
    // Counted from when it should have been sent: a queue on this side is the server's doing as well.
    if (counts) times.push(performance.now() - dueMs)
    answer.resume()
    await once(answer, 'end')
    if (answer.statusCode !== 200) throw new Error(`${url}: ${answer.statusCode}`)
  }
  const start = performance.now()
  const asked: Promise<void>[] = []
  const warmUp = REQUESTS_PER_SECOND * WARM_UP_SECONDS
  const count = warmUp + REQUESTS_PER_SECOND * REQUEST_SECONDS
  while (asked.length < count) {
    const due = start + (asked.length * 1000) / REQUESTS_PER_SECOND
    if (performance.now() < due) await pause(Math.max(1, due - performance.now()))
    else asked.push(ask(due, asked.length >= warmUp))
  }
  await Promise.all(asked)
  agent.destroy()
  return times
}

/** Times to the first byte of answers that are asked for one after another and not read to the end, in milliseconds. */
async function firstBytesOneByOne(url: string): Promise<number[]> {
  const times: number[] = []
  for (let count = 0; count < WARM_UP_READS + READS; count++) {
    const start = performance.now()
    const answer = await open(url)
    await once(answer, 'readable')
    if (count >= WARM_UP_READS) times.push(performance.now() - start)
    answer.destroy()
    if (answer.statusCode !== 200) throw new Error(`${url}: ${answer.statusCode}`)
  }
  return times
}

/** All three with the image in store, the agent first: it has pulled it, nginx has its files in a folder. */
async function startServers(daemons: Daemons): Promise<Server[]> {
  const image = rawImage('mirror', [LAYER_BYTES])
  const layer = image.blobs.at(-1)
  if (layer === undefined) throw new RangeError('an image without layers')
  const registry = await daemons.dockerRegistry()
  const agent = await daemons.agent('agent', { registries: { [registry.host]: { plainHttp: true } } })
  await pushImage(registry.url, 'bench/mirror', 'v1', image)
  await pullByAgent(agent, `${registry.host}/bench/mirror:v1`)
  const pages = join(daemons.folder, 'pages')
  layDown(pages, 'layer', layer.bytes())
  layDown(pages, 'manifest', [image.manifest])
  const nginx = await daemons.webServer(pages)
  const urls = (base: string, query = '') => ({
    layer: `${base}/blobs/${layer.digest}${query}`,
    manifest: `${base}/manifests/${image.digest}${query}`,
  })
  return [
    {
      name: 'agent',
      ...urls(`${agent.url}/v2/bench/mirror`, `?ns=${registry.host}`),
      cpuSeconds: () => cpuSeconds(agent.pid),
    },
    {
      name: 'nginx',
      layer: `${nginx.url}/layer`,
      manifest: `${nginx.url}/manifest`,
      cpuSeconds: () => nginx.cpuSeconds(),
    },
    {
      name: 'docker-registry',
      ...urls(`${registry.url}/v2/bench/mirror`),
      cpuSeconds: () => cpuSeconds(registry.pid),
    },
  ]
}

/** A line of the table: what each has, and the agent's to each other's. */
function line(name: string, values: readonly number[], digits: number): string[] {
  const [ours = NaN, ...others] = values
  return [name, ...values.map((value) => value.toFixed(digits)), ...others.map((theirs) => (ours / theirs).toFixed(2))]
}

async function downloads(servers: readonly Server[], clients: number, rounds: number): Promise<Served[]> {
  const served = servers.map((): Served[] => [])
  for (let round = 0; round < rounds; round++) {
    for (const [index, server] of servers.entries()) served[index]?.push(await download(server, clients))
  }
  return served.map((runs) => ({
    megabytesPerSecond: median(runs.map((run) => run.megabytesPerSecond)),
    cpuSecondsPerGigabyte: median(runs.map((run) => run.cpuSecondsPerGigabyte)),
  }))
}

/** For each server and each of SHARES the median of all rounds: one pause of the machine decides the p99 of a single one. */
async function latencies(
  servers: readonly Server[],
  rounds: number,
  ask: (server: Server) => Promise<number[]>,
): Promise<number[][]> {
  const figures = servers.map(() => SHARES.map((): number[] => []))
  for (let round = 0; round < rounds; round++) {
    for (const [index, server] of servers.entries()) {
      const times = await ask(server)
      SHARES.forEach((share, at) => figures[index]?.[at]?.push(percentile(times, share)))
    }
  }
  return figures.map((shares) => shares.map(median))
}

async function measure(daemons: Daemons, rounds: number): Promise<Pick<SectionResult, 'columns' | 'rows' | 'targets'>> {
  const servers = await startServers(daemons)
  const names = servers.map(({ name }) => name)
  const rows: string[][] = []
  const targets: Target[] = []
  for (const clients of [1, 8]) {
    const served = await downloads(servers, clients, rounds)
    const name = clients === 1 ? 'one client' : `${clients} clients`
    const speeds = served.map(({ megabytesPerSecond }) => megabytesPerSecond)
    rows.push(line(`${name}, MB/s`, speeds, 0))
    rows.push(
      line(
        `${name}, server CPU s/GB`,
        served.map(({ cpuSecondsPerGigabyte }) => cpuSecondsPerGigabyte),
        2,
      ),
    )
    const [ours = NaN, , theirs = NaN] = speeds
    targets.push({ what: `${name}: at least 0.8 of docker-registry in MB/s`, met: ours >= 0.8 * theirs })
  }
  const layer = await latencies(servers, rounds, (server) => firstBytesOneByOne(server.layer))
  const manifest = await latencies(servers, rounds, (server) => firstBytes(server.manifest))
  for (const [at, share] of SHARES.entries()) {
    const of = (figures: readonly number[][]): number[] => figures.map((one) => one[at] ?? NaN)
    rows.push(line(`layer, one by one, first byte, p${share * 100}, ms`, of(layer), 2))
    rows.push(line(`manifest, first byte, p${share * 100}, ms`, of(manifest), 2))
  }
  const [, slowest = NaN] = manifest[0] ?? []
  targets.push({ what: 'p99 of the first byte of a manifest below 5 ms', met: slowest < 5 })
  return { columns: ['', ...names, ...names.slice(1).map((name) => `to ${name}`)], rows, targets }
}

export async function mirror(rounds: number): Promise<SectionResult> {
  const measured = await withDaemons((daemons) => measure(daemons, rounds))
  return {
    title: 'The mirror endpoint from store',
    method:
      `A layer of 512 MiB read by curl, ${rounds} rounds in turns, medians; its first byte for ${READS} requests one after another; a manifest by ` +
      `digest ${REQUESTS_PER_SECOND} times a second for ${REQUEST_SECONDS} s, counted from when the request was due: nginx, which sends a file, ` +
      'shows what of it is the client.',
    ...measured,
  }
}
