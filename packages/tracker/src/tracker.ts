// The tracker service: a libp2p node that agents talk to, the coordinator behind it, and its HTTP side.
import { join } from 'node:path'
import { createControlPlane, loadOrCreateIdentity, loadSwarmKeys, type ControlPlane } from '@shoal/network'
import { collectProcessMetrics, loadApiTokens, loadServerTls, type ApiTokens, type ServerTls } from '@shoal/registry'
import type { FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import { Registry } from 'prom-client'
import type { TrackerConfig } from './config.ts'
import { Coordinator } from './coordinator.ts'
import { createHttpApi } from './http-api.ts'
import { createTrackerMetrics } from './metrics.ts'
import { Preheats } from './preheats.ts'

/** Every agent of the largest clusters keeps one connection open. */
const MAX_CONNECTIONS = 20_000
/** After a restart a node tells of everything that it has, which may be twenty thousand blobs. */
const INBOUND = { ratePerSecond: 3000, burst: 12_000, floodAfterMs: 10_000 }

export interface TrackerOptions {
  logger: Logger
  /** Told on the status page. @default 0.0.0 */
  version?: string
}

/** What of the HTTP side comes from files. */
interface HttpAccess {
  tokens: ApiTokens | undefined
  tls: ServerTls | undefined
}

/** A tracker. What it knows of swarms is in memory only: agents tell it again whenever they connect. */
export class Tracker {
  readonly #config: TrackerConfig
  readonly #control: ControlPlane
  readonly #coordinator: Coordinator
  readonly #preheats: Preheats
  readonly #http: FastifyInstance
  readonly #logger: Logger
  #ready = false

  constructor(
    config: TrackerConfig,
    control: ControlPlane,
    registry: Registry,
    access: HttpAccess,
    options: TrackerOptions,
  ) {
    this.#config = config
    this.#control = control
    this.#logger = options.logger
    const metrics = createTrackerMetrics(registry, {
      swarms: () => this.#coordinator.swarms.size,
      nodes: () => control.channels().length,
      members: () => {
        let members = 0
        for (const swarm of this.#coordinator.swarms) members += swarm.members.size
        return members
      },
    })
    this.#coordinator = new Coordinator({
      originConcurrency: config.originConcurrency,
      leaseIdleMs: config.leaseIdle,
      tagTtlMs: config.tagTtl,
      logger: options.logger,
      metrics,
    })
    const agents = () => control.channels().filter(({ hello }) => hello.node.transfer !== '')
    this.#preheats = new Preheats({ agents, logger: options.logger })
    this.#http = createHttpApi({
      coordinator: this.#coordinator,
      preheats: this.#preheats,
      control,
      registry,
      version: options.version ?? '0.0.0',
      logger: options.logger,
      isReady: () => this.#ready,
      readsNeedToken: config.httpReadsNeedToken,
      ...access,
    })
    control.onChannel = (channel) => {
      channel.onMessage = (message) => {
        if (message.type === 'preheat-report') this.#preheats.report(channel.peerId, message)
        else this.#coordinator.receive(channel, message)
      }
      this.#preheats.connected(channel, performance.now())
      channel.closed
        .then(() => this.#coordinator.left(channel))
        .catch((error: unknown) => this.#logger.error({ err: error }, 'a node was not cleared away'))
    }
  }

  get peerId(): string {
    return this.#control.peerId
  }

  /** @throws when a port is taken */
  async start(): Promise<void> {
    await this.#control.start()
    await this.#http.listen({ host: this.#config.httpHost, port: this.#config.httpPort })
    this.#ready = true
    const { peerId, multiaddrs } = this.#control.address
    this.#logger.info({ peerId, multiaddrs, http: this.#http.addresses() }, 'tracker is up')
  }

  async close(): Promise<void> {
    this.#ready = false
    this.#preheats.close()
    this.#coordinator.close()
    await this.#http.close()
    await this.#control.stop()
  }
}

/** Makes a tracker that is not started yet. @throws for key files that cannot be used */
export async function createTracker(config: TrackerConfig, options: TrackerOptions): Promise<Tracker> {
  const registry = new Registry()
  collectProcessMetrics(registry)
  const [advertiseHost] = config.announceAddresses
  const control = await createControlPlane({
    identity: await loadOrCreateIdentity(join(config.dataDirectory, 'identity.key'), options.logger),
    swarmKeys: await loadSwarmKeys(config.swarmKeyFiles),
    agent: `shoal-tracker/${options.version ?? '0.0.0'}`,
    logger: options.logger,
    host: config.p2pHost,
    port: config.p2pPort,
    bootstrap: config.bootstrapPeers,
    maxConnections: MAX_CONNECTIONS,
    inbound: INBOUND,
    metrics: registry,
    ...(advertiseHost === undefined ? {} : { advertiseHost }),
  })
  const { httpTokenFile, httpTlsCertFile: certFile, httpTlsKeyFile: keyFile } = config
  const access = {
    tokens: httpTokenFile === undefined ? undefined : await loadApiTokens(httpTokenFile),
    tls: certFile === undefined || keyFile === undefined ? undefined : await loadServerTls({ certFile, keyFile }),
  }
  return new Tracker(config, control, registry, access, options)
}
