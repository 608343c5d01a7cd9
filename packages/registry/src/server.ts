// The Fastify instance under a registry endpoint, with the settings that real clients need (docker, containerd,
// podman: idle connections of 30 s, uploads of hours, TLS handshakes on a plain port).
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, Server } from 'node:http'
import type { Socket } from 'node:net'
import { fastify, LogController, type FastifyInstance } from 'fastify'
import { OciError, ociErrorBody } from '@shoal/oci'
import type { Logger } from 'pino'
import type { ServerTls } from './api-access.ts'
import { sendError } from './errors.ts'
import { limitLoad, type OverloadLimits } from './overload.ts'
import { requestLog } from './request-log.ts'
import {
  ANSWER_LIMIT_MS,
  boundAnswers,
  destroyAfterGrace,
  destroyConnections,
  HEADERS_TIMEOUT_MS,
  headerTimeouts,
  noteConnections,
} from './slow-clients.ts'
import { refuseWebPages, type WebPageRules } from './web-pages.ts'

export interface RegistryServerOptions {
  logger: Logger
  /** Whether bodies come in: uploads may take hours, so nothing limits the time of a whole request then. */
  push?: boolean
  /** How long an idle connection is kept. containerd keeps its own for 30 s. @default 75000 */
  keepAliveTimeoutMs?: number
  /** How long a connection may take to say what it wants; then it is closed. @default 60000 */
  headersTimeoutMs?: number
  /** How long a client may take for an answer that is no blob; then it is cut off. @default 300000 */
  answerLimitMs?: number
  /** Serves HTTPS. PEM texts. */
  tls?: ServerTls
  /** How long the rest of a body that nobody wants is read before the connection is closed. @default 10000 */
  leftoverBodyMs?: number
  /** When requests are answered 503 instead of being begun. */
  overload?: Partial<OverloadLimits>
  /** What pages in somebody's browser may do. */
  webPages?: WebPageRules
}

/** A registry server: Fastify over HTTP or HTTPS. */
export type RegistryServer = FastifyInstance<Server, IncomingMessage>

/** Bytes that a response holds before it asks the backend to wait: two of the buffers that blobs come in. */
const RESPONSE_BUFFER_BYTES = 2 * 1024 * 1024
const REQUEST_ID_PATTERN = /^[\w.:-]{1,128}$/

/** Makes the server; routes are registered by the caller, with parsers of their own, who also listens and closes. */
export function createRegistryServer(options: RegistryServerOptions): RegistryServer {
  const { logger } = options
  const common = {
    loggerInstance: logger,
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'requestId' }),
    childLoggerFactory: requestLog,
    genReqId: (request: { headers: IncomingMessage['headers'] }) => requestIdOf(request.headers['x-request-id']),
    keepAliveTimeout: options.keepAliveTimeoutMs ?? 75_000,
    requestTimeout: options.push ? 0 : 300_000,
    forceCloseConnections: 'idle' as const,
    // Requests on connections that are still open get their answer, with Connection: close.
    return503OnClosing: false,
    bodyLimit: 1024 * 1024,
    routerOptions: { maxParamLength: 8192 },
    frameworkErrors: (error: Error, request: Parameters<typeof sendError>[0], reply: Parameters<typeof sendError>[1]) =>
      sendError(request, reply, error).catch((cause: unknown) => logger.debug({ err: cause }, 'answer not sent')),
    clientErrorHandler: (error: NodeJS.ErrnoException, socket: Socket) => refuseBrokenRequest(error, socket, logger),
  }
  const timeouts = headerTimeouts(options.headersTimeoutMs ?? HEADERS_TIMEOUT_MS)
  const http = { highWaterMark: RESPONSE_BUFFER_BYTES, noDelay: true, ...timeouts }
  const server = (options.tls
    ? fastify({ ...common, https: { ...http, ...options.tls, minVersion: 'TLSv1.2' } })
    : fastify({ ...common, http })) as unknown as RegistryServer

  noteConnections(server.server)
  // Fastify's own would read a body before a path that is not there is answered, and with pushes nothing limits how long.
  server.removeAllContentTypeParsers()
  server.addContentTypeParser('*', (_request, _payload, parsed) => parsed(null))
  server.addHook('onRequest', (request, reply, next) => {
    reply.header('x-request-id', request.id)
    next()
  })
  limitLoad(server, options.overload)
  refuseWebPages(server, options.webPages ?? {})
  boundAnswers(server, options.answerLimitMs ?? ANSWER_LIMIT_MS)
  server.addHook('onResponse', (request, reply, next) => {
    boundLeftoverBody(request.raw, options.leftoverBodyMs ?? 10_000)
    const { statusCode } = reply.raw
    const level = statusCode >= 500 ? 'warn' : 'debug'
    request.log[level](
      { method: request.method, url: request.url, status: statusCode, ms: Math.round(reply.elapsedTime) },
      'request',
    )
    next()
  })
  server.setNotFoundHandler((request, reply) =>
    sendError(request, reply, new OciError('NAME_UNKNOWN', 'there is nothing at this path', { status: 404 })),
  )
  server.setErrorHandler((error, request, reply) => sendError(request, reply, error))
  return server
}

/**
 * Takes no new connections, lets running requests finish within `graceMs`, and ends those that have not. Connections
 * that fall idle meanwhile are closed, whatever the client thinks of keeping them.
 */
export async function closeRegistryServer(server: RegistryServer, graceMs: number): Promise<void> {
  const closed = server.close()
  const idle = setInterval(() => server.server.closeIdleConnections(), 50)
  const last = setTimeout(() => destroyConnections(server.server), graceMs)
  try {
    await closed
  } finally {
    clearInterval(idle)
    clearTimeout(last)
  }
}

function requestIdOf(header: string | string[] | undefined): string {
  return typeof header === 'string' && REQUEST_ID_PATTERN.test(header) ? header : randomUUID()
}

/**
 * What is no HTTP gets a short answer and is closed. TLS handshakes on the plain port are everyday: podman and docker
 * try TLS first (facts of the clients), so none of this is an error of ours.
 */
function refuseBrokenRequest(error: NodeJS.ErrnoException, socket: Socket, logger: Logger): void {
  // Before the handshake nothing can be said.
  if (error.code === 'ECONNRESET' || error.code === 'ERR_TLS_HANDSHAKE_TIMEOUT' || !socket.writable) {
    socket.destroy()
    return
  }
  logger.debug({ code: error.code, remote: socket.remoteAddress }, 'not an HTTP request')
  const [status, text] =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? [431, 'the headers are too large']
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? [408, 'the request did not arrive in time']
        : [400, 'this is not an HTTP request']
  const body = JSON.stringify(ociErrorBody(new OciError('UNSUPPORTED', text, { status })))
  destroyAfterGrace(socket)
  socket.end(
    `HTTP/1.1 ${status} ${status === 400 ? 'Bad Request' : 'Refused'}\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  )
}

/**
 * Node reads and throws away what is left of a body after the answer, so that the client gets to see the answer instead
 * of a reset. That is fine for a while, but not for a body without an end.
 */
function boundLeftoverBody(request: IncomingMessage, graceMs: number): void {
  if (request.complete || request.destroyed) return
  const { socket } = request
  const timer = setTimeout(() => {
    if (!request.complete) socket.destroy()
  }, graceMs)
  timer.unref()
  request.once('close', () => clearTimeout(timer))
}
