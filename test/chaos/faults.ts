// How each fault is done and undone. `begin` resolves when the fault is there and gives back what ends it; what it ends
// it leaves to the daemons and their supervisor to get over.
import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import type { Fault } from '../support/faulty-origin.ts'
import { findProgram } from '../support/requirements.ts'
import { until } from '../support/until.ts'
import type { LabAgent } from '../lab/lab.ts'
import type { LabNode } from '../lab/node.ts'
import type { Link } from '../lab/network.ts'
import { LINK_BITS, type ChaosCluster } from './cluster.ts'
import { clearFolder, flipBytes, pickFile, truncateFile } from './disk.ts'
import type { FaultName } from './fault-kinds.ts'
import { LIES, lying, type Lie } from './lies.ts'
import { randomOf, shuffled } from './schedule.ts'

export interface FaultContext {
  cluster: ChaosCluster
  /** The agent that it befalls, if it befalls one. */
  agent: LabAgent
  random: () => number
  /** Pushes another image under the tag that is being pulled. */
  moveTag: () => Promise<void>
  /** Pushes anew what this episode pulls. */
  pushAgain: () => Promise<void>
}

/** Ends the fault. */
export type End = () => Promise<void> | void
type Begin = (context: FaultContext) => Promise<End> | End

/** The fault cannot be made on this machine. */
export class ImpossibleHere extends Error {
  override name = 'ImpossibleHere'
}

const HOUR_SECONDS = 3600
/** Makes an agent one of a later version. */
const NEWER = join(import.meta.dirname, 'newer-agent.ts')

async function running(node: LabNode): Promise<number> {
  return until(() => node.pid, { what: `running ${node.name}`, deadlineMs: 10_000 })
}

function killed(of: (context: FaultContext) => LabNode, whileDown: (context: FaultContext) => void = () => {}): Begin {
  return async (context) => {
    const node = of(context)
    await context.cluster.putDown(node)
    whileDown(context)
    return () => context.cluster.letUp(node)
  }
}

function stopped(of: (context: FaultContext) => LabNode): Begin {
  return async (context) => {
    const node = of(context)
    await running(node)
    node.freeze()
    return () => node.thaw()
  }
}

/** Killed, something is done to its files, and it starts again at once. */
function torn(of: (context: FaultContext) => LabNode, harm: (context: FaultContext, folder: string) => void): Begin {
  return async (context) => {
    const node = of(context)
    await context.cluster.putDown(node)
    try {
      harm(context, join(node.folder, 'data'))
    } finally {
      context.cluster.letUp(node)
    }
    return () => {}
  }
}

function clock(of: (context: FaultContext) => LabNode, offsetSeconds: number): Begin {
  return (context) => {
    const { folder } = of(context)
    context.cluster.setClock(folder, offsetSeconds)
    return () => context.cluster.setClock(folder, 0)
  }
}

function origin(name: FaultName, fault: (random: () => number) => Fault): Begin {
  return async ({ cluster, random }) => {
    cluster.setOriginFault(name, fault(random))
    await cluster.originTold()
    return () => cluster.setOriginFault(name, undefined)
  }
}

/** Every request, or one of several: a registry that is half broken is another trial than one that is down. */
function often(random: () => number): { every: number } {
  return { every: 1 + Math.floor(random() * 3) }
}

const theAgent = ({ agent }: FaultContext): LabNode => agent
const theTracker = ({ cluster }: FaultContext): LabNode => cluster.tracker
const theOrigin = ({ cluster }: FaultContext): LabNode => cluster.lab.origin
const BLOBS = { path: '/blobs/' }

function harmFile(
  folders: readonly string[],
  harm: (path: string, random: () => number) => void,
): (context: FaultContext, data: string) => void {
  return ({ random }, data) => {
    const path = pickFile(
      folders.map((folder) => join(data, folder)),
      random,
    )
    if (path !== undefined) harm(path, random)
  }
}

