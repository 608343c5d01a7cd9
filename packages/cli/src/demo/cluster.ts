// A small cluster of real processes on 127.0.0.1: the embedded registry, a tracker, agents. Everything it makes is in one
// temporary folder and goes with it.
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { newKeyCommand } from '../commands/key.ts'
import { freePorts } from './ports.ts'
import { Processes, type ManagedProcess } from './processes.ts'

export interface DemoAgent {
  name: string
  mirrorPort: number
  adminPort: number
}

const PORTS_OF_AGENT = 4

export class DemoCluster {
  readonly directory: string
  readonly processes: Processes
  readonly agents: DemoAgent[] = []
  registryPort = 0
  trackerHttpPort = 0

  private constructor(directory: string, command: readonly string[] | undefined) {
    this.directory = directory
    this.processes = new Processes(directory, command)
  }

  /**
   * Makes the folder; nothing runs yet.
   * @param command - arguments of node that run `shoal`. @default this same command
   */
  static async create(command?: readonly string[]): Promise<DemoCluster> {
    return new DemoCluster(await mkdtemp(join(tmpdir(), 'shoal-demo-')), command)
  }

  get registryUrl(): string {
    return `http://127.0.0.1:${this.registryPort}`
  }

  /** Starts everything and waits until each part says that it is ready. */
  async start(agentCount: number, signal: AbortSignal): Promise<void> {
    const ports = await freePorts(3 + PORTS_OF_AGENT * agentCount)
    const [registryPort = 0, trackerPort = 0, trackerHttpPort = 0] = ports
    Object.assign(this, { registryPort, trackerHttpPort })
    const swarmKeyFile = join(this.directory, 'swarm.key')
    await newKeyCommand({ out: swarmKeyFile }, { out: () => {}, err: () => {} })

    const registry = await this.#daemon('registry', 'registry', { host: '127.0.0.1', port: registryPort })
    const tracker = await this.#daemon('tracker', 'tracker', {
      swarmKeyFiles: [swarmKeyFile],
      p2pHost: '127.0.0.1',
      p2pPort: trackerPort,
      httpHost: '127.0.0.1',
      httpPort: trackerHttpPort,
      announceAddresses: ['127.0.0.1'],
    })
    await Promise.all([
      this.processes.ready(registry, `${this.registryUrl}/readyz`, signal),
      this.processes.ready(tracker, `http://127.0.0.1:${trackerHttpPort}/readyz`, signal),
    ])

    await Promise.all(
      Array.from({ length: agentCount }, async (_, index) => {
        const name = `agent-${index + 1}`
        const [mirrorPort = 0, p2pPort = 0, transferPort = 0, adminPort = 0] = ports.slice(3 + index * PORTS_OF_AGENT)
        const agent = await this.#daemon('agent', name, {
          swarmKeyFiles: [swarmKeyFile],
          mirrorPort,
          p2pHost: '127.0.0.1',
          p2pPort,
          transferHost: '127.0.0.1',
          transferPort,
          adminPort,
          announceAddresses: ['127.0.0.1'],
          trackers: [`127.0.0.1:${trackerPort}`],
          // docker cannot write a registry with a port behind the agent's address, so the demo's registry is the default.
          defaultRegistry: `127.0.0.1:${registryPort}`,
          registries: { [`127.0.0.1:${registryPort}`]: { plainHttp: true } },
        })
        this.agents[index] = { name, mirrorPort, adminPort }
        await this.processes.ready(agent, `http://127.0.0.1:${adminPort}/readyz`, signal)
      }),
    )
  }

  async #daemon(kind: string, name: string, keys: Record<string, unknown>): Promise<ManagedProcess> {
    const dataDirectory = join(this.directory, name)
    await mkdir(dataDirectory, { mode: 0o700 })
    const file = join(this.directory, `${name}.yaml`)
    await writeFile(file, stringify({ dataDirectory, ...keys }), { mode: 0o600 })
    return this.processes.start(name, [kind, '--config', file])
  }

  async close(): Promise<void> {
    await this.processes.close()
    await rm(this.directory, { recursive: true, force: true, maxRetries: 3 })
  }
}
