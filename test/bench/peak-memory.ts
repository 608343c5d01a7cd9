// How much memory an agent takes at most while one large blob passes through it.
import { GiB } from '../support/images.ts'
import { open } from '../support/http.ts'
import { withDaemons } from './daemons.ts'
import type { SectionResult } from './figures.ts'
import { cpuSeconds, memory } from '../support/process-cost.ts'

const LIMIT_MB = 350

export async function peakMemory(gibibytes: number): Promise<SectionResult> {
  return await withDaemons(async (daemons) => {
    const layerBytes = Math.round(gibibytes * GiB)
    const origin = await daemons.generatedOrigin(layerBytes)
    const agent = await daemons.agent('agent', { registries: { [origin.host]: { plainHttp: true } } })
    const rest = memory(agent.pid).residentBytes
    const url = (path: string): string => `${agent.url}/v2/${origin.repository}/${path}?ns=${origin.host}`
    const cpu = cpuSeconds(agent.pid)
    const start = performance.now()
    // The manifest first, as a runtime does: it tells the agent how large the layer is.
    for (const path of [`manifests/${origin.tag}`, `blobs/${origin.layer}`]) {
      const answer = await open(url(path), { idleLimitMs: 60_000 })
      let bytes = 0
      for await (const piece of answer) bytes += (piece as Buffer).length
      const whole = path.startsWith('manifests') || bytes === layerBytes
      if (answer.statusCode !== 200 || !whole) throw new Error(`${path}: ${answer.statusCode}, ${bytes} bytes`)
    }
    const seconds = (performance.now() - start) / 1000
    const { peakBytes, residentBytes } = memory(agent.pid)
    const mb = (value: number): string => (value / 1e6).toFixed(0)
    return {
      title: 'Memory while a large blob passes through',
      method: `One blob of ${gibibytes} GiB, made on the fly by the origin, read by one client through a cold agent.`,
      columns: ['', 'figure'],
      rows: [
        ['resident before, MB', mb(rest)],
        ['peak, MB', mb(peakBytes)],
        ['resident right after, MB', mb(residentBytes)],
        ['MB/s', (layerBytes / 1e6 / seconds).toFixed(0)],
        ['CPU s/GB of the agent', ((cpuSeconds(agent.pid) - cpu) / (layerBytes / 1e9)).toFixed(2)],
      ],
      targets: [{ what: `peak below ${LIMIT_MB} MB`, met: peakBytes < LIMIT_MB * 1e6 }],
    }
  })
}
