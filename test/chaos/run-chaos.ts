// A chaos run: episodes of faults that overlap while every node pulls; after each all must be well again by itself.
import { setTimeout as pause } from 'node:timers/promises'
import type { PushedImage } from '../lab/lab.ts'
import { buildImage } from '../support/image-spec.ts'
import { KiB, MiB } from '../support/images.ts'
import { until } from '../support/until.ts'
import { ChaosCluster } from './cluster.ts'
import type { FaultName } from './fault-kinds.ts'
import { beginFault, ImpossibleHere, type End, type FaultContext } from './faults.ts'
import { Invariants } from './invariants.ts'
import { keepPulling, pullWithin, type PullCounts, type Wanted } from './pulls.ts'
import { randomOf, type Episode, type ScheduledFault } from './schedule.ts'

/** When a fault ends, a new pull succeeds within this time without anyone's help. */
export const RECOVERY_LIMIT_MS = 30_000

/** What the faults need of the machine; see test/support/requirements.ts. */
export const CHAOS_REQUIREMENTS = [
  ...['root', 'namespaces', 'loop', 'iptables', 'unshare', 'prlimit', 'faketime', 'openssl'],
  ...['mkfs.ext4', 'e2fsck', 'findmnt'],
]

/** Images of earlier episodes that may be pulled again. */
const REMEMBERED_IMAGES = 6

export interface ChaosResult {
  episodes: number
  /** Times that each fault was made. */
  injected: Map<FaultName, number>
  /** Faults that this machine cannot make, and why. */
  impossible: Map<FaultName, string>
  pulls: PullCounts
  /** Pulls after all faults had ended. */
  recoveries: number[]
  /** Daemons that ended by themselves and were started again. */
  restarts: string[]
  violations: string[]
  tookMs: number
}

export interface ChaosOptions {
  agents: number
  episodes: Iterable<Episode>
  /** No episode begins later. @default Infinity */
  forMs?: number
  tell?: (line: string) => void
}

/** Never rejects for a violation: those are in the result. */
export async function runChaos(options: ChaosOptions): Promise<ChaosResult> {
  const { agents, episodes, forMs = Infinity, tell = () => {} } = options
  const begin = performance.now()
  const result: ChaosResult = {
    episodes: 0,
    injected: new Map(),
    impossible: new Map(),
    pulls: { tried: 0, succeeded: 0, refused: 0 },
    recoveries: [],
    restarts: [],
    violations: [],
    tookMs: 0,
  }
  const cluster = new ChaosCluster(agents)
  try {
    await cluster.start()
    const run = new ChaosRun(cluster, result, tell)
    for (const episode of episodes) {
      await run.episode(episode)
      result.tookMs = performance.now() - begin
      if (result.tookMs >= forMs) break
    }
    if (result.violations.length > 0) tell(`logs: ${cluster.lab.saveLogs('chaos')}`)
  } finally {
    cluster.close()
  }
  return result
}

class ChaosRun {
  readonly #cluster: ChaosCluster
  readonly #result: ChaosResult
  readonly #tell: (line: string) => void
  readonly #invariants: Invariants
  #remembered: PushedImage[] = []

  constructor(cluster: ChaosCluster, result: ChaosResult, tell: (line: string) => void) {
    this.#cluster = cluster
    this.#result = result
    this.#tell = tell
    this.#invariants = new Invariants(cluster)
  }

