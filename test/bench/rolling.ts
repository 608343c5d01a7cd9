// A rolling update of real agents: an image that shares a layer with what all nodes have, a fifth of the nodes at a time.
import { withLab, type Lab } from '../lab/lab.ts'
import { MiB } from '../support/images.ts'
import type { SectionResult, Target } from './figures.ts'

const AGENTS = 10
const WAVES = 5
/** Slow enough that the links are the limit, as in the rollouts. */
const RATE = '25mbit'
const SHARED_BYTES = 32 * MiB
const NEW_BYTES = 8 * MiB
/** Of the new bytes: what one agent may receive, and what may leave the origin for all of them. */
const LIMIT = 1.02

export async function rollingUpdate(): Promise<SectionResult> {
  const { rows, targets } = await withLab('bench rolling', { agents: AGENTS, rate: RATE }, measure)
  return {
    title: 'Rolling update',
    method:
      `${AGENTS} agents that have an image of ${SHARED_BYTES / MiB} MiB are given one with ${NEW_BYTES / MiB} MiB more, ` +
      `${AGENTS / WAVES} at a time, every node and the origin at ${RATE} each way. Times in straight downloads of the new layer ` +
      'alone by one node with nobody else about; bytes to those of config and layers that are new.',
    columns: ['wave', 'the last of it', 'received by each, at most', 'from the origin, so far'],
    rows,
    targets,
  }
}

async function measure(lab: Lab): Promise<{ rows: string[][]; targets: Target[] }> {
  const spec = { kind: 'raw', seed: 'bench rolling' } as const
  const old = await lab.push('bench/rolling', 'v1', { ...spec, layerBytes: [SHARED_BYTES] })
  const next = await lab.push('bench/rolling', 'v2', { ...spec, layerBytes: [SHARED_BYTES, NEW_BYTES] })
  const newBytes = next.totalBytes - SHARED_BYTES
  const alone = await lab.pushImage({ name: 'new-layer', layers: [NEW_BYTES] })
  const straightMs = (await lab.straightDownload(alone)).durationMs
  await Promise.all(lab.agents.map((agent) => agent.pull(old)))
  const originBefore = await lab.origin.contentBytesSent()
  const rows: string[][] = []
  let [mostReceived, fromOrigin] = [0, 0]
  for (let wave = 0; wave < WAVES; wave++) {
    const updated = lab.agents.filter(({ index }) => index % WAVES === wave)
    const received = () =>
      Promise.all(updated.map(async (agent) => (await agent.received('peer')) + (await agent.received('origin'))))
    const before = await received()
    const pulls = await Promise.all(updated.map((agent) => agent.pull(next)))
    const after = await received()
    const most = Math.max(...after.map((bytes, index) => bytes - (before[index] ?? 0))) / newBytes
    fromOrigin = ((await lab.origin.contentBytesSent()) - originBefore) / newBytes
    mostReceived = Math.max(mostReceived, most)
    const last = Math.max(...pulls.map(({ durationMs }) => durationMs)) / straightMs
    rows.push([String(wave + 1), last.toFixed(2), most.toFixed(3), fromOrigin.toFixed(3)])
  }
  return {
    rows,
    targets: [
      { what: `each agent receives at most ${LIMIT} times the new bytes`, met: mostReceived <= LIMIT },
      { what: `the origin sends at most ${LIMIT} times the new bytes`, met: fromOrigin <= LIMIT },
    ],
  }
}
