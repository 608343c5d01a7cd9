// The cluster that chaos runs against: a lab whose agents have disks, clocks and names of their own, and a supervisor
// that starts again what ends by itself, as systemd or a kubelet would.
import { globSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { MiB } from '../support/images.ts'
import type { Fault } from '../support/faulty-origin.ts'
import { until } from '../support/until.ts'
import { Lab, type LabAgent } from '../lab/lab.ts'
import type { LabNode } from '../lab/node.ts'
import { FAULTY_TLS_PORT } from '../lab/origins.ts'
import { cleanStaleRuns } from '../lab/runs.ts'
import { makeOriginCertificates } from './certificates.ts'
import { AgentDisk } from './disk.ts'

const ORIGIN_NAME = 'origin.lab'
/** The registry's name in images. */
export const REGISTRY = `${ORIGIN_NAME}:${FAULTY_TLS_PORT}`
/** Nobody has this address: a name server that never answers. */
const DEAD_NAME_SERVER = '10.77.255.254'
export const LINK_BITS = 25e6

export const QUOTA_BYTES = 40 * MiB
const DISK_BYTES = 72 * MiB
/** Both bounds are shorter than by default, so that a run sees many of them. */
const MANIFEST_TIMEOUT_MS = 5000
const BLOB_TIMEOUT_MS = 8000
/** A client that hears nothing for so long has met a pull that hangs: the agent's bound, and what a busy machine adds. */
export const SILENCE_LIMIT_MS = MANIFEST_TIMEOUT_MS + BLOB_TIMEOUT_MS + 5000

/** A daemon ended that nobody had told to. */
export interface UnexpectedEnd {
  node: string
  lastLines: string
}

export class ChaosCluster {
  readonly lab: Lab
  readonly unexpectedEnds: UnexpectedEnd[] = []
  readonly #disks: AgentDisk[]
  readonly #imports = new Map<string, Set<string>>()
  /** How many faults hold a node down. */
  readonly #held = new Map<LabNode, number>()
  readonly #wanted = new Map<string, Fault>()
  readonly #pids = new Set<number>()
  #supervisor: NodeJS.Timeout | undefined
  #toldFaults = ''
  #telling: Promise<void> = Promise.resolve()

  constructor(agents: number) {
    cleanStaleRuns()
    const [clock] = globSync('/usr/lib/*/faketime/libfaketimeMT.so.1')
    if (clock === undefined) throw new Error('libfaketime is not installed: scripts/install-test-tools')
    const certificates = mkdtempSync(join(tmpdir(), 'shoal-certificates-'))
    makeOriginCertificates(certificates, ORIGIN_NAME)
    this.lab = new Lab({
      agents,
      clients: 0,
      originKind: 'faulty',
      originCertificates: certificates,
      rate: `${LINK_BITS}bit`,
      originRate: `${2 * LINK_BITS}bit`,
      agentConfig: () => ({
        registries: { [REGISTRY]: { caFile: join(certificates, 'ca.pem') } },
        storeQuota: QUOTA_BYTES,
        manifestTimeout: `${MANIFEST_TIMEOUT_MS}ms`,
        blobTimeout: `${BLOB_TIMEOUT_MS}ms`,
        shutdownGrace: '1s',
      }),
      agentPreload: () => join(import.meta.dirname, 'collecting-agent.ts'),
      wrap: (name, folder) => this.#wrap(name, folder, clock),
    })
    this.lab.run.atEnd(() => rmSync(certificates, { recursive: true, force: true }))
    this.#disks = this.lab.agents.map((agent) => new AgentDisk(join(agent.folder, 'data'), DISK_BYTES))
    for (const { folder } of [...this.lab.agents, this.tracker]) {
      this.setClock(folder, 0)
      this.resolveNames(folder, true)
      writeFileSync(join(folder, 'resolv'), `nameserver ${DEAD_NAME_SERVER}\n`)
    }
  }

  async start(): Promise<void> {
    await this.lab.start()
    for (const { pid } of this.lab.daemons) if (pid !== undefined) this.#pids.add(pid)
    this.#supervisor = setInterval(() => this.#supervise(), 250).unref()
  }

  get tracker(): LabNode {
    if (this.lab.tracker === undefined) throw new Error('this lab has no tracker')
    return this.lab.tracker
  }

  disk({ index }: LabAgent): AgentDisk {
    const disk = this.#disks[index]
    if (disk === undefined) throw new RangeError(`agent ${index} has no disk`)
    return disk
  }

  /** Names of its own, and a clock that is set through a file, for one process. */
  #wrap(name: string, folder: string, clock: string): string[] {
    const mounts = 'mount --bind "$0" /etc/hosts && mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
    const options = [...(this.#imports.get(name) ?? [])].map((module) => `--import=${module}`)
    return [
      ...['unshare', '--mount', '--propagation', 'slave', 'sh', '-c', mounts],
      ...[join(folder, 'hosts'), join(folder, 'resolv'), 'env', `LD_PRELOAD=${clock}`],
      ...[`FAKETIME_TIMESTAMP_FILE=${join(folder, 'clock')}`, 'FAKETIME_CACHE_DURATION=1'],
      'FAKETIME_DONT_FAKE_MONOTONIC=1',
      ...(options.length > 0 ? [`NODE_OPTIONS=${options.join(' ')}`] : []),
    ]
  }

  /** Steps the clock of the daemon in that folder, within a second. Monotonic time goes on. */
  setClock(folder: string, offsetSeconds: number): void {
    writeFileSync(join(folder, 'clock'), `${offsetSeconds < 0 ? '' : '+'}${offsetSeconds}s\n`)
  }

  /** Whether the daemon in that folder finds the origin by its name; if not, its name server does not answer. */
  resolveNames(folder: string, resolving: boolean): void {
    const origin = resolving ? `${this.lab?.origin.address ?? ''} ${ORIGIN_NAME}\n` : ''
    writeFileSync(join(folder, 'hosts'), `127.0.0.1 localhost\n${origin}`)
  }

  /** Restarts a node as one that imports a module before anything else, or no longer does. */
  async restartWith(node: LabNode, module: string, imported: boolean): Promise<void> {
    await this.putDown(node)
    const modules = this.#imports.get(node.name) ?? new Set()
    this.#imports.set(node.name, modules)
    if (imported) modules.add(module)
    else modules.delete(module)
    this.letUp(node)
  }

  /** Kills a node and keeps it down until it is let up as often as it was put down. */
  async putDown(node: LabNode): Promise<void> {
    this.#held.set(node, (this.#held.get(node) ?? 0) + 1)
    await node.kill()
  }

  letUp(node: LabNode): void {
    this.#held.set(node, Math.max(0, (this.#held.get(node) ?? 0) - 1))
    this.#launch(node)
  }

  #launch(node: LabNode): void {
    if ((this.#held.get(node) ?? 0) > 0 || node.running) return
    node.launch()
    if (node.pid !== undefined) this.#pids.add(node.pid)
  }

  #supervise(): void {
    for (const node of this.lab.daemons) {
      if (node.running || (this.#held.get(node) ?? 0) > 0) continue
      this.unexpectedEnds.push({ node: node.name, lastLines: node.logTail(6) })
      this.#launch(node)
    }
  }

  /** What the origin does wrong from now on, also after a restart; undefined: no longer. */
  setOriginFault(name: string, fault: Fault | undefined): void {
    if (fault === undefined) this.#wanted.delete(name)
    else this.#wanted.set(name, fault)
    this.tellOrigin()
  }

  /** An origin that is down or frozen is told as soon as it answers again. */
  tellOrigin(anew = false): void {
    if (anew) this.#toldFaults = ''
    const tell = async (): Promise<boolean> => {
      const faults = [...this.#wanted.values()]
      const text = JSON.stringify(faults)
      if (text !== this.#toldFaults) await this.lab.faulty.misbehave(faults)
      this.#toldFaults = text
      return true
    }
    this.#telling = this.#telling.then(() =>
      until(tell, { what: 'origin that takes orders', deadlineMs: 60_000 }).then(() => {}),
    )
    this.#telling.catch(() => {})
  }

  /** Settles when the origin knows what it is to do. */
  originTold(): Promise<void> {
    return this.#telling
  }

  close(): void {
    clearInterval(this.#supervisor)
    this.lab.close()
    // libfaketime leaves these behind when its process is killed.
    for (const pid of this.#pids) {
      for (const name of [`faketime_shm_${pid}`, `sem.faketime_sem_${pid}`]) rmSync(`/dev/shm/${name}`, { force: true })
    }
  }
}
