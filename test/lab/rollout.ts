// A rollout: all agents are asked for one image within a short time, and everything that moved is measured. Ratios are
// to a download straight from the origin in the same lab, so they hold on any machine that keeps up with the links.
import { cpus } from 'node:os'
import { setTimeout as pause } from 'node:timers/promises'
import { cpuSeconds } from '../support/process-cost.ts'
import type { Lab, LabAgent, PushedImage } from './lab.ts'
import type { PullResult } from './pull-client.ts'

export interface RolloutOptions {
  image: PushedImage
  /** The pulls begin evenly spread over this. @default 1000 */
  withinMs?: number
  /** @default all */
  agents?: readonly LabAgent[]
  /** A pull that is silent for this long has failed. @default 60000 */
  idleLimitMs?: number
  /** A pull that takes longer has failed. @default 180000 */
  limitMs?: number
  /** A pull that breaks off is made again so often, as runtimes do. @default 0 */
  retries?: number
  onProgress?: (agent: LabAgent, bytes: number) => void
}

export interface AgentOutcome {
  name: string
  /** Both from the beginning of the rollout. */
  startedMs: number
  endedMs: number
  durationMs: number
  /** Every blob came and hashes to its digest. */
  verified: boolean
  result?: PullResult
  error?: Error
}

export interface RolloutResult {
  outcomes: AgentOutcome[]
  /** From the first request to the last byte of the last agent. */
  lastMs: number
  medianMs: number
  firstMs: number
  imageBytes: number
  /** Content that left the origin, by its own count. */
  originContentBytes: number
  /** The same by the origin's link, with all headers. */
  originLinkBytes: number
  /** By the agents' counts; agents that are down at the end count nothing. */
  fromOriginBytes: number
  fromPeersBytes: number
  /** Share of this machine's processor time that nobody used: without any, the links were not the limit. */
  idleShare: number
  /** Processor time of the agents, in seconds; those that were killed or restarted meanwhile are left out. */
  agentCpuSeconds: number
}

/** Idle and all processor time so far, over all cores, in milliseconds. */
function processorTimes(): { idleMs: number; allMs: number } {
  let idleMs = 0
  let allMs = 0
  for (const { times } of cpus()) {
    idleMs += times.idle
    allMs += times.user + times.nice + times.sys + times.idle + times.irq
  }
  return { idleMs, allMs }
}

async function receivedBy(agents: readonly LabAgent[], source: 'peer' | 'origin'): Promise<number> {
  const each = agents.filter(({ running }) => running).map((agent) => agent.received(source))
  return (await Promise.all(each)).reduce((sum, bytes) => sum + bytes, 0)
}

/** Processor time so far of each agent that runs, in seconds, by process id. */
function agentTimes(agents: readonly LabAgent[]): Map<number, number> {
  const pids = agents.flatMap(({ pid }) => (pid === undefined ? [] : [pid]))
  return new Map(pids.map((pid) => [pid, cpuSeconds(pid)]))
}

/** Never rejects because a pull failed: that is in the outcomes. */
export async function rollout(lab: Lab, options: RolloutOptions): Promise<RolloutResult> {
  const { image, withinMs = 1000, agents = lab.agents, idleLimitMs = 60_000, limitMs = 180_000 } = options
  const { retries = 0, onProgress } = options
  const contentBefore = await lab.origin.contentBytesSent()
  const linkBefore = lab.counters().get('origin')?.sentBytes ?? 0
  const originBefore = await receivedBy(agents, 'origin')
  const peersBefore = await receivedBy(agents, 'peer')
  const processor = processorTimes()
  const agentsBefore = agentTimes(agents)
  const begin = performance.now()
  const one = async (agent: LabAgent, index: number): Promise<AgentOutcome> => {
    await pause(agents.length > 1 ? (withinMs * index) / (agents.length - 1) : 0)
    const startedMs = performance.now() - begin
    const end = (rest: Pick<AgentOutcome, 'verified' | 'result' | 'error'>): AgentOutcome => {
      const endedMs = performance.now() - begin
      return { name: agent.name, startedMs, endedMs, durationMs: endedMs - startedMs, ...rest }
    }
    const pull = async (left: number): Promise<PullResult> => {
      try {
        return await agent.pull(image, { idleLimitMs, limitMs, onProgress: (bytes) => onProgress?.(agent, bytes) })
      } catch (error) {
        if (left === 0) throw error
        return await pull(left - 1)
      }
    }
    try {
      const result = await pull(retries)
      const whole = result.bytes === image.totalBytes && result.manifestDigest === image.digest
      return end({ verified: whole && result.blobs.every(({ verified }) => verified), result })
    } catch (error) {
      return end({ verified: false, error: error as Error })
    }
  }
  const outcomes = await Promise.all(agents.map(one))
  const { idleMs, allMs } = processorTimes()
  let agentCpuSeconds = 0
  for (const [pid, seconds] of agentTimes(agents)) agentCpuSeconds += seconds - (agentsBefore.get(pid) ?? seconds)
  const ends = outcomes.map(({ endedMs }) => endedMs).sort((a, b) => a - b)
  return {
    outcomes,
    firstMs: ends[0] ?? 0,
    medianMs: ends[ends.length >> 1] ?? 0,
    lastMs: ends.at(-1) ?? 0,
    imageBytes: image.totalBytes,
    originContentBytes: (await lab.origin.contentBytesSent()) - contentBefore,
    originLinkBytes: (lab.counters().get('origin')?.sentBytes ?? 0) - linkBefore,
    fromOriginBytes: (await receivedBy(agents, 'origin')) - originBefore,
    fromPeersBytes: (await receivedBy(agents, 'peer')) - peersBefore,
    idleShare: (idleMs - processor.idleMs) / Math.max(1, allMs - processor.allMs),
    agentCpuSeconds,
  }
}

/** The outcome as a table for people. */
export function describeRollout(result: RolloutResult, straightMs: number): string {
  const ratio = (ms: number): string => `${(ms / 1000).toFixed(2)} s  ${(ms / straightMs).toFixed(3)}`
  const times = (bytes: number): string => (bytes / result.imageBytes).toFixed(3)
  const verified = result.outcomes.filter((outcome) => outcome.verified).length
  const rows = [
    ['one straight download', `${(straightMs / 1000).toFixed(2)} s  1`],
    ['first agent', ratio(result.firstMs)],
    ['median agent', ratio(result.medianMs)],
    ['last agent', ratio(result.lastMs)],
    ['left the origin, its own count', `${times(result.originContentBytes)} images`],
    ['left the origin, by its link', `${times(result.originLinkBytes)} images`],
    ['agents received from the origin', `${times(result.fromOriginBytes)} images`],
    ['agents received from peers', `${times(result.fromPeersBytes)} images`],
    ['processors idle', `${(result.idleShare * 100).toFixed(0)} %`],
    ['processor time of the agents', `${result.agentCpuSeconds.toFixed(1)} s`],
    ['digests verified', `${verified} of ${result.outcomes.length} agents`],
  ]
  const failures = result.outcomes.flatMap(({ name, error }) => (error ? [`${name}: ${error.message}`] : []))
  return [...rows.map(([key = '', value = '']) => `${key.padEnd(34)}${value}`), ...failures].join('\n')
}
