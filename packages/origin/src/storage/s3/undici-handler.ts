// Sends the requests of the AWS SDK through undici. Over node:http, which the SDK uses by itself, every 64 KiB of an answer
// leave a buffer behind that only the garbage collector can free: a blob of 8 GiB took a registry to 350 MB. The buffers
// that undici reads into come out as the body, so they are freed as soon as the bytes have left (freeBytes).
import { buildQueryString } from '@smithy/core/protocols'
import type { HttpHandlerOptions, HttpRequest, HttpResponse, RequestHandler } from '@smithy/types'
import { Agent, errors, type Dispatcher } from 'undici'

export interface UndiciHandlerOptions {
  /** To one host. */
  maxConnections: number
  connectTimeoutMs: number
  /** Until the answer begins, beside the time that the body of the request may take; `requestTimeout` of a request counts first. */
  answerTimeoutMs: number
  /** Between two pieces of an answer. */
  pieceTimeoutMs: number
}

/** A body that is sent more slowly than this is given up. */
const LEAST_BYTES_PER_MS = 128

export class UndiciHandler implements RequestHandler<HttpRequest, HttpResponse, HttpHandlerOptions> {
  readonly metadata = { handlerProtocol: 'http/1.1' }
  readonly #agent: Agent
  readonly #answerTimeoutMs: number

  constructor({ maxConnections, connectTimeoutMs, answerTimeoutMs, pieceTimeoutMs }: UndiciHandlerOptions) {
    this.#answerTimeoutMs = answerTimeoutMs
    this.#agent = new Agent({
      connections: maxConnections,
      connect: { timeout: connectTimeoutMs },
      bodyTimeout: pieceTimeoutMs,
    })
  }

  async handle(request: HttpRequest, options: HttpHandlerOptions = {}): Promise<{ response: HttpResponse }> {
    const { protocol, hostname, port, path } = request
    const query = buildQueryString(request.query ?? {})
    // The SDK asks to be told before it sends a body; undici does not know that, and the body is in memory.
    const { expect: _expect, Expect: _Expect, ...headers } = request.headers
    const sendMs = Number(headers['content-length'] ?? 0) / LEAST_BYTES_PER_MS
    try {
      const answer = await this.#agent.request({
        origin: `${protocol}//${hostname}${port === undefined ? '' : `:${port}`}`,
        path: query === '' ? path : `${path}?${query}`,
        method: request.method,
        headers,
        body: (request.body ?? null) as Exclude<Dispatcher.RequestOptions['body'], undefined>,
        headersTimeout: Math.ceil((options.requestTimeout ?? this.#answerTimeoutMs) + sendMs),
        signal: (options.abortSignal as AbortSignal | undefined) ?? null,
      })
      return { response: { statusCode: answer.statusCode, headers: flat(answer.headers), body: answer.body } }
    } catch (error) {
      throw inWordsOfTheSdk(error)
    }
  }

  destroy(): void {
    this.#agent.destroy().catch(() => undefined)
  }
}

function flat(headers: Record<string, string | string[] | undefined>): Record<string, string> {
  const entries = Object.entries(headers).flatMap(([name, value]) =>
    value === undefined ? [] : [[name, String(value)]],
  )
  return Object.fromEntries(entries) as Record<string, string>
}

/** Names failures as the SDK knows them: it tries again after some. */
function inWordsOfTheSdk(error: unknown): unknown {
  if (error instanceof errors.SocketError) return Object.assign(error, { code: 'ECONNRESET' })
  const isTimeout =
    error instanceof errors.ConnectTimeoutError ||
    error instanceof errors.HeadersTimeoutError ||
    error instanceof errors.BodyTimeoutError
  return isTimeout ? Object.assign(error, { name: 'TimeoutError' }) : error
}
