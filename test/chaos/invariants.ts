// What must hold after every episode, whatever has happened in it: the stores hold what they say and no more than they
// may, and no process has more descriptors, sockets or memory than it had after an earlier episode.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { verifyStore } from '@shoal/store'
import { MiB } from '../support/images.ts'
import { DeadlineError, until } from '../support/until.ts'
import type { LabNode } from '../lab/node.ts'
import { QUOTA_BYTES, type ChaosCluster } from './cluster.ts'

/** What a process has right now. */
export interface Level {
  pid: number
  descriptors: number
  sockets: number
  memoryBytes: number
}

/** Connections that are kept for a while, and files of blobs that stay open for the next request (64 at most). */
const MORE_DESCRIPTORS = 80
const MORE_SOCKETS = 40
/** Buffers that are kept, and what the allocator does not give back. A leak of 5 % of what is pulled shows within minutes. */
const MORE_MEMORY_BYTES = 160 * MiB
/**
 * What the file system takes for the file of an arriving blob beside its content, and `st_blocks` shows: its last block,
 * and the blocks that tell where the others are. The quota is for content (docs/reliability.md).
 */
const FILE_OVERHEAD_BYTES = 16 * 1024
/** How long levels may take to come down, and stores to be rid of what was damaged. */
const SETTLE_MS = 20_000

function levelOf(pid: number): Level {
  const folder = `/proc/${pid}/fd`
  const targets = readdirSync(folder).map((name) => {
    try {
      return readlinkSync(join(folder, name))
    } catch {
      return ''
    }
  })
  const [, kilobytes = '0'] = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return {
    pid,
    descriptors: targets.length,
    sockets: targets.filter((target) => target.startsWith('socket:')).length,
    memoryBytes: Number(kilobytes) * 1024,
  }
}

function excess(now: Level, before: Level): string | undefined {
  if (now.descriptors > before.descriptors + MORE_DESCRIPTORS)
    return `${now.descriptors} descriptors, ${before.descriptors} before`
  if (now.sockets > before.sockets + MORE_SOCKETS) return `${now.sockets} sockets, ${before.sockets} before`
  if (now.memoryBytes > before.memoryBytes + MORE_MEMORY_BYTES) {
    return `${Math.round(now.memoryBytes / MiB)} MiB of memory, ${Math.round(before.memoryBytes / MiB)} before`
  }
  return undefined
}

/** Where the memory of a process is, for whoever has to find out why it is more. */
async function memoryParts(node: LabNode): Promise<string> {
  try {
    const [heap, external] = await Promise.all([
      node.metric('nodejs_heap_size_used_bytes'),
      node.metric('nodejs_external_memory_bytes'),
    ])
    return `${Math.round(heap / MiB)} in the heap, ${Math.round(external / MiB)} outside of it`
  } catch (error) {
    return (error as Error).message
  }
}

export class Invariants {
  readonly #cluster: ChaosCluster
  /** The level of each process after its first episode. */
  readonly #levels = new Map<string, Level>()

  constructor(cluster: ChaosCluster) {
    this.#cluster = cluster
  }

  /** What does not hold, in words. Nothing may be pulled meanwhile. */
  async violations(): Promise<string[]> {
    const { agents, daemons } = this.#cluster.lab
    // The origin is the test's own.
    const ours = daemons.filter((node) => node !== this.#cluster.lab.origin)
    const found = [...agents.map((agent) => this.#store(agent)), ...ours.map((node) => this.#level(node))]
    return (await Promise.all(found)).flatMap((violation) => violation ?? [])
  }

  async #store(agent: LabNode): Promise<string | undefined> {
    const look = async (): Promise<string | undefined> => {
      const report = await verifyStore(join(agent.folder, 'data/store'))
      if (report.damaged.length > 0) return `damaged in the store: ${report.damaged.join(', ')}`
      if (report.strays.length > 0) return `temporary files in the store: ${report.strays.join(', ')}`
      const bytes = report.blobBytes + report.partialBytes
      if (bytes > QUOTA_BYTES + report.partials * FILE_OVERHEAD_BYTES)
        return `the store takes ${bytes} of ${QUOTA_BYTES} bytes`
      const others = readdirSync(join(agent.folder, 'data')).filter((name) => /\.tmp$|\.probe$/.test(name))
      return others.length > 0 ? `temporary files: ${others.join(', ')}` : undefined
    }
    return this.#settled(agent, look)
  }

  async #level(node: LabNode): Promise<string | undefined> {
    // Agents collect their garbage at this signal (collecting-agent.ts); others would end.
    const isAgent = this.#cluster.lab.agents.some((agent) => agent === node)
    const look = (): string | undefined => {
      if (node.pid === undefined) return 'it does not run'
      const level = levelOf(node.pid)
      const before = this.#levels.get(node.name)
      if (before?.pid === level.pid) {
        const found = excess(level, before)
        // The next look sees what is left of it.
        if (found !== undefined && isAgent) process.kill(level.pid, 'SIGUSR2')
        return found
      }
      this.#levels.set(node.name, level)
      return undefined
    }
    const found = await this.#settled(node, look)
    return found === undefined || !isAgent ? found : `${found} (${await memoryParts(node)})`
  }

  /** What `look` still finds after some time. */
  async #settled(
    node: LabNode,
    look: () => Promise<string | undefined> | string | undefined,
  ): Promise<string | undefined> {
    let last: string | undefined
    try {
      await until(async () => (last = await look()) === undefined, {
        what: 'peace',
        deadlineMs: SETTLE_MS,
        everyMs: 500,
      })
      return undefined
    } catch (error) {
      if (!(error instanceof DeadlineError)) throw error
      return `${node.name}: ${last ?? error.message}`
    }
  }
}
