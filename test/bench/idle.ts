// What agents and a tracker cost while nothing happens.
import { setTimeout as pause } from 'node:timers/promises'
import { KiB, rawImage } from '../support/images.ts'
import { pushImage } from '../support/push.ts'
import { cpuSeconds, memory } from '../support/process-cost.ts'
import { pullByAgent, withDaemons, type AgentEndpoint, type Endpoint } from './daemons.ts'
import type { SectionResult, Target } from './figures.ts'

/** A node that has just started looks for others in its DHT, and compiles what it runs often. */
const SETTLE_MS = 60_000
/** Long enough that what comes once in a minute or two counts with its share. */
const WATCH_MS = 120_000
/** Blobs in store, and the resident memory that an agent with so many may have. */
const FEW = { blobs: 10, limitMb: 130 }
const MANY = { blobs: 5000, limitMb: 180 }
const BLOBS_OF_AN_IMAGE = 100
const LIMIT_CPU_PERCENT = 1

/** Puts so many blobs into an agent's store: images of a config and small layers. */
async function fill(agent: AgentEndpoint, origin: Endpoint, blobs: number): Promise<void> {
  for (let left = blobs, image = 0; left > 0; left -= BLOBS_OF_AN_IMAGE, image++) {
    const layers = Array.from({ length: Math.min(left, BLOBS_OF_AN_IMAGE) - 1 }, () => KiB)
    await pushImage(origin.url, 'bench/idle', `v${image}`, rawImage(`idle/${blobs}/${image}`, layers))
    await pullByAgent(agent, `${origin.host}/bench/idle:v${image}`)
  }
}

export async function idle(nodes: number): Promise<SectionResult> {
  return await withDaemons(async (daemons) => {
    const origin = await daemons.shoalRegistry('origin')
    const tracker = await daemons.tracker()
    const config = { registries: { [origin.host]: { plainHttp: true } }, trackers: [tracker.host] }
    const agents = []
    for (let index = 0; index < nodes; index++) agents.push(await daemons.agent(`agent ${index + 1}`, config))
    const [one, other] = agents
    if (one === undefined || other === undefined) throw new RangeError('at least two agents are needed')
    await fill(one, origin, FEW.blobs)
    await fill(other, origin, MANY.blobs)
    const [first, second] = [await daemons.restart(one, config), await daemons.restart(other, config)]
    await pause(SETTLE_MS)

    const watched = [
      { name: `agent, ${FEW.blobs} blobs`, pid: first.pid, limitMb: FEW.limitMb },
      { name: `agent, ${MANY.blobs} blobs`, pid: second.pid, limitMb: MANY.limitMb },
      { name: 'tracker', pid: tracker.pid, limitMb: FEW.limitMb },
    ]
    const before = watched.map(({ pid }) => cpuSeconds(pid))
    await pause(WATCH_MS)
    const rows: string[][] = []
    const targets: Target[] = []
    watched.forEach(({ name, pid, limitMb }, index) => {
      const { residentBytes, anonymousBytes, peakBytes } = memory(pid)
      const percent = ((cpuSeconds(pid) - (before[index] ?? 0)) * 100_000) / WATCH_MS
      const mb = (bytes: number): string => (bytes / 1e6).toFixed(0)
      rows.push([name, mb(residentBytes), mb(anonymousBytes), mb(peakBytes), percent.toFixed(2)])
      targets.push({ what: `${name}: at most ${limitMb} MB resident`, met: residentBytes <= limitMb * 1e6 })
      targets.push({ what: `${name}: at most ${LIMIT_CPU_PERCENT} % of a core`, met: percent <= LIMIT_CPU_PERCENT })
    })
    return {
      title: 'Idle',
      method:
        `${nodes} agents and a tracker, all of them DHT servers; two of the agents were restarted with what they had pulled. ` +
        `Watched for ${WATCH_MS / 1000} s after ${SETTLE_MS / 1000} s of rest.`,
      columns: ['', 'resident MB', 'of it anonymous', 'peak MB', 'CPU % of a core'],
      rows,
      targets,
    }
  })
}
