// From what went wrong on the wire to an error that says what to do about it.
import { BlockedAddressError } from './addresses.ts'
import { parseRetryAfter } from './retry.ts'
import { UpstreamError, type UpstreamErrorCode } from './upstream.ts'

const CONNECT_TIMEOUTS = new Set(['UND_ERR_CONNECT_TIMEOUT', 'ETIMEDOUT'])
const CERTIFICATE_CODE =
  /^(CERT_|ERR_TLS_CERT|UNABLE_TO_|DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_IN_CHAIN|INVALID_CA|HOSTNAME_MISMATCH)/
const MAX_SHOWN_MESSAGE = 200

/**
 * What a failed request is called.
 * @param where - the host that was to be asked
 * @param proxy - host and port of the proxy that stands between: then it is what could not be connected to
 */
export function failureOf(error: unknown, registry: string, where: string, proxy?: string): UpstreamError {
  if (error instanceof UpstreamError) return error
  const blocked = [error, (error as Error | undefined)?.cause].find((one) => one instanceof BlockedAddressError)
  if (blocked !== undefined) {
    return new UpstreamError('REFUSED_BY_POLICY', registry, `${registry} may not be asked: ${blocked.message}`, {
      cause: error,
    })
  }
  const code = codeOf(error)
  const [kind, message] = describe(code, where, error, proxy)
  return new UpstreamError(kind, registry, message, { cause: error })
}

function describe(code: string, host: string, error: unknown, proxy: string | undefined): [UpstreamErrorCode, string] {
  const connected = proxy === undefined ? host : `the proxy ${proxy}`
  const where = proxy === undefined ? host : `${host} (through the proxy ${proxy})`
  if (code === 'UND_ERR_HEADERS_TIMEOUT') return ['TIMEOUT', `${where} accepted the request but did not answer in time`]
  if (CONNECT_TIMEOUTS.has(code)) {
    return ['TIMEOUT', `${connected} did not accept a connection in time; check that it can be reached from this node`]
  }
  if (CERTIFICATE_CODE.test(code)) {
    const advice = 'set caFile for this registry to the authority that signed it'
    return ['UNREACHABLE', `the certificate of ${where} is not trusted (${code}); ${advice}`]
  }
  if (code === 'ERR_SSL_WRONG_VERSION_NUMBER' || code === 'ERR_SSL_PACKET_LENGTH_TOO_LONG') {
    return ['UNREACHABLE', `${where} does not speak TLS; set plainHttp for this registry if that is meant to be`]
  }
  if (code.startsWith('HPE_') || code === 'UND_ERR_HEADERS_OVERFLOW') {
    return ['PROTOCOL', `${where} answered with something that is not HTTP (${code})`]
  }
  if (code === 'UND_ERR_RES_CONTENT_LENGTH_MISMATCH' || code === 'UND_ERR_RES_EXCEEDED_MAX_SIZE') {
    return ['PROTOCOL', `${where} sent a body of another length than it had announced`]
  }
  const named = proxy === undefined ? host : `of the proxy ${proxy}`
  if (code === 'ENOTFOUND') return ['UNREACHABLE', `the name ${named} does not resolve; check it and the DNS`]
  if (code === 'EAI_AGAIN') return ['UNREACHABLE', `the DNS gives no answer about ${connected} at the moment`]
  if (code === 'ECONNREFUSED') return ['UNREACHABLE', `${connected} refuses connections; check that it runs`]
  if (code === 'ECONNRESET' || code === 'EPIPE' || code === 'UND_ERR_SOCKET') {
    return ['UNREACHABLE', `${where} closed the connection in the middle of a request`]
  }
  const said = error instanceof Error && /^Proxy /.test(error.message) ? `: ${error.message}` : ''
  return ['UNREACHABLE', `the request to ${where} failed (${code === '' ? 'unknown error' : code}${said})`]
}

function codeOf(error: unknown): string {
  const { code, cause, name } = (error ?? {}) as { code?: unknown; cause?: unknown; name?: unknown }
  if (typeof code === 'string') return code
  // undici's parser does not always give its error a code.
  if (name === 'HTTPParserError') return 'HPE_INVALID'
  return cause === undefined ? '' : codeOf(cause)
}

/** An answer that is not what was asked for. */
export interface BadAnswer {
  status: number
  readonly header: (name: string) => string | undefined
  /** Beginning of the body. */
  text: string
  /** Texts that must not be shown, should the server have sent them back. */
  secrets: readonly string[]
}

/** What an HTTP error is called. */
export function failureOfStatus(answer: BadAnswer, registry: string, what: string, nowMs: number): UpstreamError {
  const { status } = answer
  const said = shownMessage(answer)
  const details: { status: number; retryAfterMs?: number; challenge?: string; saidCode?: string } = { status }
  if (answer.text !== '') details.saidCode = saidCode(answer.text)
  const retryAfterMs = parseRetryAfter(answer.header('retry-after'), nowMs)
  if (status === 404 || status === 410) {
    return new UpstreamError('NOT_FOUND', registry, `${registry} does not have ${what}${said}`, details)
  }
  if (status === 403) {
    return new UpstreamError('DENIED', registry, `${registry} does not allow access to ${what}${said}`, details)
  }
  if (status === 401) {
    const challenge = answer.header('www-authenticate')
    if (challenge !== undefined) details.challenge = challenge
    const message = `${registry} wants a login for ${what}${said}; log in, or configure credentials for it`
    return new UpstreamError('UNAUTHORIZED', registry, message, details)
  }
  if (status === 429) {
    if (retryAfterMs !== undefined) details.retryAfterMs = retryAfterMs
    const when = retryAfterMs === undefined ? '' : `; it asks to wait ${Math.ceil(retryAfterMs / 1000)} s`
    const message = `${registry} limits the rate of requests${said}${when}`
    return new UpstreamError('RATE_LIMITED', registry, message, details)
  }
  if (status >= 500) {
    if (retryAfterMs !== undefined) details.retryAfterMs = retryAfterMs
    return new UpstreamError(
      'SERVER_ERROR',
      registry,
      `${registry} has an error of its own: HTTP ${status}${said}`,
      details,
    )
  }
  if (status === 400 && /HTTP request.{0,20}HTTPS (server|port)/i.test(answer.text)) {
    const message = `${registry} wants TLS; set its endpoint to https://…, or caFile if an authority of its own signed it`
    return new UpstreamError('PROTOCOL', registry, message, details)
  }
  const message = `${registry} answered ${what} with HTTP ${status}${said}`
  return new UpstreamError('PROTOCOL', registry, message, details)
}

/** Code and message of an OCI error body, cleaned of control characters and of secrets. */
function shownMessage({ text, secrets }: BadAnswer): string {
  const { code, message } = firstError(text)
  let shown = [code, message].filter((part) => typeof part === 'string' && part !== '').join(': ')
  for (const secret of secrets) if (secret.length >= 4) shown = shown.replaceAll(secret, '***')
  shown = shown
    .replace(/[^\x20-\x7e]+/g, ' ')
    .trim()
    .slice(0, MAX_SHOWN_MESSAGE)
  return shown === '' ? '' : ` (${shown})`
}

function saidCode(text: string): string {
  const { code } = firstError(text)
  return typeof code === 'string' ? code : ''
}

/** Of an OCI error body. */
function firstError(text: string): { code?: unknown; message?: unknown } {
  try {
    const [first] = (JSON.parse(text) as { errors?: unknown[] } | null)?.errors ?? []
    return first ?? {}
  } catch {
    return {}
  }
}
