// What a registry endpoint does when there is more to do than it can: it says so at once, with 503 and a time to come
// back, instead of letting everybody wait and taking memory for each of them.
import underPressure from '@fastify/under-pressure'
import { OciError } from '@shoal/oci'
import type { FastifyInstance } from 'fastify'

export interface OverloadLimits {
  /** Requests that may be under way at once: an answer may hold some MiB. @default 1000 */
  maxRequests: number
  /**
   * The event loop's delay in milliseconds, as the mean of a second, above which nothing new is begun. A busy machine with
   * few cores reaches seconds in a rollout, and a refused layer costs docker 75 s: so this is for a hung one. @default 30000
   */
  maxEventLoopDelayMs: number
}

const LIMITS: OverloadLimits = { maxRequests: 1000, maxEventLoopDelayMs: 30_000 }
/** Clients come back after so long, and not all at once. */
const RETRY_MIN_S = 1
const RETRY_SPREAD_S = 5

/** Adds the limits to a server whose routes are not registered yet. */
export function limitLoad(server: FastifyInstance, limits: Partial<OverloadLimits> = {}): void {
  const { maxRequests, maxEventLoopDelayMs } = { ...LIMITS, ...limits }
  let active = 0
  // Whoever asks whether the server is alive must not be told that it is not.
  const isBounded = (url: string): boolean => url.startsWith('/v2/')
  server.addHook('onRequest', (request, reply, next) => {
    active++
    // Once for each answer, whether it was sent or the client has gone.
    reply.raw.once('close', () => active--)
    if (active > maxRequests && isBounded(request.url)) next(overloaded(`${maxRequests} requests are under way`))
    else next()
  })
  server.register(underPressure, {
    maxEventLoopDelay: maxEventLoopDelayMs,
    pressureHandler: ({ url }) => (isBounded(url) ? Promise.reject(overloaded('it is too busy')) : undefined),
  })
}

function overloaded(why: string): OciError {
  const retryAfter = RETRY_MIN_S + Math.floor(Math.random() * RETRY_SPREAD_S)
  return new OciError('UNAVAILABLE', `the registry takes no more requests now (${why}): try again in ${retryAfter} s`, {
    status: 503,
    headers: { 'retry-after': String(retryAfter) },
  })
}
