// The agent's admin side: health, metrics, status and pulls on behalf of an operator.
import { PassThrough } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import type { ControlPlane } from '@shoal/network'
import { createApiServer, type ApiTokens, type ServerTls } from '@shoal/registry'
import type { Store } from '@shoal/store'
import type { Swarm, Uploads } from '@shoal/swarm'
import type { Upstream } from '@shoal/upstream'
import type { Logger } from 'pino'
import type { Registry } from 'prom-client'
import { Type } from 'typebox'
import type { Content } from './content.ts'
import { pullImage, type PullEvent } from './image-pull.ts'
import { addLimitsApi } from './limits-api.ts'
import type { TagResolver } from './tag-resolver.ts'

export interface AdminApiOptions {
  content: Content
  tags: TagResolver
  store: Store
  swarm: Swarm
  control: ControlPlane
  uploads: Uploads
  upstream: Upstream
  registry: Registry
  version: string
  zone: string
  logger: Logger
  isReady: () => boolean
  /** Asked for below `/api/`; undefined where the address or client certificates keep others out. */
  tokens: ApiTokens | undefined
  tls: ServerTls | undefined
}

/** Builds the server; the caller listens and closes. */
export function createAdminApi(options: AdminApiOptions): FastifyInstance {
  const { store, swarm, control } = options
  const startedMs = performance.now()
  const server = createApiServer({
    logger: options.logger,
    registry: options.registry,
    tls: options.tls,
    isReady: options.isReady,
    protection: {
      tokens: options.tokens,
      needsToken: options.tokens === undefined ? 'nothing' : 'all',
      advice: 'set adminTokenFile',
    },
  })
  server.get('/api/v1/status', () => ({
    version: options.version,
    peerId: control.peerId,
    zone: options.zone,
    address: control.address,
    uptimeMs: Math.round(performance.now() - startedMs),
    peersConnected: control.channels().length,
    routingTableSize: control.routingTableSize(),
    trackers: swarm.trackers.status(),
    store: finite(store.usage()),
    rates: swarm.limits.rates,
    downloads: swarm.downloads().map((download) => download.progress()),
    banned: swarm.banned().map(([peerId, reason]) => ({ peerId, reason })),
  }))
  server.post(
    '/api/v1/pulls',
    {
      schema: {
        body: Type.Object(
          {
            image: Type.String({ minLength: 1, maxLength: 1024 }),
            platform: Type.Optional(Type.String({ maxLength: 128 })),
          },
          { additionalProperties: false },
        ),
      },
    },
    (request, reply) => {
      const { image, platform } = request.body as { image: string; platform?: string }
      const stream = new PassThrough()
      const abort = new AbortController()
      reply.raw.once('close', () => abort.abort())
      const emit = (event: PullEvent): void => {
        if (stream.writable) stream.write(`${JSON.stringify(event)}\n`)
      }
      const { content, tags } = options
      pullImage({ content, tags, image, platform, requestId: request.id, signal: abort.signal, emit })
        .catch((error: unknown) => request.log.error({ err: error }, 'a pull has ended in an unforeseen way'))
        .finally(() => stream.end())
      return reply.type('application/x-ndjson').send(stream)
    },
  )
  addLimitsApi(server, { limits: swarm.limits, uploads: options.uploads, upstream: options.upstream })
  return server
}

/** JSON has no Infinity: a store without a quota has the quota 0. */
function finite<T extends { quotaBytes: number }>(usage: T): T {
  return Number.isFinite(usage.quotaBytes) ? usage : { ...usage, quotaBytes: 0 }
}
