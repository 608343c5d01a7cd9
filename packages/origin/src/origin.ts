// Puts the embedded registry together: storage, /v2/ API, search, health and metrics on one port.
import { join } from 'node:path'
import type { AddressInfo } from 'node:net'
import type { Server } from 'node:tls'
import type { FastifyInstance } from 'fastify'
import {
  closeRegistryServer,
  createRegistryMetrics,
  createRegistryServer,
  registryPlugin,
  tokenEndpoint,
  type RegistryServer,
} from '@shoal/registry'
import type { Logger } from 'pino'
import { Registry } from 'prom-client'
import { Accounts, TOKEN_PATH } from './accounts/accounts.ts'
import { GuardedBackend } from './accounts/guarded-backend.ts'
import { HtpasswdFile } from './accounts/htpasswd.ts'
import { LoginLimit } from './accounts/login-limit.ts'
import { AccessRules, type AccessRule } from './accounts/rules.ts'
import { Tokens } from './accounts/tokens.ts'
import { OriginBackend } from './backend.ts'
import { DEFAULT_GRACE_MS } from './collection/retention.ts'
import { CollectionSchedule } from './collection/schedule.ts'
import { allowOrigins, originsOf } from './cors.ts'
import { Descriptions } from './descriptions.ts'
import { Hashers } from './hashing/hashers.ts'
import { Notifier, type NotificationSettings } from './notifications/notifier.ts'
import { Places, type PlaceSettings } from './places.ts'
import { Quotas, type QuotaSettings } from './quotas.ts'
import { Replicator } from './replication/replicator.ts'
import type { ReplicationRule } from './replication/rule.ts'
import { rankResults, searchPlugin } from './search.ts'
import { followTlsFiles, loadTlsFiles, type TlsFiles } from './tls-files.ts'
import { Usage } from './usage.ts'
import { usagePlugin } from './usage-plugin.ts'

export interface OriginOptions {
  /** Folder that holds everything that lies in no other place; made when missing. Only one process may have it open. */
  dataDirectory: string
  /** Other folders, and buckets, by a name for each. */
  places?: Record<string, PlaceSettings>
  /** Which of them holds what none claims. @default the data directory */
  defaultPlace?: string
  /** How much the repositories of a namespace may take together. @default no limit */
  quotas?: QuotaSettings[]
  /** How often what is stored is counted, in ms. @default 600000 */
  usageInterval?: number
  /** Address to listen on. @default '0.0.0.0' */
  host?: string
  /** Port to listen on; 0 takes a free one. @default 9000 */
  port?: number
  /** PEM file with the certificate and its chain, read again when it changes. Without it the registry speaks plain HTTP. */
  tlsCertFile?: string
  /** PEM file with the key of the certificate. */
  tlsKeyFile?: string
  /** An upload that nobody goes on with for this long is dropped, in ms. @default 86400000 */
  uploadExpiry?: number
  /** How often garbage is collected, in ms; 0: never. @default 86400000 */
  collectionInterval?: number
  /** What nobody needs or uses stays for this long, in ms. A push may take half of it. @default 86400000 */
  collectionGrace?: number
  /** Also collects manifests that no tag leads to. @default false */
  removeUntagged?: boolean
  /** A client that neither sends nor takes a byte for so many ms is cut off. @default 300000 */
  clientStall?: number
  /** Takes indexes of which some manifests were not pushed. @default false */
  allowSparseIndexes?: boolean
  /**
   * Accounts: a file as `htpasswd -B` writes it, read again when it changes. Without it everybody may do everything.
   */
  htpasswdFile?: string
  /** Who may do what, when there are accounts. @default who has logged in may do everything, others nothing */
  accessRules?: AccessRule[]
  /** Signing key of the tokens, made when missing. @default `token-key.json` in the data directory */
  tokenKeyFile?: string
  /** How many ms a token is good for. @default 300000 */
  tokenLifetime?: number
  /** `https://registry.example.com`, where clients find this registry. @default what each client calls it */
  publicUrl?: string
  /** Origins (`https://ui.example.com`) whose web pages may use this registry from a browser. @default none */
  corsOrigins?: string[]
  /** Who is told of pushes and deletes. @default nobody */
  notifications?: NotificationSettings[]
  /** Which other registries get copies of what is pushed. @default none */
  replication?: ReplicationRule[]
  /** How many ms running requests may go on after `close()`. @default 10000 */
  shutdownGrace?: number
}

