import assert from 'node:assert/strict'
import test from 'node:test'
import { digestOf, OciError } from '@shoal/oci'
import { StoreFullError } from '@shoal/store'
import { DownloadError, type DownloadErrorCode } from '@shoal/swarm'
import { UpstreamError, type UpstreamErrorCode } from '@shoal/upstream'
import { toClientError } from './failures.ts'

const digest = digestOf('x')

/** What the origin said, and what is answered for a manifest and for a blob. */
const UPSTREAM: [UpstreamErrorCode, string, number, string, number][] = [
  ['UNAUTHORIZED', 'UNAUTHORIZED', 401, 'UNAUTHORIZED', 401],
  ['DENIED', 'DENIED', 403, 'DENIED', 403],
  ['REFUSED_BY_POLICY', 'DENIED', 403, 'DENIED', 403],
  ['NOT_FOUND', 'MANIFEST_UNKNOWN', 404, 'BLOB_UNKNOWN', 404],
  ['RATE_LIMITED', 'TOOMANYREQUESTS', 429, 'TOOMANYREQUESTS', 429],
  ['SERVER_ERROR', 'UNAVAILABLE', 503, 'BLOB_UNKNOWN', 404],
  ['TIMEOUT', 'UNAVAILABLE', 503, 'BLOB_UNKNOWN', 404],
  ['UNREACHABLE', 'UNAVAILABLE', 503, 'BLOB_UNKNOWN', 404],
  ['PROTOCOL', 'UNAVAILABLE', 503, 'BLOB_UNKNOWN', 404],
]

for (const [code, manifestCode, manifestStatus, blobCode, blobStatus] of UPSTREAM) {
  test(`the origin said ${code}`, () => {
    const error = new UpstreamError(code, 'reg.test', 'what happened')
    for (const cause of [error, new DownloadError('NO_SOURCE', digest, 'no peer has it, and what happened', error)]) {
      const manifest = toClientError(cause, 'manifest')
      assert.deepEqual([manifest.code, manifest.status], [manifestCode, manifestStatus])
      const blob = toClientError(cause, 'blob')
      assert.deepEqual([blob.code, blob.status], [blobCode, blobStatus])
      assert.match(blob.message, /what happened/)
      assert.equal(blob.cause, cause)
    }
  })
}

test('challenge and wait go with the answer, through a download, too', () => {
  const challenge = 'Bearer realm="https://auth.test/token"'
  const unauthorized = new UpstreamError('UNAUTHORIZED', 'reg.test', 'no', { challenge })
  const wrapped = toClientError(new DownloadError('NO_SOURCE', digest, 'no', unauthorized), 'blob')
  assert.deepEqual(wrapped.headers, { 'WWW-Authenticate': challenge })
  const limited = new UpstreamError('RATE_LIMITED', 'reg.test', 'slow down', { retryAfterMs: 1500 })
  assert.deepEqual(toClientError(limited, 'manifest').headers, { 'Retry-After': '2' })
})

for (const code of ['NO_SOURCE', 'NO_PROGRESS', 'CORRUPT', 'STOPPED'] satisfies DownloadErrorCode[]) {
  test(`a download that ended with ${code} sends a client on at once`, () => {
    const error = toClientError(new DownloadError(code, digest, 'why'), 'blob')
    assert.deepEqual([error.code, error.status], ['BLOB_UNKNOWN', 404])
    assert.match(error.message, /^why; /)
  })
}

test('an answer that is one already stays as it is; what was not foreseen is no 5xx for a blob', () => {
  const oci = new OciError('RANGE_INVALID', 'past the end')
  assert.equal(toClientError(oci, 'blob'), oci)
  for (const thrown of [new StoreFullError('disk', 'no room'), new TypeError('oops'), 'text', undefined]) {
    assert.equal(toClientError(thrown, 'blob').status, 404)
    assert.equal(toClientError(thrown, 'manifest').status, 503)
  }
})
