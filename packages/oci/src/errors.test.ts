import assert from 'node:assert/strict'
import { test } from 'node:test'
import { OCI_ERROR_STATUS, ociErrorBody, OciError, type OciErrorCode } from './errors.ts'
import { isForeignLayerMediaType, isManifestMediaType, MANIFEST_MEDIA_TYPES, mediaTypeOf } from './media-types.ts'

test('every code of the distribution specification has its status', () => {
  const specification: [OciErrorCode, number][] = [
    ['BLOB_UNKNOWN', 404],
    ['BLOB_UPLOAD_UNKNOWN', 404],
    ['MANIFEST_UNKNOWN', 404],
    ['NAME_UNKNOWN', 404],
    ['UNAUTHORIZED', 401],
    ['DENIED', 403],
    ['UNSUPPORTED', 405],
    ['TOOMANYREQUESTS', 429],
    ['DIGEST_INVALID', 400],
    ['NAME_INVALID', 400],
    ['MANIFEST_INVALID', 400],
    ['SIZE_INVALID', 400],
    ['BLOB_UPLOAD_INVALID', 400],
    ['MANIFEST_BLOB_UNKNOWN', 400],
  ]
  for (const [code, status] of specification) assert.equal(new OciError(code, 'm').status, status, code)
  for (const status of Object.values(OCI_ERROR_STATUS)) assert.ok(status >= 400 && status < 600)
})

test('status, detail, headers and cause travel with the error; only code, message and detail reach the body', () => {
  const error = new OciError('UNAUTHORIZED', 'log in first', {
    status: 403,
    detail: { a: 1 },
    headers: { 'WWW-Authenticate': 'Basic realm="x"' },
    cause: new Error('secret'),
  })
  assert.equal(error.status, 403)
  assert.equal(error.headers['WWW-Authenticate'], 'Basic realm="x"')
  assert.deepEqual(ociErrorBody(error), {
    errors: [{ code: 'UNAUTHORIZED', message: 'log in first', detail: { a: 1 } }],
  })
  assert.equal(
    JSON.stringify(ociErrorBody(new OciError('UNKNOWN', 'x'))),
    '{"errors":[{"code":"UNKNOWN","message":"x"}]}',
  )
})

test('media types', () => {
  assert.equal(mediaTypeOf(' Application/JSON ; charset=utf-8'), 'application/json')
  assert.equal(mediaTypeOf(undefined), undefined)
  assert.equal(mediaTypeOf(';'), undefined)
  assert.ok(MANIFEST_MEDIA_TYPES.every(isManifestMediaType))
  assert.equal(isForeignLayerMediaType('application/vnd.oci.image.layer.v1.tar+gzip'), false)
  assert.equal(isForeignLayerMediaType('application/vnd.docker.image.rootfs.foreign.diff.tarball'), false)
})
