// The daemon on every node: composes store, upstream, network and swarm behind the mirror endpoint and the admin API.
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import {
  createControlPlane,
  createTransferPlane,
  loadOrCreateIdentity,
  loadSwarmKeys,
  verifySignature,
  type ControlPlane,
  type TransferPlane,
} from '@shoal/network'
import {
  collectProcessMetrics,
  closeRegistryServer,
  createRegistryMetrics,
  createRegistryServer,
  loadApiTokens,
  loadServerTls,
  registryPlugin,
  tokenEndpoint,
  type RegistryServer,
  type ServerTls,
} from '@shoal/registry'
import { openStore, type Store } from '@shoal/store'
import { createUploads, RateLimits, Swarm, type SwarmParameters } from '@shoal/swarm'
import { createUpstream, type Upstream } from '@shoal/upstream'
import type { FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import { Registry } from 'prom-client'
import { Access } from './access.ts'
import { createAdminApi } from './admin-api.ts'
import { asksForLogins, ClientLogins, onlyLoginRegistry, TOKEN_PATH } from './client-logins.ts'
import type { AgentConfig } from './config.ts'
import { Content } from './content.ts'
import { exposureMistakes } from './exposure.ts'
import { pullImage } from './image-pull.ts'
import { Lookahead } from './lookahead.ts'
import { MirrorBackend } from './mirror-backend.ts'
import type { Naming } from './names.ts'
import { Pins } from './pins.ts'
import { Preheater, type PullWish } from './preheater.ts'
import { AgentPushBackend } from './push-backend.ts'
import { TagRecords } from './tag-records.ts'
import { TagResolver } from './tag-resolver.ts'

export interface AgentOptions {
  logger: Logger
  /** Told on the status page and to peers. @default 0.0.0 */
  version?: string
}

interface AgentParts {
  config: AgentConfig
  logger: Logger
  store: Store
  upstream: Upstream
  control: ControlPlane
  transfer: TransferPlane
  swarm: Swarm
  mirror: RegistryServer
  admin: FastifyInstance
  preheater: Preheater
  lookahead: Lookahead
  /** Where pushes are taken. */
  push: AgentPushBackend | undefined
}

/** The agent of a node. */
export class Agent {
  readonly #parts: AgentParts
  readonly #ready: { value: boolean }

  constructor(parts: AgentParts, ready: { value: boolean }) {
    this.#parts = parts
    this.#ready = ready
  }

  get peerId(): string {
    return this.#parts.control.peerId
  }

  /** Where it listens, once it has started. */
  get urls(): { mirror: string; admin: string } {
    const { mirror, admin } = this.#parts
    const { mirrorTlsCertFile, adminTlsCertFile } = this.#parts.config
    return { mirror: urlOf(mirror, mirrorTlsCertFile), admin: urlOf(admin, adminTlsCertFile) }
  }

  /** Starts all parts; on return the mirror endpoint answers. @throws when a port is taken */
  async start(): Promise<void> {
    const { config, control, transfer, swarm, mirror, admin, logger } = this.#parts
    await transfer.start()
    await control.start()
    swarm.start()
    await admin.listen({ host: config.adminHost, port: config.adminPort })
    await mirror.listen({ host: config.mirrorHost, port: config.mirrorPort })
    this.#ready.value = true
    const { peerId, multiaddrs } = control.address
    logger.info(
      { peerId, multiaddrs, transferPort: transfer.port, mirror: mirror.addresses(), admin: admin.addresses() },
      'agent is up',
    )
  }

  /** Lets running downloads finish for up to `shutdownGrace`, then closes everything in reverse order. */
  async close(): Promise<void> {
    const { config, control, transfer, swarm, mirror, admin, store, upstream, logger } = this.#parts
    this.#ready.value = false
    this.#parts.preheater.close()
    this.#parts.lookahead.close()
    // From here on the mirror takes no new connection; answers that are under way go on.
    const mirrorClosed = closeRegistryServer(mirror, config.shutdownGrace)
    await swarm.idle(AbortSignal.timeout(config.shutdownGrace))
    await swarm.stop()
    await mirrorClosed
    await this.#parts.push?.close()
    await admin.close()
    await control.stop()
    await transfer.stop()
    await upstream.close()
    await store.close()
    logger.info('agent has stopped')
  }
}

/** Makes an agent that is not started yet. @throws for key files or a store that cannot be used */
export async function createAgent(config: AgentConfig, options: AgentOptions): Promise<Agent> {
  const { logger } = options
  const version = options.version ?? '0.0.0'
  const [mistake] = exposureMistakes(config)
  if (mistake !== undefined) throw new RangeError(`${mistake.key} ${mistake.message}`)
  const adminTokens = config.adminTokenFile === undefined ? undefined : await loadApiTokens(config.adminTokenFile)
  const adminTls = await tlsOf(config.adminTlsCertFile, config.adminTlsKeyFile, config.adminTlsClientCaFile)
  const mirrorTls = await tlsOf(config.mirrorTlsCertFile, config.mirrorTlsKeyFile, config.mirrorTlsClientCaFile)
  const registry = new Registry()
  collectProcessMetrics(registry)
  await mkdir(config.dataDirectory, { recursive: true })
  const identity = await loadOrCreateIdentity(join(config.dataDirectory, 'identity.key'), logger)
  const swarmKeys = await loadSwarmKeys(config.swarmKeyFiles)
  const store = await openStore({
    directory: join(config.dataDirectory, 'store'),
    logger,
    metrics: registry,
    ...(config.storeQuota > 0 ? { quotaBytes: config.storeQuota } : {}),
    ...(config.containerdContentDirectory === undefined
      ? {}
      : { containerdContentDirectory: config.containerdContentDirectory }),
  })
  const upstream = createUpstream({
    registries: config.registries,
    allowRegistries: config.allowRegistries,
    denyRegistries: config.denyRegistries,
    allowPrivateAddresses: config.allowPrivateAddresses,
    concurrency: config.originConcurrency,
    ...(config.dockerConfigFile === undefined ? {} : { dockerConfigFile: config.dockerConfigFile }),
    logger,
    metrics: registry,
  })

  const [advertiseHost] = config.announceAddresses
  const parameters = swarmParameters(config)
  const limits = new RateLimits(config)
  const { uploads, metrics } = createUploads(store, registry, parameters, limits)
  const transfer = createTransferPlane({
    identity,
    swarmKeys,
    host: config.transferHost,
    port: config.transferPort,
    handler: uploads.handle,
    isBanned: (peerId) => control.isBanned(peerId),
    onOffence: (peerId, offence, why) => control.offend(peerId, offence, why),
    logger,
    metrics: registry,
  })
  const control: ControlPlane = await createControlPlane({
    identity,
    swarmKeys,
    agent: `shoal-agent/${version}`,
    zone: config.zone,
    host: config.p2pHost,
    port: config.p2pPort,
    transferPort: () => transfer.port,
    bootstrap: [...config.trackers, ...config.bootstrapPeers],
    logger,
    metrics: registry,
    ...(advertiseHost === undefined ? {} : { advertiseHost }),
  })
  const swarm: Swarm = new Swarm({
    store,
    control,
    transfer,
    uploads,
    limits,
    metrics,
    parameters,
    timings: { noProgressTimeoutMs: config.blobTimeout, stallTimeoutMs: config.stallTimeout },
    verify: verifySignature,
    trackers: config.trackers,
    knownTag: (reference) => tags.known(reference),
    onOrder: (channel, message) => {
      if (message.type === 'preheat-cancel') preheater.cancel(message.preheatId)
      else preheater.order(message, (report) => channel.send(report))
    },
    logger,
  })
  const tags: TagResolver = new TagResolver({
    upstream,
    swarm,
    records: new TagRecords(store.records('references'), logger),
    ttlMs: config.tagCacheTtl,
    manifestTimeoutMs: config.manifestTimeout,
    logger,
  })
  const content = new Content({ store, swarm, upstream, logger })

  const pins = new Pins(store)
  await pins.letGoOfOrphans().catch((error: unknown) => {
    logger.warn({ err: error }, 'what no pinned image names any more could not be unpinned')
  })
  const pull = (wish: PullWish) => pullImage({ content, tags, ...wish })
  const preheater: Preheater = new Preheater({ pins, pull, logger })
  const access = new Access({
    tags,
    registries: config.registries,
    ttlMs: config.accessTtl,
    outageTtlMs: config.accessOutageTtl,
    timeoutMs: config.manifestTimeout,
    sized: (digest, sizeBytes) => content.sized(digest, sizeBytes),
  })

  const lookahead = new Lookahead({ content, limitBytes: config.lookahead, registry, logger })
  const naming: Naming = {
    defaultRegistry: config.defaultRegistry,
    isNamed: (registry) => upstream.isNamed(registry),
  }
  const logins = new ClientLogins({
    ...{ upstream, naming },
    loginRegistry: onlyLoginRegistry(config),
    needed: asksForLogins(config),
    timeoutMs: config.manifestTimeout,
  })

  const push = config.allowPush
    ? await AgentPushBackend.create({
        ...{ store, swarm, upstream, access, logins, naming, tags, logger },
        directory: join(config.dataDirectory, 'pushes'),
        spoolBytes: config.storeQuota > 0 ? config.storeQuota : Infinity,
      })
    : undefined
  const mirror = createRegistryServer({
    logger,
    push: push !== undefined,
    answerLimitMs: config.clientStall,
    webPages: { localNamesOnly: mirrorTls === undefined },
    ...(mirrorTls === undefined ? {} : { tls: mirrorTls }),
  })
  await mirror.register(registryPlugin, {
    backend: new MirrorBackend({
      ...{ content, access, logins, lookahead, upstream, naming },
      manifestTimeoutMs: config.manifestTimeout,
    }),
    ...(push === undefined ? {} : { push }),
    clientStallMs: config.clientStall,
    uploadStallMs: config.clientStall,
    metrics: createRegistryMetrics({
      registry,
      requestsName: 'shoal_mirror_requests_total',
      bytesName: 'shoal_mirror_bytes_served_total',
      firstByteName: 'shoal_mirror_first_byte_seconds',
    }),
  })
  await mirror.register(tokenEndpoint, {
    path: TOKEN_PATH,
    refreshTokens: 'ignored',
    issue: (request) => logins.token(request),
  })
  const ready = { value: false }
  const admin = createAdminApi({
    content,
    tags,
    store,
    swarm,
    control,
    uploads,
    upstream,
    pins,
    pull,
    registry,
    version,
    zone: config.zone,
    logger,
    isReady: () => ready.value,
    tokens: adminTokens,
    tls: adminTls,
  })
  return new Agent(
    { config, logger, store, upstream, control, transfer, swarm, mirror, admin, preheater, lookahead, push },
    ready,
  )
}

function urlOf({ server }: Pick<FastifyInstance, 'server'>, certFile: string | undefined): string {
  const at = server.address()
  if (at === null || typeof at === 'string') throw new Error('the agent has not been started')
  const scheme = certFile === undefined ? 'http' : 'https'
  return `${scheme}://${at.family === 'IPv6' ? `[${at.address}]` : at.address}:${at.port}`
}

async function tlsOf(
  certFile: string | undefined,
  keyFile: string | undefined,
  clientCaFile: string | undefined,
): Promise<ServerTls | undefined> {
  if (certFile === undefined || keyFile === undefined) return undefined
  return await loadServerTls({ certFile, keyFile, clientCaFile })
}

/** Settings that change the policy; 0 leaves a number to its default. */
function swarmParameters(config: AgentConfig): Partial<SwarmParameters> {
  const parameters: Partial<SwarmParameters> = {
    neighbours: config.maxNeighbours,
    acceptedNeighbours: config.maxNeighbours + 2,
  }
  if (config.uploadSlots > 0) parameters.uploadSlots = config.uploadSlots
  if (config.downloadSlots > 0) parameters.pipeline = config.downloadSlots
  return parameters
}