/** Half of the bytes, or other bytes: both have been seen after a loss of power. */
function harmIdentity({ random }: FaultContext, data: string): void {
  const path = pickFile([data], random, (name) => name === 'identity.key')
  if (path !== undefined) (random() < 0.5 ? truncateFile : flipBytes)(path, random)
}

function refuseAll(links: readonly Link[], others: readonly Link[], refused: boolean): void {
  for (const one of links) {
    for (const other of others) {
      one.refuse(other, refused)
      other.refuse(one, refused)
    }
  }
}

const FAULTS: Record<FaultName, Begin> = {
  'agent-killed': killed(theAgent),
  'agent-stopped': stopped(theAgent),
  'agent-empty-disk': torn(theAgent, ({ cluster, agent }) => cluster.disk(agent).clear()),
  'agent-truncated-file': torn(theAgent, harmFile(['store/blobs', 'store/partial'], truncateFile)),
  'agent-flipped-blob': torn(theAgent, harmFile(['store/blobs'], flipBytes)),
  'agent-truncated-index': torn(theAgent, harmFile(['store/index'], truncateFile)),
  'agent-flipped-index': torn(theAgent, harmFile(['store/index'], flipBytes)),
  'agent-torn-identity': torn(theAgent, harmIdentity),
  'agent-clock-ahead': clock(theAgent, HOUR_SECONDS),
  'agent-clock-behind': clock(theAgent, -HOUR_SECONDS),
  'agent-disk-full': ({ cluster, agent }) => cluster.disk(agent).fill(),
  'agent-disk-read-only': ({ cluster, agent }) => {
    const disk = cluster.disk(agent)
    disk.fail()
    return async () => {
      await cluster.putDown(agent)
      try {
        await until(() => disk.repair() ?? true, { what: 'disk that can be repaired', deadlineMs: 10_000 })
      } finally {
        cluster.letUp(agent)
      }
    }
  },
  'agent-no-descriptors': async ({ agent, random }) => {
    const pid = await running(agent)
    const limits = readFileSync(`/proc/${pid}/limits`, 'utf8')
    const [, soft = '', hard = ''] = /^Max open files\s+(\S+)\s+(\S+)/m.exec(limits) ?? []
    const spare = Math.floor(random() * 4)
    limitDescriptors(pid, `${readdirSync(`/proc/${pid}/fd`).length + spare}:${hard}`)
    return () => {
      if (agent.pid === pid) limitDescriptors(pid, `${soft}:${hard}`)
    }
  },
  'agent-slow-link': ({ agent }) => {
    agent.link.shape({ rateBits: 1e6 })
    return () => agent.link.shape({ rateBits: LINK_BITS })
  },
  'agent-no-dns': ({ cluster, agent }) => {
    cluster.resolveNames(agent.folder, false)
    return () => cluster.resolveNames(agent.folder, true)
  },
  // Its own clients are served as ever: a liar wrongs other agents.
  'agent-lies': async ({ cluster, agent, random }) => {
    const [lie = 'flips'] = shuffled(Object.keys(LIES) as Lie[], random)
    await cluster.restartWith(agent, lying(lie), true)
    return () => cluster.restartWith(agent, lying(lie), false)
  },
  'tracker-killed': killed(theTracker),
  'tracker-stopped': stopped(theTracker),
  'tracker-empty-disk': torn(theTracker, (_context, data) => clearFolder(data)),
  'tracker-torn-identity': torn(theTracker, harmIdentity),
  'tracker-clock-ahead': clock(theTracker, HOUR_SECONDS),
  'network-cut': ({ cluster, random }) => {
    const { lab } = cluster
    const [first, second, ...rest] = shuffled([...lab.agents, lab.origin, cluster.tracker], random)
    const groups = [[first], [second]].map((group) => group.flatMap((node) => node?.link ?? []))
    for (const { link } of rest) groups[random() < 0.5 ? 0 : 1]?.push(link)
    const [left = [], right = []] = groups
    refuseAll(left, right, true)
    return () => refuseAll(left, right, false)
  },
  'network-loss': ({ cluster }) => {
    const links = cluster.lab.daemons.map(({ link }) => link)
    for (const link of links) link.lose(5)
    return () => links.forEach((link) => link.lose(5, false))
  },
  'network-delay': ({ cluster }) => {
    if (!cluster.lab.network.canDelay) throw new ImpossibleHere('this kernel has no netem')
    const links = cluster.lab.agents.map(({ link }) => link)
    for (const link of links) link.shape({ rateBits: LINK_BITS, delayMs: 100 })
    return () => links.forEach((link) => link.shape({ rateBits: LINK_BITS }))
  },
  'network-newer-agents': async ({ cluster, random }) => {
    const { agents } = cluster.lab
    const half = shuffled(agents, random).slice(0, agents.length >> 1)
    const upgrade = async (newer: boolean): Promise<void> => {
      for (const agent of half) await cluster.restartWith(agent, NEWER, newer)
    }
    await upgrade(true)
    return () => upgrade(false)
  },
  'origin-killed': async (context) => {
    const end = await killed(theOrigin)(context)
    return async () => {
      await end()
      context.cluster.tellOrigin(true)
    }
  },
  'origin-stopped': stopped(theOrigin),
  'origin-empty-disk': async ({ cluster, pushAgain }) => {
    await cluster.putDown(cluster.lab.origin)
    const folder = join(cluster.lab.origin.folder, 'content')
    mkdirSync(folder, { recursive: true })
    clearFolder(folder)
    cluster.letUp(cluster.lab.origin)
    cluster.tellOrigin(true)
    return pushAgain
  },
  'origin-401': origin('origin-401', (random) => ({ kind: 'status', status: 401, ...often(random) })),
  'origin-404': origin('origin-404', (random) => ({ kind: 'status', status: 404, ...often(random) })),
  'origin-429': origin('origin-429', (random) => ({ kind: 'status', status: 429, ...often(random) })),
  'origin-429-retry-after': origin('origin-429-retry-after', (random) => {
    return { kind: 'status', status: 429, retryAfter: 1 + Math.floor(random() * 3), ...often(random) }
  }),
  'origin-500': origin('origin-500', (random) => ({ kind: 'status', status: 500, ...often(random) })),
  'origin-503': origin('origin-503', (random) => ({ kind: 'status', status: 503, ...often(random) })),
  'origin-drops': origin('origin-drops', (random) => ({ kind: 'cut', ...BLOBS, ...often(random) })),
  'origin-resets': origin('origin-resets', (random) => ({ kind: 'reset', ...BLOBS, ...often(random) })),
  'origin-wrong-bytes': origin('origin-wrong-bytes', (random) => ({ kind: 'wrong-bytes', ...often(random) })),
  'origin-wrong-length': origin('origin-wrong-length', (random) => ({ kind: 'wrong-length', ...often(random) })),
  'origin-no-range': origin('origin-no-range', () => ({ kind: 'ignore-range' })),
  'origin-byte-a-second': origin('origin-byte-a-second', () => ({ kind: 'slow', bytesPerSecond: 1 })),
  'origin-stalls': origin('origin-stalls', (random) => ({ kind: 'stall', ...BLOBS, ...often(random) })),
  'origin-hangs': origin('origin-hangs', (random) => ({ kind: 'hang', ...often(random) })),
  'origin-expired-tls': origin('origin-expired-tls', () => ({ kind: 'expired' })),
  'origin-redirect-circle': origin('origin-redirect-circle', (random) => ({ kind: 'circle', ...often(random) })),
  'origin-moved-tag': async ({ moveTag }) => {
    await moveTag()
    return () => {}
  },
}

function limitDescriptors(pid: number, limits: string): void {
  const prlimit = findProgram('prlimit') ?? 'prlimit'
  const done = spawnSync(prlimit, ['--pid', String(pid), `--nofile=${limits}`], { encoding: 'utf8' })
  if (done.status !== 0) throw new Error(`prlimit: ${done.stderr.trim()}`)
}

/** @throws ImpossibleHere */
export async function beginFault(name: FaultName, context: Omit<FaultContext, 'random'>, seed: string): Promise<End> {
  return FAULTS[name]({ ...context, random: randomOf(seed) })
}
