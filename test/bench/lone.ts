// A cold pull through an agent that nobody can help, beside the same pull straight from the origin, in turns.
import { createServer, type Socket } from 'node:net'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { pull } from '../lab/pull-client.ts'
import { KiB, MiB, rawImage } from '../support/images.ts'
import { freePorts } from '../support/ports.ts'
import { pushImage } from '../support/push.ts'
import { withDaemons, type AgentEndpoint, type Daemons, type Endpoint } from './daemons.ts'
import { median, type SectionResult } from './figures.ts'

const LAYERS = [6 * MiB, 2 * MiB, 4 * KiB]
/** Issue: at most 1.3 times the straight pull, or 150 ms more, whichever is larger. */
const LIMIT_FACTOR = 1.3
const LIMIT_MS = 150

/** A place that takes connections and never says a word, as a machine that hangs. */
async function silentPlace(): Promise<{ address: string; close: () => void }> {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.on('close', () => sockets.delete(socket))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () => {
      for (const socket of sockets) socket.destroy()
      server.close()
    },
  }
}

/** Agents that differ in what they can ask: the three cases of the table. */
async function agents(daemons: Daemons, origins: Endpoint[], silent: string): Promise<[string, AgentEndpoint][]> {
  const registries = Object.fromEntries(origins.map(({ host }) => [host, { plainHttp: true }]))
  const tracker = await daemons.tracker()
  const [closed = 0] = await freePorts(1)
  return [
    ['tracker up', await daemons.agent('tracked', { registries, trackers: [tracker.host] })],
    [
      'two trackers, one refuses, one hangs',
      await daemons.agent('untracked', { registries, trackers: [`127.0.0.1:${closed}`, silent] }),
    ],
    ['no tracker', await daemons.agent('alone', { registries })],
  ]
}

export async function lone(rounds: number): Promise<SectionResult> {
  const silent = await silentPlace()
  try {
    return await withDaemons((daemons) => measure(daemons, silent.address, rounds))
  } finally {
    silent.close()
  }
}

async function measure(daemons: Daemons, silent: string, rounds: number): Promise<SectionResult> {
  const origins = [await daemons.dockerRegistry(), await daemons.shoalRegistry()]
  const cases = await agents(daemons, origins, silent)
  const rows: string[][] = []
  const targets: SectionResult['targets'][number][] = []
  for (const origin of origins) {
    for (const [name, agent] of cases) {
      const straight: number[] = []
      const through: number[] = []
      const firstBytes: number[] = []
      // The first round warms up what is not measured: code, connections, caches.
      for (let round = 0; round <= rounds; round++) {
        const image = rawImage(`${origin.name} ${name} ${round}`, LAYERS)
        const repository = `bench/round${round}`
        await pushImage(origin.url, repository, name.replace(/\W/g, '-'), image)
        const request = { repository, reference: name.replace(/\W/g, '-') }
        const direct = () => pull({ ...request, endpoint: origin.url })
        const mirrored = () => pull({ ...request, endpoint: agent.url, namespace: origin.host })
        // Whoever comes second finds the origin's caches warm: so they take turns at it.
        const [first, second] = round % 2 === 0 ? [direct, mirrored] : [mirrored, direct]
        const results = [await first(), await second()]
        const [straightResult, throughResult] = round % 2 === 0 ? results : [results[1], results[0]]
        if (straightResult === undefined || throughResult === undefined) throw new Error('a pull gave no result')
        if (!throughResult.blobs.every(({ verified }) => verified)) throw new Error('a wrong byte came')
        if (round === 0) continue
        straight.push(straightResult.durationMs)
        through.push(throughResult.durationMs)
        firstBytes.push(throughResult.firstByteMs)
      }
      const [directMs, agentMs] = [median(straight), median(through)]
      const limitMs = Math.max(LIMIT_FACTOR * directMs, directMs + LIMIT_MS)
      const ms = (value: number): string => value.toFixed(0)
      rows.push([
        `${origin.name}, ${name}`,
        ms(directMs),
        ms(agentMs),
        (agentMs / directMs).toFixed(2),
        ms(agentMs - directMs),
        ms(median(firstBytes)),
      ])
      targets.push({ what: `${origin.name}, ${name}: at most ${ms(limitMs)} ms`, met: agentMs <= limitMs })
    }
  }
  return {
    title: 'A cold pull through a lone agent',
    method:
      `An image of 8 MB (layers of 6 MiB, 2 MiB and 4 KiB), another one each round; ${rounds} rounds, straight and ` +
      'through the agent in turns. Medians in milliseconds.',
    columns: ['origin, trackers', 'straight', 'through the agent', 'ratio', 'difference', 'first byte of a blob'],
    rows,
    targets,
  }
}