export interface OriginDependencies {
  logger: Logger
  /** Where metrics are registered. @default a registry of its own */
  metrics?: Registry
}

/** A running registry. */
export interface Origin {
  /** `http://127.0.0.1:9000` */
  readonly url: string
  readonly port: number
  readonly metrics: Registry
  /** Lets running requests finish for a while, then ends them. Idempotent. */
  close(): Promise<void>
}

/** Starts the embedded registry; it takes requests when the promise resolves. */
export async function createOrigin(options: OriginOptions & OriginDependencies): Promise<Origin> {
  const { logger } = options
  const registry = options.metrics ?? new Registry()
  const metrics = createRegistryMetrics({
    registry,
    requestsName: 'shoal_registry_requests_total',
    bytesName: 'shoal_origin_bytes_sent_total',
    bytesReceivedName: 'shoal_origin_bytes_received_total',
    firstByteName: 'shoal_registry_first_byte_seconds',
  })
  const tlsFiles = tlsFilesOf(options)
  const tls = tlsFiles && (await loadTlsFiles(tlsFiles))
  const accounts = await openAccounts(options)
  const hashers = new Hashers(logger)
  const places = await Places.open({
    dataDirectory: options.dataDirectory,
    places: options.places,
    defaultPlace: options.defaultPlace,
    allowSparseIndexes: options.allowSparseIndexes ?? false,
    uploadExpiryMs: options.uploadExpiry ?? 86_400_000,
    graceMs: options.collectionGrace ?? DEFAULT_GRACE_MS,
    hashers,
    logger,
    onBytes: (count) => metrics.bytesReceived(count),
  }).catch(async (error: unknown) => {
    await hashers.close()
    throw error
  })
  const notifier = await openNotifier(options, registry).catch(async (error: unknown) => {
    await places.close()
    await hashers.close()
    throw error
  })
  const replicator = await openReplicator(options, places, registry).catch(async (error: unknown) => {
    await notifier?.close()
    await places.close()
    await hashers.close()
    throw error
  })
  const usage = new Usage({ places, logger, metrics: registry, everyMs: options.usageInterval ?? 600_000 })
  const quotas = new Quotas(options.quotas ?? [], usage)
  const collection = new CollectionSchedule({
    places,
    removeUntagged: options.removeUntagged ?? false,
    everyMs: options.collectionInterval ?? 86_400_000,
    file: join(options.dataDirectory, 'last-collection'),
    logger,
    metrics: registry,
  })
  const descriptions = new Descriptions(places)
  const open = new OriginBackend(places, {
    quotas,
    onChange: async (change) => {
      descriptions.forget(change.name)
      await Promise.all([notifier?.notify(change), replicator?.replicate(change)])
    },
  })
  const backend = accounts ? new GuardedBackend(open, accounts) : open

  const stallMs = options.clientStall ?? 300_000
  const webPages = { allowedOrigins: originsOf(options.corsOrigins ?? []) }
  const server = createRegistryServer({ logger, push: true, answerLimitMs: stallMs, webPages, ...(tls ? { tls } : {}) })
  let ready = false
  server.addHook('onRequest', (_request, reply, next) => {
    reply.header('x-shoal-origin', '1')
    next()
  })
  if (options.corsOrigins) await allowOrigins(server, options.corsOrigins)
  await server.register(registryPlugin, {
    backend,
    push: backend,
    hostInName: false,
    clientStallMs: stallMs,
    uploadStallMs: stallMs,
    metrics,
  })
  await server.register(searchPlugin, {
    hasAccounts: accounts !== undefined,
    search: async (term, asking) => {
      const names = await places.names()
      const visible = accounts ? names.filter(await accounts.listed(asking)) : names
      const described = await descriptions.of(visible)
      return rankResults(
        visible.map((name, at) => ({ name, description: described[at] ?? '' })),
        term,
      )
    },
  })
  await server.register(usagePlugin, { usage, accounts })
  if (accounts) {
    const issue = accounts.token.bind(accounts)
    await server.register(tokenEndpoint, { path: TOKEN_PATH, refreshTokens: 'refused', issue })
  }
  registerOperation(server, registry, () => ready)

  const unfollow = tlsFiles && followTlsFiles(server.server as unknown as Server, tlsFiles, logger)
  const stop = async (): Promise<void> => {
    ready = false
    unfollow?.()
    await closeRegistryServer(server, options.shutdownGrace ?? 10_000)
    await replicator?.close()
    await notifier?.close()
    await usage.close()
    await collection.close()
    await places.close()
    await hashers.close()
  }
  try {
    await server.listen({ host: options.host ?? '0.0.0.0', port: options.port ?? 9000 })
    await collection.start()
  } catch (error) {
    await stop()
    throw error
  }
  ready = true
  const { address, port } = server.server.address() as AddressInfo
  const host = address === '0.0.0.0' || address === '::' ? '127.0.0.1' : address
  const url = `${tls ? 'https' : 'http'}://${host.includes(':') ? `[${host}]` : host}:${port}`
  logger.info({ url, dataDirectory: options.dataDirectory }, 'registry is up')
  let closing: Promise<void> | undefined
  return { url, port, metrics: registry, close: () => (closing ??= stop()) }
}

