// What every handler of this room needs of one request, gathered once.
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Logger } from 'pino'
import type { PullBackend, PushBackend, RequestContext } from './backend.ts'
import type { RegistryMetrics } from './metrics.ts'
import type { RegistryPathKind } from './path.ts'

/** Settings that the handlers look at, with defaults filled in. */
export interface RegistrySettings {
  backend: PullBackend
  push: PushBackend | undefined
  hostInName: boolean
  headerGraceMs: number
  clientStallMs: number
  uploadStallMs: number
  maxPageSize: number
  metrics: RegistryMetrics | undefined
}

/** One request on its way through. */
export interface Call {
  readonly request: FastifyRequest
  readonly reply: FastifyReply
  readonly context: RequestContext
  readonly settings: RegistrySettings
}

export function createContext(request: FastifyRequest, reply: FastifyReply): RequestContext {
  const { headers } = request.raw
  let controller: AbortController | undefined
  return {
    requestId: request.id,
    namespace: queryText(request, 'ns'),
    authorization: headers.authorization,
    userAgent: headers['user-agent'],
    get remoteAddress() {
      return request.ip
    },
    get endpoint() {
      return endpointOf(request)
    },
    log: request.log as Logger,
    // Made when somebody looks at it: most requests are answered from memory and need none.
    get signal() {
      if (!controller) {
        const made = new AbortController()
        controller = made
        const response = reply.raw
        if (response.destroyed && !response.writableFinished) made.abort(new ClientGoneError())
        else {
          response.once('close', () => {
            if (!response.writableFinished) made.abort(new ClientGoneError())
          })
        }
      }
      return controller.signal
    },
  }
}

/** Scheme and host of a request, when the Host header is a host and nothing else. */
export function endpointOf(request: FastifyRequest): string | undefined {
  const { host } = request.headers
  if (host === undefined || !/^[A-Za-z0-9._:[\]-]{1,260}$/.test(host)) return undefined
  const endpoint = `${request.protocol}://${host}`
  return URL.canParse(endpoint) ? endpoint : undefined
}

/** The client closed the connection before it had its answer. */
export class ClientGoneError extends Error {
  override readonly name = 'ClientGoneError'

  constructor() {
    super('the client has gone')
  }
}

/** A query parameter; the first of several of the same name. */
export function queryText(request: FastifyRequest, name: string): string | undefined {
  const value = (request.query as Record<string, string | string[] | undefined>)[name]
  const first = Array.isArray(value) ? value[0] : value
  return first === '' ? undefined : first
}

/** All values of a query parameter. */
export function queryTexts(request: FastifyRequest, name: string): string[] {
  const value = (request.query as Record<string, string | string[] | undefined>)[name]
  return value === undefined ? [] : Array.isArray(value) ? value : [value]
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Which endpoint of the registry API is asked, for metrics and logs. */
    registryRoute: RegistryPathKind | undefined
  }
}