  async episode(episode: Episode): Promise<void> {
    const { lab } = this.#cluster
    const { number, seed, faults, pullsAtMs } = episode
    this.#tell(`episode ${number}: ${faults.map(({ name }) => name).join(' ')}`)
    const before = this.#result.violations.length
    const violated = (violation: string): void => {
      this.#result.violations.push(`episode ${number}: ${violation}`)
      this.#tell(`  VIOLATION ${violation}`)
    }
    const push = (name: string, made: string, layers: number[]) =>
      lab.pushImage({ name: `${name}-${number}`, seed: `${seed}/${made}`, layers })
    const cold = [6 * MiB, 1536 * KiB, 40 * KiB]
    const image = await push('app', 'app', cold)
    const fresh = await push('after', 'after', [2 * MiB, 20 * KiB])
    const digests = [image.digest]
    const context: Omit<FaultContext, 'agent' | 'random'> = {
      cluster: this.#cluster,
      moveTag: async () => {
        const spec = { kind: 'raw', seed: `${seed}/moved`, layerBytes: cold } as const
        digests.push(buildImage(spec).digest)
        // The origin may be down just now.
        await until(() => lab.push(image.repository, image.tag, spec), { what: 'origin that takes pushes' })
      },
      pushAgain: async () => {
        const again = async () =>
          (await Promise.all([push('app', 'app', cold), push('after', 'after', [2 * MiB, 20 * KiB])])).length > 0
        await until(again, { what: 'origin that takes pushes' })
      },
    }

    const stopping = new AbortController()
    const clients = lab.agents.map(async (agent, index) => {
      const random = randomOf(`${seed}/client ${index}`)
      const stoppedMs = faults
        .filter(({ name, agent: victim }) => name === 'agent-stopped' && victim === index)
        .reduce((sum, { durationMs }) => sum + durationMs, 0)
      let first = true
      const next = (): Wanted => {
        const older = this.#remembered[Math.floor(random() * this.#remembered.length)]
        const byDigest = random() < 0.25
        if (!first && older !== undefined && random() < 0.5) return { image: older, byDigest, stoppedMs }
        first = false
        return { image, byDigest, digests: () => digests, stoppedMs }
      }
      await pause(pullsAtMs[index] ?? 0)
      await keepPulling(agent, next, this.#result.pulls, violated, stopping.signal)
    })
    await Promise.all(faults.map((fault) => this.#fault(fault, context)))
    await this.#cluster.originTold()
    stopping.abort()
    const healed = performance.now()
    const recovered = await Promise.all(
      lab.agents.map(async (agent) => {
        const tookMs = await pullWithin(agent, fresh, RECOVERY_LIMIT_MS, this.#result.pulls, violated)
        if (tookMs === undefined) violated(`${agent.name}: no pull succeeded within 30 s after the faults`)
        return tookMs
      }),
    )
    this.#result.recoveries.push(...recovered.flatMap((tookMs) => tookMs ?? []))
    await Promise.all(clients)
    for (const violation of await this.#invariants.violations()) violated(violation)
    for (const { node, lastLines } of this.#cluster.unexpectedEnds.splice(0)) {
      this.#result.restarts.push(`episode ${number}: ${node}: ${lastLines}`)
      if (lastLines.includes('a fault in Shoal')) violated(`${node} ended by a fault of its own: ${lastLines}`)
    }
    this.#remembered = [image, fresh, ...this.#remembered].slice(0, REMEMBERED_IMAGES)
    // The tag of this image may be that of another by now; by its digest it is still what it was.
    if (digests.length > 1) this.#remembered = this.#remembered.filter((each) => each !== image)
    this.#result.episodes++
    const times = recovered.map((tookMs) => (tookMs === undefined ? 'never' : Math.round(tookMs))).join(', ')
    const count = this.#result.violations.length - before
    this.#tell(
      `  well again after ${times} ms, checked ${Math.round(performance.now() - healed)} ms after the faults, ${count} violations`,
    )
  }

  async #fault(fault: ScheduledFault, rest: Omit<FaultContext, 'agent' | 'random'>): Promise<void> {
    const { name, atMs, durationMs, seed } = fault
    await pause(atMs)
    let end: End
    try {
      end = await beginFault(name, { ...rest, agent: this.#cluster.lab.agent(fault.agent) }, seed)
      this.#result.injected.set(name, (this.#result.injected.get(name) ?? 0) + 1)
    } catch (error) {
      if (!(error instanceof ImpossibleHere)) throw error
      this.#result.impossible.set(name, error.message)
      return
    }
    await pause(durationMs)
    await end()
  }
}
