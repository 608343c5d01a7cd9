// The HTTP side of a daemon beside /v2/: health, readiness and metrics for probes, and an API below /api/ that a token
// or a client certificate protects.
import { fastify, LogController, type FastifyInstance, type FastifySchemaValidationError } from 'fastify'
import type { Logger } from 'pino'
import type { Registry } from 'prom-client'
import { protectApi, type ApiProtection, type ServerTls } from './api-access.ts'
import { limitLoad, type OverloadLimits } from './overload.ts'
import {
  ANSWER_LIMIT_MS,
  boundAnswers,
  destroyConnections,
  HEADERS_TIMEOUT_MS,
  headerTimeouts,
  noteConnections,
} from './slow-clients.ts'
import { refuseWebPages } from './web-pages.ts'

/** Parts of the daemons' configuration schemas are schemas of requests, too, with all that is noted in them. */
const ANNOTATIONS = ['unit', 'mustBe', 'secret', 'section']
/** People and their tools use it, not nodes; an answer may hold some MiB. */
const MAX_REQUESTS = 100

export interface ApiServerOptions {
  logger: Logger
  /** Metrics of the daemon. */
  registry: Registry
  /** Serves HTTPS. @default plain HTTP */
  tls?: ServerTls | undefined
  protection: ApiProtection
  /** Whether the daemon does its work; told at `/readyz`. */
  isReady: () => boolean
  /** When requests are answered 503 instead of being begun. @default 100 requests at once */
  overload?: Partial<OverloadLimits>
  /** How long a connection may take to say what it wants, and a request to arrive. @default 60000 */
  headersTimeoutMs?: number
  /** How long a client may take for an answer that is no stream. @default 300000 */
  answerLimitMs?: number
}

/** Builds the server; the caller adds what is below `/api/`, listens and closes. */
export function createApiServer(options: ApiServerOptions): FastifyInstance {
  const { registry, tls, headersTimeoutMs = HEADERS_TIMEOUT_MS } = options
  const common = {
    loggerInstance: options.logger,
    logController: new LogController({ disableRequestLogging: true }),
    forceCloseConnections: true,
    requestTimeout: headersTimeoutMs,
    // A request means what it says: a misspelt key is a mistake, not to be dropped, and what is left out stays.
    schemaErrorFormatter: invalidPart,
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false, keywords: ANNOTATIONS } },
  }
  const http = headerTimeouts(headersTimeoutMs)
  const server = (tls === undefined
    ? fastify({ ...common, http })
    : fastify({ ...common, https: { ...http, ...tls, minVersion: 'TLSv1.2' } })) as unknown as FastifyInstance
  noteConnections(server.server)
  // forceCloseConnections leaves TLS handshakes, and closing would wait for them.
  server.addHook('preClose', (done) => {
    destroyConnections(server.server)
    done()
  })
  // Before it is looked who asks: guesses at tokens are requests, too.
  limitLoad(server, { maxRequests: MAX_REQUESTS, ...options.overload })
  boundAnswers(server, options.answerLimitMs ?? ANSWER_LIMIT_MS)
  refuseWebPages(server, { localNamesOnly: tls === undefined && options.protection.needsToken === 'nothing' })
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

/** As Fastify words it, but for a key that nobody knows: its name is what helps. */
function invalidPart([first]: FastifySchemaValidationError[], part: string): Error {
  const { instancePath = '', message = 'is wrong', params = {} } = first ?? {}
  const { additionalProperty } = params
  const why =
    typeof additionalProperty === 'string' ? `has an unknown key: ${JSON.stringify(additionalProperty)}` : message
  return new Error(`${part}${instancePath} ${why}`)
}
