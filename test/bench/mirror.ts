// Serving what is stored: an agent's mirror endpoint beside Debian's docker-registry, the same bytes, the same client.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { Agent } from 'node:http'
import { setTimeout as pause } from 'node:timers/promises'
import { fetchAll, open } from '../support/http.ts'
import { MiB, OCI, rawImage } from '../support/images.ts'
import { pushImage } from '../support/push.ts'
import { withDaemons, type Endpoint } from './daemons.ts'
import { median, percentile, type SectionResult, type Target } from './figures.ts'
import { cpuSeconds } from '../support/process-cost.ts'

const LAYER_BYTES = 512 * MiB
const REQUESTS_PER_SECOND = 500
const REQUEST_SECONDS = 10
/** Asked before those that count: connections and compiled code are not what is measured. */
const WARM_UP_SECONDS = 2

interface Served {
  megabytesPerSecond: number
  cpuSecondsPerGigabyte: number
}

/** As many clients at once read the whole URL. */
async function download(url: string, clients: number, pid: number): Promise<Served> {
  const cpu = cpuSeconds(pid)
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
    cpuSecondsPerGigabyte: (cpuSeconds(pid) - cpu) / gigabytes,
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

export async function mirror(rounds: number): Promise<SectionResult> {
  return await withDaemons(async (daemons) => {
    const registry = await daemons.dockerRegistry()
    const agent = await daemons.agent('agent', { registries: { [registry.host]: { plainHttp: true } } })
    const image = rawImage('mirror', [LAYER_BYTES])
    const layer = image.blobs.at(-1)?.digest ?? ''
    await pushImage(registry.url, 'bench/mirror', 'v1', image)
    const urls = ({ url, host }: Endpoint, path: string): string =>
      url === registry.url ? `${url}/v2/bench/mirror/${path}` : `${url}/v2/bench/mirror/${path}?ns=${host}`
    const at = { agent: { ...agent, host: registry.host }, registry }
    // Into the store, through the front door.
    await fetchAll(urls(at.agent, `manifests/${image.digest}`), { headers: { accept: OCI.manifest } })
    await download(urls(at.agent, `blobs/${layer}`), 1, agent.pid)

    const rows: string[][] = []
    const targets: Target[] = []
    for (const clients of [1, 8]) {
      const served: Record<'agent' | 'registry', Served[]> = { agent: [], registry: [] }
      for (let round = 0; round < rounds; round++) {
        for (const who of ['agent', 'registry'] as const) {
          served[who].push(await download(urls(at[who], `blobs/${layer}`), clients, at[who].pid))
        }
      }
      const middle = (who: 'agent' | 'registry', key: keyof Served) => median(served[who].map((one) => one[key]))
      const speed = middle('agent', 'megabytesPerSecond') / middle('registry', 'megabytesPerSecond')
      const cost = middle('agent', 'cpuSecondsPerGigabyte') / middle('registry', 'cpuSecondsPerGigabyte')
      const name = clients === 1 ? 'one client' : `${clients} clients`
      const cells = (key: keyof Served, digits: number): string[] =>
        [middle('agent', key), middle('registry', key)].map((value) => value.toFixed(digits))
      rows.push([`${name}, MB/s`, ...cells('megabytesPerSecond', 0), speed.toFixed(2)])
      rows.push([`${name}, server CPU s/GB`, ...cells('cpuSecondsPerGigabyte', 2), cost.toFixed(2)])
      targets.push({ what: `${name}: at least 0.8 of docker-registry in MB/s`, met: speed >= 0.8 })
    }
    const times = {
      agent: await firstBytes(urls(at.agent, `manifests/${image.digest}`)),
      registry: await firstBytes(urls(registry, `manifests/${image.digest}`)),
    }
    for (const share of [0.5, 0.99]) {
      const [ours, theirs] = [percentile(times.agent, share), percentile(times.registry, share)]
      rows.push([
        `manifest, first byte, p${share * 100}, ms`,
        ours.toFixed(2),
        theirs.toFixed(2),
        (ours / theirs).toFixed(2),
      ])
    }
    targets.push({ what: 'p99 of the first byte of a manifest below 5 ms', met: percentile(times.agent, 0.99) < 5 })
    return {
      title: 'The mirror endpoint from store',
      method:
        `A layer of 512 MiB read by curl, ${rounds} rounds in turns, medians; a manifest by digest ` +
        `${REQUESTS_PER_SECOND} times a second for ${REQUEST_SECONDS} s.`,
      columns: ['', 'agent', 'docker-registry', 'ratio'],
      rows,
      targets,
    }
  })
}
