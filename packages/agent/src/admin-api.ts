// The agent's admin side: health, metrics, status and pulls on behalf of an operator.
import { PassThrough } from 'node:stream'
import { fastify, LogController, type FastifyInstance } from 'fastify'
import type { ControlPlane } from '@shoal/network'
import type { Store } from '@shoal/store'
import type { Swarm } from '@shoal/swarm'
import type { Logger } from 'pino'
import type { Registry } from 'prom-client'
import { Type } from 'typebox'
import type { Content } from './content.ts'
import { pullImage, type PullEvent } from './image-pull.ts'
import type { TagResolver } from './tag-resolver.ts'

export interface AdminApiOptions {
  content: Content
  tags: TagResolver
  store: Store
  swarm: Swarm
  control: ControlPlane
  registry: Registry
  version: string
  zone: string
  logger: Logger
  isReady: () => boolean
}

/** Builds the server; the caller listens and closes. */
export function createAdminApi(options: AdminApiOptions): FastifyInstance {
  const { registry, store, swarm, control } = options
  const startedMs = performance.now()
  const server = fastify({
    loggerInstance: options.logger,
    logController: new LogController({ disableRequestLogging: true }),
    forceCloseConnections: true,
    // A request means what it says: a misspelt key is a mistake, not to be dropped.
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false } },
  }) as unknown as FastifyInstance
  server.get('/healthz', () => ({ status: 'ok' }))
  server.get('/readyz', async (_request, reply) => {
    const ready = options.isReady()
    return await reply.code(ready ? 200 : 503).send({ status: ready ? 'ready' : 'not ready' })
  })
  server.get('/metrics', async (_request, reply) => {
    return await reply.type(registry.contentType).send(await registry.metrics())
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
  return server
}

/** JSON has no Infinity: a store without a quota has the quota 0. */
function finite<T extends { quotaBytes: number }>(usage: T): T {
  return Number.isFinite(usage.quotaBytes) ? usage : { ...usage, quotaBytes: 0 }
}
