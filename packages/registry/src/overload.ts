// What an HTTP endpoint of a daemon does when there is more to do than it can: it says so at once, with 503 and a time to
// come back, instead of letting everybody wait and taking memory for each of them.
import { OciError } from '@shoal/oci'
import type { FastifyInstance } from 'fastify'

export interface OverloadLimits {
  /** Requests that may be under way at once: an answer may hold some MiB. @default 1000 */
  maxRequests: number
  /**
   * How late a timer of a second is, in milliseconds, above which nothing new is begun. A busy machine with
   * few cores reaches seconds in a rollout, and a refused layer costs docker 75 s: so this is for a hung one. @default 30000
   */
  maxEventLoopDelayMs: number
}

const LIMITS: OverloadLimits = { maxRequests: 1000, maxEventLoopDelayMs: 30_000 }
/** Clients come back after so long, and not all at once. */
const RETRY_MIN_S = 1
const RETRY_SPREAD_S = 5
/** How often it is looked how late the event loop is. Not with a histogram of Node's: that wakes an idle node 100 times a second. */
const SAMPLE_MS = 1000

/** Whoever asks whether the daemon is alive must not be told that it is not, and who watches it sees why it refuses. */
const ALWAYS_ANSWERED: ReadonlySet<string | undefined> = new Set(['/healthz', '/readyz', '/metrics'])

/** Adds the limits to a server whose routes are not registered yet. Probes of health and metrics have none. */
export function limitLoad(server: FastifyInstance, limits: Partial<OverloadLimits> = {}): void {
  const { maxRequests, maxEventLoopDelayMs } = { ...LIMITS, ...limits }
  const isLate = watchEventLoop(server, maxEventLoopDelayMs)
  let active = 0
  server.addHook('onRequest', (request, reply, next) => {
    // However the path is written, it is the route that counts.
    if (ALWAYS_ANSWERED.has(request.routeOptions.url)) return next()
    active++
    // Once for each answer, whether it was sent or the client has gone.
    reply.raw.once('close', () => active--)
    if (active > maxRequests) next(overloaded(`${maxRequests} requests are under way`))
    else next(isLate() ? overloaded('it is too busy') : undefined)
  })
}

/**
 * Tells whether the event loop is late. Not with @fastify/under-pressure: that reads the process's memory in a timer,
 * which throws, and ends the process, when no descriptor is left.
 */
function watchEventLoop(server: FastifyInstance, limitMs: number): () => boolean {
  let delayMs = 0
  let beforeMs = performance.now()
  const sample = setInterval(() => {
    const nowMs = performance.now()
    delayMs = nowMs - beforeMs - SAMPLE_MS
    beforeMs = nowMs
  }, SAMPLE_MS).unref()
  server.addHook('onClose', () => clearInterval(sample))
  return () => delayMs > limitMs
}

function overloaded(why: string): OciError {
  const retryAfter = RETRY_MIN_S + Math.floor(Math.random() * RETRY_SPREAD_S)
  return new OciError(
    'UNAVAILABLE',
    `this endpoint takes no more requests now (${why}): try again in ${retryAfter} s`,
    {
      status: 503,
      headers: { 'retry-after': String(retryAfter) },
    },
  )
}
