// What web pages may do to an endpoint through the browser of somebody who reaches it. Container runtimes and tools send no
// `Origin`, and reach a loopback endpoint by its address: nothing here concerns them.
import { isIP } from 'node:net'
import { hostname } from 'node:os'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { OciError } from '@shoal/oci'

export interface WebPageRules {
  /** Origins of pages that may write, as browsers write them. @default none but the endpoint's own */
  allowedOrigins?: readonly string[]
  /**
   * Whether a request must name this machine in `Host`. For endpoints that trust whoever reaches them because only this machine
   * does: a page whose name is made to resolve to 127.0.0.1 (DNS rebinding) would be such a one. @default false
   */
  localNamesOnly?: boolean
}

const WRITES: ReadonlySet<string> = new Set(['POST', 'PUT', 'PATCH', 'DELETE'])

/** Refuses what pages of others ask, before anything else looks at it. */
export function refuseWebPages(server: FastifyInstance, rules: WebPageRules): void {
  const allowed = new Set(rules.allowedOrigins ?? [])
  server.addHook('onRequest', (request, _reply, next) => {
    if (rules.localNamesOnly === true && !isLocalName(request.headers.host)) {
      return next(refusal('this endpoint is for this machine alone: ask for it by its address, or as localhost'))
    }
    if (isForeignWrite(request, allowed)) return next(refusal('pages of other origins may not write here'))
    next()
  })
}

/** Browsers send `Origin` with everything that is no GET or HEAD, simple forms included. */
function isForeignWrite({ method, headers }: FastifyRequest, allowed: ReadonlySet<string>): boolean {
  const { origin, host } = headers
  if (origin === undefined || !WRITES.has(method) || allowed.has(origin)) return false
  // Behind a proxy that speaks TLS the scheme is another one, the host is not.
  return !URL.canParse(origin) || new URL(origin).host !== host
}

/** Whether a `Host` header can only mean this machine. Addresses cannot be rebound; names with a dot are somebody's. */
export function isLocalName(host: string | undefined): boolean {
  // HTTP/1.0 has none, and no browser speaks that.
  if (host === undefined) return true
  const url = `http://${host}`
  if (!URL.canParse(url)) return false
  const name = new URL(url).hostname.replace(/^\[(.*)\]$/, '$1')
  if (isIP(name) !== 0 || !name.includes('.')) return true
  return name.endsWith('.localhost') || name === 'localhost.localdomain' || name === hostname().toLowerCase()
}

function refusal(why: string): OciError {
  return new OciError('DENIED', why, { status: 403 })
}
