// The lab: a cluster of real processes, each in a network namespace of its own with its own rate, that a test or a
// person can roll images out to, cut, slow, freeze, kill and restart. Everything goes when it is closed.
import { copyFileSync, globSync, mkdirSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { buildImage, type ImageSpec } from '../support/image-spec.ts'
import { MiB, type Image, type Index } from '../support/images.ts'
import { shoalCommand, writeConfig, writeSwarmKey, type Config } from '../support/shoal.ts'
import { LabNetwork, parseRate, type Link, type LinkCounters, type Shaping } from './network.ts'
import { LabNode } from './node.ts'
import { FaultyOrigin, makeOrigin, type Origin, type OriginKind } from './origins.ts'
import type { PullResult } from './pull-client.ts'
import { cleanStaleRuns, Run } from './runs.ts'

export interface LabOptions {
  /** @default 2 */
  agents?: number
  /** Rate of every link, the origin's too, each way; none: unlimited. */
  rate?: string
  /** Rate of the origin's link, if different. */
  originRate?: string
  /** One way. Needs netem in the kernel. @default 0 */
  delayMs?: number
  /** @default true */
  tracker?: boolean
  /** @default 'docker-registry' */
  originKind?: OriginKind
  /** Size of the layer that an origin of kind `generated` has. */
  generatedLayerBytes?: number
  /** Nodes without any daemon, to download or to attack from. @default 1 */
  clients?: number
  /** Further keys of an agent's configuration. */
  agentConfig?: (index: number, originHost: string) => Config
  trackerConfig?: Config
  /** A module that this agent's process imports before anything else: how an agent is made to misbehave. */
  agentPreload?: (index: number) => string | undefined
  /** Folder with the certificates of an origin of kind `faulty`; see FaultyOrigin. */
  originCertificates?: string
  /** Put before the command line of the tracker and of every agent, asked anew at each start. */
  wrap?: (name: string, folder: string) => readonly string[]
  /** How long a node may take to be ready. @default 60000 */
  readyLimitMs?: number
}

export interface PushedImage {
  repository: string
  tag: string
  digest: string
  content: Image | Index
  /** Bytes of config and layers and manifest that a pull on this machine needs. */
  totalBytes: number
}

interface AgentOptions {
  link: Link
  folder: string
  config: Config
  readyLimitMs: number
  preload: string | undefined
  wrap: () => readonly string[]
}

export class LabAgent extends LabNode {
  /** Number of the agent, from 0. */
  readonly index: number
  readonly #origin: Origin

  constructor(index: number, origin: Origin, { link, folder, config, readyLimitMs, preload, wrap }: AgentOptions) {
    const file = writeConfig(join(folder, 'agent.yaml'), { dataDirectory: join(folder, 'data'), ...config })
    super({
      link,
      folder,
      command: () => [
        ...wrap(),
        ...(preload === undefined ? [] : ['env', `NODE_OPTIONS=--import=${preload}`]),
        ...shoalCommand('agent', '--config', file),
      ],
      readyUrl: 'http://127.0.0.1:7703/readyz',
      metricsUrl: 'http://127.0.0.1:7703/metrics',
      readyLimitMs,
    })
    this.index = index
    this.#origin = origin
  }

  /** Pulls as containerd would: through the mirror endpoint, the registry named in `ns`. */
  pull(
    image: PushedImage,
    options: { byDigest?: boolean; idleLimitMs?: number; limitMs?: number; onProgress?: (bytes: number) => void } = {},
  ): Promise<PullResult> {
    return this.probe.pull(
      {
        endpoint: 'http://127.0.0.1:7700',
        namespace: this.#origin.host,
        repository: image.repository,
        reference: options.byDigest ? image.digest : image.tag,
        ...(options.idleLimitMs === undefined ? {} : { idleLimitMs: options.idleLimitMs }),
        ...(options.limitMs === undefined ? {} : { limitMs: options.limitMs }),
      },
      options.onProgress,
    )
  }

  /** Bytes of chunks received from peers or from origins. */
  received(source: 'peer' | 'origin'): Promise<number> {
    return this.metric('shoal_chunk_bytes_received_total', { source })
  }

  sent(): Promise<number> {
    return this.metric('shoal_chunk_bytes_sent_total')
  }
}

export class Lab {
  readonly network: LabNetwork
  readonly run: Run
  readonly origin: Origin
  readonly tracker: LabNode | undefined
  readonly agents: LabAgent[] = []
  readonly clients: LabNode[] = []
  readonly swarmKeyFile: string

  constructor(options: LabOptions) {
    const { agents = 2, tracker = true, clients = 1, originKind = 'docker-registry', readyLimitMs = 60_000 } = options
    const wrap = options.wrap ?? (() => [])
    this.run = new Run()
    this.network = new LabNetwork(this.run.prefix)
    this.swarmKeyFile = writeSwarmKey(join(this.run.folder, 'swarm.key'))
    const shaping: Shaping = {
      rateBits: options.rate === undefined ? undefined : parseRate(options.rate),
      delayMs: options.delayMs,
    }
    const originRate = options.originRate ?? options.rate
    const originLink = this.network.add('origin', {
      ...shaping,
      rateBits: originRate === undefined ? undefined : parseRate(originRate),
    })
    this.origin = makeOrigin(originKind, originLink, this.run.directory('origin'), {
      layerBytes: options.generatedLayerBytes,
      certificates: options.originCertificates,
    })
    this.run.atEnd(() => this.origin.close())

    if (tracker) {
      const link = this.network.add('tracker', shaping)
      const folder = this.run.directory('tracker')
      const config = writeConfig(join(folder, 'tracker.yaml'), {
        dataDirectory: join(folder, 'data'),
        swarmKeyFiles: [this.swarmKeyFile],
        ...options.trackerConfig,
      })
      this.tracker = new LabNode({
        link,
        folder,
        command: () => [...wrap('tracker', folder), ...shoalCommand('tracker', '--config', config)],
        readyUrl: 'http://127.0.0.1:7711/readyz',
        metricsUrl: 'http://127.0.0.1:7711/metrics',
      })
      this.run.atEnd(() => this.tracker?.close())
    }
    const links = Array.from({ length: agents }, (_, i) => this.network.add(`a${i + 1}`, shaping))
    // Without a tracker two of the agents are known to all, so that one of them may be away.
    const known = tracker ? [] : links.slice(0, 2)
    for (const [i, link] of links.entries()) {
      const folder = this.run.directory(link.name)
      const agent = new LabAgent(i, this.origin, {
        link,
        folder,
        wrap: () => wrap(link.name, folder),
        config: {
          swarmKeyFiles: [this.swarmKeyFile],
          trackers: this.tracker ? [`${this.tracker.address}:7710`] : [],
          bootstrapPeers: known.filter((other) => other !== link).map((other) => `${other.address}:7701`),
          registries: { [this.origin.host]: { plainHttp: true } },
          ...options.agentConfig?.(i, this.origin.host),
        },
        readyLimitMs,
        preload: options.agentPreload?.(i),
      })
      this.run.atEnd(() => agent.close())
      this.agents.push(agent)
    }
    for (let i = 0; i < clients; i++) {
      const link = this.network.add(`c${i + 1}`, shaping)
      const client = new LabNode({ link, folder: this.run.directory(link.name) })
      this.run.atEnd(() => client.close())
      this.clients.push(client)
    }
  }

  /** Starts everything and waits until all are ready. */
  async start(): Promise<void> {
    await this.origin.start()
    await this.tracker?.start()
    // Not all at once: starting costs a processor more than running does.
    const queue = [...this.agents]
    const worker = async (): Promise<void> => {
      for (let agent = queue.shift(); agent; agent = queue.shift()) await agent.start()
    }
    const [first] = queue
    if (this.tracker === undefined && first) await (queue.shift() ?? first).start()
    await Promise.all([worker(), worker(), worker(), worker()])
    await Promise.all(this.clients.map((client) => client.probe.ready))
  }

  /** The agent by its number, from 0. */
  agent(index: number): LabAgent {
    const agent = this.agents[index]
    if (agent === undefined) throw new RangeError(`no agent ${index}: there are ${this.agents.length}`)
    return agent
  }

  client(index = 0): LabNode {
    const client = this.clients[index]
    if (client === undefined) throw new RangeError(`no client ${index}: there are ${this.clients.length}`)
    return client
  }

  /** The origin that misbehaves on command. */
  get faulty(): FaultyOrigin {
    if (this.origin instanceof FaultyOrigin) return this.origin
    throw new Error("this lab's origin does not misbehave: originKind: 'faulty'")
  }

  /** Every daemon of the lab. */
  get daemons(): LabNode[] {
    return [this.origin, ...(this.tracker ? [this.tracker] : []), ...this.agents]
  }

  /** Makes an image and puts it into the origin, over the origin's own loopback. */
  async push(repository: string, tag: string, spec: ImageSpec): Promise<PushedImage> {
    const content = buildImage(spec)
    const digest = await this.origin.probe.push(`http://127.0.0.1:${this.origin.port}`, repository, tag, spec)
    if (digest !== content.digest) throw new Error(`pushed ${digest}, made ${content.digest}`)
    const single = 'images' in content ? content.images[0] : content
    const index = 'images' in content ? content.manifest.length : 0
    return { repository, tag, digest, content, totalBytes: (single?.totalBytes ?? 0) + index }
  }

  /** An image of raw layers, 128 MiB in one if nothing is said. */
  pushImage(options: { name?: string; seed?: string; layers?: number[] } = {}): Promise<PushedImage> {
    const { name = 'app', layers = [128 * MiB] } = options
    const seed = options.seed ?? name
    return this.push(`lab/${name}`, 'v1', { kind: 'raw', seed, layerBytes: layers })
  }

  /** One download from the origin over the same links, with no swarm about: what all ratios are to. */
  straightDownload(image: PushedImage, from: LabNode = this.client()): Promise<PullResult> {
    return from.probe.pull({
      endpoint: `http://${this.origin.host}`,
      repository: image.repository,
      reference: image.tag,
    })
  }

  counters(): Map<string, LinkCounters> {
    return this.network.counters()
  }

  /** The last lines of everybody's log. */
  report(lines = 12): string {
    const tails = this.daemons.map((node) => ({ name: node.name, tail: node.logTail(lines) }))
    return tails.flatMap(({ name, tail }) => (tail === '' ? [] : [`--- ${name}\n${tail}`])).join('\n')
  }

  /** Copies all logs and configurations out of the run's folder, which goes when the lab is closed. */
  saveLogs(name: string): string {
    const target = resolve(import.meta.dirname, '../../.reports', `lab-${name.replace(/[^a-zA-Z0-9]+/g, '-')}`)
    rmSync(target, { recursive: true, force: true })
    mkdirSync(target, { recursive: true })
    for (const file of globSync(['*/log', '*/*.{log,yaml,yml}', '*/*/*.{log,conf,json}'], { cwd: this.run.folder })) {
      if (!file.includes('/data/')) copyFileSync(join(this.run.folder, file), join(target, file.replaceAll('/', '.')))
    }
    return target
  }

  close(): void {
    this.run.close()
  }
}

/** A running lab. Close it. */
export async function createLab(options: LabOptions = {}): Promise<Lab> {
  cleanStaleRuns()
  const lab = new Lab(options)
  try {
    await lab.start()
    return lab
  } catch (error) {
    process.stderr.write(`${lab.report(30)}\n`)
    lab.close()
    throw error
  }
}

/**
 * Runs `work` with a lab and closes it whatever happens. When it fails, the logs are kept in .reports/.
 *
 * @param name - for the logs
 */
export async function withLab<T>(name: string, options: LabOptions, work: (lab: Lab) => Promise<T>): Promise<T> {
  const lab = await createLab(options)
  try {
    return await work(lab)
  } catch (error) {
    try {
      process.stderr.write(`${lab.report()}\nlogs: ${lab.saveLogs(name)}\n`)
    } catch (failure) {
      process.stderr.write(`logs could not be kept: ${String(failure)}\n`)
    }
    throw error
  } finally {
    lab.close()
  }
}
