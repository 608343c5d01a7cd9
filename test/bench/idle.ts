// What agents and a tracker cost while nothing happens.
import { setTimeout as pause } from 'node:timers/promises'
import { pull } from '../lab/pull-client.ts'
import { KiB, rawImage } from '../support/images.ts'
import { pushImage } from '../support/push.ts'
import { withDaemons } from './daemons.ts'
import type { SectionResult, Target } from './figures.ts'
import { cpuSeconds, memory } from '../support/process-cost.ts'

const SETTLE_MS = 10_000
const WATCH_MS = 20_000
const LIMIT_MB = 130
const LIMIT_CPU_PERCENT = 1

export async function idle(nodes: number): Promise<SectionResult> {
  return await withDaemons(async (daemons) => {
    const origin = await daemons.dockerRegistry()
    const tracker = await daemons.tracker()
    const config = { registries: { [origin.host]: { plainHttp: true } }, trackers: [tracker.host] }
    const agents = []
    for (let index = 0; index < nodes; index++) agents.push(await daemons.agent(`agent ${index + 1}`, config))
    // Ten blobs: a config and nine layers.
    const layers = Array.from({ length: 9 }, () => 256 * KiB)
    await pushImage(origin.url, 'bench/idle', 'v1', rawImage('idle', layers))
    const [first] = agents
    if (first === undefined) throw new RangeError('at least one agent is needed')
    await pull({ endpoint: first.url, repository: 'bench/idle', reference: 'v1', namespace: origin.host })
    await pause(SETTLE_MS)

    const watched = [first, tracker]
    const before = watched.map(({ pid }) => cpuSeconds(pid))
    await pause(WATCH_MS)
    const rows: string[][] = []
    const targets: Target[] = []
    watched.forEach(({ name, pid }, index) => {
      const { residentBytes, anonymousBytes, peakBytes } = memory(pid)
      const percent = ((cpuSeconds(pid) - (before[index] ?? 0)) * 100_000) / WATCH_MS
      const mb = (bytes: number): string => (bytes / 1e6).toFixed(0)
      rows.push([name, mb(residentBytes), mb(anonymousBytes), mb(peakBytes), percent.toFixed(2)])
      targets.push({ what: `${name}: at most ${LIMIT_MB} MB resident`, met: residentBytes <= LIMIT_MB * 1e6 })
      targets.push({ what: `${name}: at most ${LIMIT_CPU_PERCENT} % of a core`, met: percent <= LIMIT_CPU_PERCENT })
    })
    return {
      title: 'Idle',
      method:
        `${nodes} agents and a tracker, all of them DHT servers; the first agent has 10 blobs in store. ` +
        `Watched for ${WATCH_MS / 1000} s after ${SETTLE_MS / 1000} s of rest.`,
      columns: ['', 'resident MB', 'of it anonymous', 'peak MB', 'CPU % of a core'],
      rows,
      targets,
    }
  })
}
