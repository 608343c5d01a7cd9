// The HTTP side of a daemon beside /v2/: health, readiness and metrics for probes, and an API below /api/ that a token
// or a client certificate protects.
import { fastify, LogController, type FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import type { Registry } from 'prom-client'
import { protectApi, type ApiProtection, type ServerTls } from './api-access.ts'

/** Parts of the daemons' configuration schemas are schemas of requests, too, with all that is noted in them. */
const ANNOTATIONS = ['unit', 'mustBe', 'secret', 'section']

export interface ApiServerOptions {
  logger: Logger
  /** Metrics of the daemon. */
  registry: Registry
  /** Serves HTTPS. @default plain HTTP */
  tls?: ServerTls | undefined
  protection: ApiProtection
  /** Whether the daemon does its work; told at `/readyz`. */
  isReady: () => boolean
}

/** Builds the server; the caller adds what is below `/api/`, listens and closes. */
export function createApiServer(options: ApiServerOptions): FastifyInstance {
  const { registry, tls } = options
  const common = {
    loggerInstance: options.logger,
    logController: new LogController({ disableRequestLogging: true }),
    forceCloseConnections: true,
    // A request means what it says: a misspelt key is a mistake, not to be dropped, and what is left out stays.
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false, keywords: ANNOTATIONS } },
  }
  const server = (tls === undefined
    ? fastify(common)
    : fastify({ ...common, https: { ...tls, minVersion: 'TLSv1.2' } })) as unknown as FastifyInstance
  protectApi(server, options.protection)
  server.get('/healthz', () => ({ status: 'ok' }))
  server.get('/readyz', async (_request, reply) => {
    const ready = options.isReady()
    return await reply.code(ready ? 200 : 503).send({ status: ready ? 'ready' : 'not ready' })
  })
  server.get('/metrics', async (_request, reply) => {
    return await reply.type(registry.contentType).send(await registry.metrics())
  })
  return server
}
