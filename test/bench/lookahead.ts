// What fetching layers before they are asked for saves a client that asks for three at a time, as docker does.
import { pull } from '../lab/pull-client.ts'
import { KiB, rawImage } from '../support/images.ts'
import { pushImage } from '../support/push.ts'
import { pullByAgent, withDaemons, type Daemons } from './daemons.ts'
import { median, type SectionResult } from './figures.ts'

const LAYERS = Array.from({ length: 24 }, () => 256 * KiB)
const AT_ONCE = 3

async function measure(daemons: Daemons, rounds: number): Promise<SectionResult> {
  const origin = await daemons.dockerRegistry()
  const tracker = await daemons.tracker()
  const config = { registries: { [origin.host]: { plainHttp: true } }, trackers: [tracker.host] }
  const seeder = await daemons.agent('seeder', config)
  const ahead = await daemons.agent('ahead', config)
  const asked = await daemons.agent('asked', { ...config, lookahead: 0 })
  const rows: string[][] = []
  for (const source of ['origin', 'another agent'] as const) {
    const times = new Map([ahead, asked].map((agent) => [agent, [] as number[]]))
    // One round before those that count: code and connections get warm.
    for (let round = 0; round <= rounds; round++) {
      for (const [agent, list] of times) {
        const repository = `bench/${agent.name}`
        const tag = `${source === 'origin' ? 'o' : 'a'}${round}`
        await pushImage(origin.url, repository, tag, rawImage(`${agent.name}/${source}/${round}`, LAYERS))
        if (source !== 'origin') await pullByAgent(seeder, `${origin.host}/${repository}:${tag}`)
        const request = { endpoint: agent.url, namespace: origin.host, repository, reference: tag, parallel: AT_ONCE }
        const { blobs, durationMs } = await pull(request)
        if (!blobs.every(({ verified }) => verified)) throw new Error('a wrong byte came')
        if (round > 0) list.push(durationMs)
      }
    }
    const [withMs, withoutMs] = [median(times.get(ahead) ?? []), median(times.get(asked) ?? [])]
    rows.push([source, withMs.toFixed(0), withoutMs.toFixed(0), (withMs / withoutMs).toFixed(2)])
  }
  return {
    title: 'Layers fetched before they are asked for',
    method:
      `An image of ${LAYERS.length} layers of 256 KiB, another one each round, pulled cold by a client that asks for ` +
      `${AT_ONCE} layers at a time; ${rounds} rounds in turns, medians in milliseconds.`,
    columns: ['the layers come from', 'with lookahead', 'without', 'ratio'],
    rows,
    targets: [],
  }
}

export async function lookaheadGain(rounds: number): Promise<SectionResult> {
  return await withDaemons((daemons) => measure(daemons, rounds))
}
