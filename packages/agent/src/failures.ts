// What a client is told when something fails inside. The codes decide what runtimes do next (docs/clients.md): a 5xx on
// a layer costs docker 75 s, a 404 sends docker and containerd to the registry at once.
import { OciError, type OciErrorCode } from '@shoal/oci'
import { UpstreamError } from '@shoal/upstream'
import { DownloadError } from '@shoal/swarm'

/** What was asked for. */
export type Wanted = 'manifest' | 'blob' | 'name'

const UNKNOWN_CODE: Record<Wanted, OciErrorCode> = {
  manifest: 'MANIFEST_UNKNOWN',
  blob: 'BLOB_UNKNOWN',
  name: 'NAME_UNKNOWN',
}

/** Turns any error into the answer for a client. */
export function toClientError(error: unknown, wanted: Wanted): OciError {
  if (error instanceof OciError) return error
  if (error instanceof UpstreamError) return fromUpstream(error, wanted)
  if (error instanceof DownloadError && error.cause instanceof UpstreamError) {
    const inner = fromUpstream(error.cause, wanted)
    return new OciError(inner.code, `${error.message}`, { status: inner.status, headers: inner.headers, cause: error })
  }
  const message = error instanceof Error ? error.message : String(error)
  if (error instanceof DownloadError)
    return unavailable(`${message}; try again or look at the agent's log`, wanted, error)
  return unavailable(`the agent failed: ${message}`, wanted, error)
}

function fromUpstream(error: UpstreamError, wanted: Wanted): OciError {
  switch (error.code) {
    case 'UNAUTHORIZED': {
      const headers = error.challenge === undefined ? {} : { 'WWW-Authenticate': error.challenge }
      return new OciError('UNAUTHORIZED', error.message, { headers, cause: error })
    }
    case 'DENIED':
    case 'REFUSED_BY_POLICY':
      return new OciError('DENIED', error.message, { cause: error })
    case 'NOT_FOUND':
      return new OciError(UNKNOWN_CODE[wanted], error.message, { cause: error })
    case 'RATE_LIMITED': {
      const seconds = Math.ceil((error.retryAfterMs ?? 1000) / 1000)
      return new OciError('TOOMANYREQUESTS', error.message, {
        headers: { 'Retry-After': String(seconds) },
        cause: error,
      })
    }
    default:
      return unavailable(error.message, wanted, error)
  }
}

/** A manifest that cannot be had now may be had later: 503. A blob: 404, so that the client goes on elsewhere at once. */
function unavailable(message: string, wanted: Wanted, cause: unknown): OciError {
  return wanted === 'blob'
    ? new OciError('BLOB_UNKNOWN', message, { cause })
    : new OciError('UNAVAILABLE', message, { cause })
}
