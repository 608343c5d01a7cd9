// When to try again: backoff with full jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015), Retry-After as far
// as it is worth waiting for.
import { setTimeout as delay } from 'node:timers/promises'
import type { Limits } from './options.ts'
import { UpstreamError } from './upstream.ts'

/** Socket errors that the next connection may not have. TLS errors and unknown names do not go away by themselves. */
const TRANSIENT_CODES = new Set([
  'ECONNRESET',
  'ECONNREFUSED',
  'ECONNABORTED',
  'EPIPE',
  'ENETUNREACH',
  'EHOSTUNREACH',
  'EAI_AGAIN',
  'UND_ERR_SOCKET',
])
const TRANSIENT_STATUSES = new Set([500, 502, 503, 504, 520, 521, 522, 523, 524])

/** Errors that were tried again already, deeper down: once is enough. */
const exhausted = new WeakSet<UpstreamError>()

export interface RetryContext {
  limits: Limits
  random: () => number
  signal: AbortSignal
  /** Told before each wait. */
  onRetry?: (error: UpstreamError, attempt: number, waitMs: number) => void
}

/**
 * Runs `attempt` until it succeeds, fails for good, or the tries are used up. Aborting ends a wait with the reason; the end
 * of the time that there is, with the error after which it was waited: that tells more.
 */
export async function withRetries<T>(context: RetryContext, attempt: () => Promise<T>): Promise<T> {
  const { limits, signal } = context
  for (let number = 0; ; number++) {
    signal.throwIfAborted()
    try {
      return await attempt()
    } catch (error) {
      if (!(error instanceof UpstreamError) || exhausted.has(error) || !isTransient(error)) throw error
      if (number >= limits.retries || waitsTooLong(error, limits)) {
        exhausted.add(error)
        throw error
      }
      await pauseBeforeRetry(context, error, number)
    }
  }
}

/** Waits before try `number` + 1. @throws the error when the server asks for a longer wait than is worth it */
export async function pauseBeforeRetry(context: RetryContext, error: UpstreamError, number: number): Promise<void> {
  const { limits, random, signal, onRetry } = context
  if (waitsTooLong(error, limits)) throw error
  const ceiling = Math.min(limits.retryMaxDelayMs, limits.retryBaseDelayMs * 2 ** number)
  // After what the server asked for, some jitter too: all nodes of a cluster were told the same.
  const waitMs = (error.retryAfterMs ?? 0) + random() * ceiling
  onRetry?.(error, number + 1, waitMs)
  await delay(waitMs, undefined, { signal }).catch(() => {
    if (!isTimeout(signal)) return signal.throwIfAborted()
    exhausted.add(error)
    throw error
  })
}

function waitsTooLong({ retryAfterMs }: UpstreamError, limits: Limits): boolean {
  return retryAfterMs !== undefined && retryAfterMs > limits.maxRetryAfterMs
}

function isTimeout({ reason }: AbortSignal): boolean {
  return reason instanceof DOMException && reason.name === 'TimeoutError'
}

function isTransient(error: UpstreamError): boolean {
  if (error.code === 'RATE_LIMITED') return true
  if (error.code === 'SERVER_ERROR') return error.status !== undefined && TRANSIENT_STATUSES.has(error.status)
  if (error.code !== 'UNREACHABLE') return false
  const { code } = (error.cause ?? {}) as { code?: unknown }
  return typeof code === 'string' && TRANSIENT_CODES.has(code)
}

/** Reads Retry-After: seconds, or a date (RFC 9110 section 10.2.3). Undefined when there is none or it makes no sense. */
export function parseRetryAfter(header: string | undefined, nowMs: number): number | undefined {
  const text = header?.trim() ?? ''
  if (/^[0-9]{1,10}$/.test(text)) return Number(text) * 1000
  // Date.parse takes nearly anything; an HTTP date begins with the day of the week.
  if (!/^[A-Z][a-z]{2,8},? /.test(text)) return undefined
  const date = Date.parse(text)
  return Number.isNaN(date) ? undefined : Math.max(0, date - nowMs)
}
