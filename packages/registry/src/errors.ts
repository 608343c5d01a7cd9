// Every failure leaves as the JSON body of the OCI distribution specification, whoever found it: the backend, this
// room, or Fastify and Node below it.
import { ociErrorBody, OciError } from '@shoal/oci'
import type { FastifyReply, FastifyRequest } from 'fastify'

/**
 * What to answer for an error of any kind. Only an OciError speaks for itself; of others the client learns no more than
 * that something went wrong, the log has the rest.
 */
export function toOciError(error: unknown): OciError {
  if (error instanceof OciError) return error
  const status = statusOf(error)
  if (status !== undefined && status >= 400 && status < 500) {
    const code = isBadUrl(error) ? 'NAME_INVALID' : codeOfStatus(status)
    return new OciError(code, error instanceof Error ? error.message : 'bad request', { status })
  }
  return new OciError('UNKNOWN', 'internal error: the log of the registry has the details under this request id', {
    cause: error,
  })
}

/** Headers of a content that turned out not to come: they would be read as true of the error. */
const CONTENT_HEADERS = ['etag', 'docker-content-digest', 'accept-ranges', 'content-range', 'x-shoal-source', 'warning']

/** Answers with an error. 5xx are logged here, as the client is told little of them. */
export async function sendError(request: FastifyRequest, reply: FastifyReply, cause: unknown): Promise<void> {
  const error = toOciError(cause)
  if (error.status >= 500) {
    request.log.error({ err: error.cause ?? error, code: error.code, url: request.url }, 'request failed')
  }
  const body = Buffer.from(JSON.stringify(ociErrorBody(error)))
  for (const name of CONTENT_HEADERS) reply.removeHeader(name)
  await reply
    .code(error.status)
    .headers({ ...error.headers, 'content-type': 'application/json', 'content-length': body.length })
    .send(request.method === 'HEAD' ? undefined : body)
}

function statusOf(error: unknown): number | undefined {
  if (typeof error !== 'object' || error === null || !('statusCode' in error)) return undefined
  return typeof error.statusCode === 'number' ? error.statusCode : undefined
}

/** The router refuses paths that are no percent encoding of UTF-8 before anything of this room sees them. */
function isBadUrl(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'FST_ERR_BAD_URL'
}

function codeOfStatus(status: number): OciError['code'] {
  switch (status) {
    case 401:
      return 'UNAUTHORIZED'
    case 403:
      return 'DENIED'
    case 404:
      return 'NAME_UNKNOWN'
    case 413:
      return 'SIZE_INVALID'
    case 414:
      return 'NAME_INVALID'
    case 416:
      return 'RANGE_INVALID'
    case 429:
      return 'TOOMANYREQUESTS'
    default:
      return 'UNSUPPORTED'
  }
}