function registerOperation(server: RegistryServer, metrics: Registry, isReady: () => boolean): void {
  const fastify = server as unknown as FastifyInstance
  fastify.get('/healthz', async () => ({ status: 'ok' }))
  fastify.get('/readyz', async (_request, reply) => {
    if (isReady()) return { status: 'ready' }
    return reply.code(503).send({ status: 'not ready' })
  })
  fastify.get('/metrics', async (_request, reply) => {
    return reply.header('content-type', metrics.contentType).send(await metrics.metrics())
  })
}

/** Undefined when nobody is to be told. */
async function openNotifier(
  { notifications = [], dataDirectory, publicUrl, logger }: OriginOptions & OriginDependencies,
  metrics: Registry,
): Promise<Notifier | undefined> {
  if (notifications.length === 0) return undefined
  return Notifier.open({
    endpoints: notifications,
    folder: join(dataDirectory, 'notifications'),
    publicUrl: publicUrl?.replace(/\/+$/, ''),
    logger,
    metrics,
  })
}

/** Undefined when nothing is to be copied. */
async function openReplicator(
  { replication = [], dataDirectory, logger }: OriginOptions & OriginDependencies,
  places: Places,
  metrics: Registry,
): Promise<Replicator | undefined> {
  if (replication.length === 0) return undefined
  return Replicator.open({ rules: replication, folder: join(dataDirectory, 'replication'), places, logger, metrics })
}

async function openAccounts(options: OriginOptions & OriginDependencies): Promise<Accounts | undefined> {
  const { htpasswdFile, dataDirectory } = options
  if (htpasswdFile === undefined) {
    if (options.accessRules) throw new TypeError('accessRules need accounts: set htpasswdFile')
    return undefined
  }
  const service = 'shoal-registry'
  return new Accounts({
    htpasswd: await HtpasswdFile.open(htpasswdFile, options.logger),
    rules: new AccessRules(options.accessRules),
    tokens: await Tokens.open({
      keyFile: options.tokenKeyFile ?? join(dataDirectory, 'token-key.json'),
      service,
      lifetimeMs: options.tokenLifetime ?? 300_000,
    }),
    loginLimit: new LoginLimit(),
    service,
    publicUrl: options.publicUrl?.replace(/\/+$/, ''),
  })
}

/** @throws TypeError when only one of the two is given */
function tlsFilesOf({ tlsCertFile, tlsKeyFile }: OriginOptions): TlsFiles | undefined {
  if (tlsCertFile === undefined && tlsKeyFile === undefined) return undefined
  if (tlsCertFile === undefined || tlsKeyFile === undefined) {
    throw new TypeError('tlsCertFile and tlsKeyFile go together: set both or none')
  }
  return { certFile: tlsCertFile, keyFile: tlsKeyFile }
}
