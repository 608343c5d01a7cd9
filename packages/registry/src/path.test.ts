import { test } from 'node:test'
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { isRepositoryName, OciError } from '@shoal/oci'
import { checkDigest, checkName, checkReference, checkUploadId, parseRegistryPath } from './path.ts'

const DIGEST = `sha256:${'a'.repeat(64)}`

test('takes every endpoint of the specification apart', () => {
  const cases: [string, unknown][] = [
    ['/v2/', { kind: 'version' }],
    ['/v2', { kind: 'version' }],
    ['/v2/?ns=docker.io', { kind: 'version' }],
    ['/v2/_catalog?n=3', { kind: 'catalog' }],
    ['/v2/a/manifests/latest', { kind: 'manifest', name: 'a', reference: 'latest' }],
    ['/v2/a/b/c/d/manifests/1.0?ns=x', { kind: 'manifest', name: 'a/b/c/d', reference: '1.0' }],
    [`/v2/a/blobs/${DIGEST}`, { kind: 'blob', name: 'a', digest: DIGEST }],
    [`/v2/a/blobs/${encodeURIComponent(DIGEST)}`, { kind: 'blob', name: 'a', digest: DIGEST }],
    ['/v2/a/blobs/uploads/', { kind: 'uploads', name: 'a' }],
    ['/v2/a/blobs/uploads', { kind: 'uploads', name: 'a' }],
    ['/v2/a/blobs/uploads/abc-1', { kind: 'upload', name: 'a', id: 'abc-1' }],
    ['/v2/a/b/tags/list', { kind: 'tags', name: 'a/b' }],
    [`/v2/a/referrers/${DIGEST}`, { kind: 'referrers', name: 'a', digest: DIGEST }],
    [`/v2/a/_shoal/chunks/${DIGEST}`, { kind: 'chunks', name: 'a', digest: DIGEST }],
  ]
  for (const [url, expected] of cases) assert.deepEqual(parseRegistryPath(url), expected, url)
})

test('words of the API may be parts of a name', () => {
  assert.deepEqual(parseRegistryPath('/v2/manifests/blobs/tags/manifests/tags'), {
    kind: 'manifest',
    name: 'manifests/blobs/tags',
    reference: 'tags',
  })
  assert.deepEqual(parseRegistryPath('/v2/tags/list/tags/list'), { kind: 'tags', name: 'tags/list' })
})

test('what is no endpoint is none', () => {
  for (const url of [
    '/',
    '/v1/x',
    '/v2/a',
    '/v2/a/b',
    '/v2/manifests/x',
    '/v2/a/tags/other',
    '/v3/',
    '/v2/tags/list',
  ]) {
    assert.equal(parseRegistryPath(url), undefined, url)
  }
})

test('a registry in front is a name where it is allowed, percent-encoded or not', () => {
  for (const host of ['ghcr.io', 'localhost:5000', 'Registry.Example.com:443', '[::1]:5000', '10.0.0.1:5000']) {
    for (const written of [host, encodeURIComponent(host)]) {
      const path = parseRegistryPath(`/v2/${written}/org/app/manifests/1`)
      assert.ok(path?.kind === 'manifest')
      assert.equal(path.name, `${host}/org/app`)
      assert.equal(checkName(path.name, true), path.name)
      if (!isRepositoryName(path.name)) assert.throws(() => checkName(path.name, false), isCode('NAME_INVALID'))
    }
  }
  const whole = parseRegistryPath(`/v2/${encodeURIComponent('ghcr.io/org/app')}/tags/list`)
  assert.deepEqual(whole, { kind: 'tags', name: 'ghcr.io/org/app' })
})

test('path tricks are no names', () => {
  const tricks = ['..', 'a/../b', 'a//b', '/a', 'a/', 'a/.', '%2e%2e', 'A/b', 'a\\b', 'a\0b', 'ä', 'a b', 'a:b/c', '']
  for (const trick of tricks) {
    assert.throws(() => checkName(trick, false), isCode('NAME_INVALID'), trick)
    assert.throws(() => checkName(`ghcr.io/${trick}`, true), isCode('NAME_INVALID'), trick)
    const path = parseRegistryPath(`/v2/${trick.split('/').map(encodeURIComponent).join('%2F')}/tags/list`)
    if (path?.kind === 'tags') assert.throws(() => checkName(path.name, false), isCode('NAME_INVALID'), trick)
  }
  assert.throws(() => parseRegistryPath('/v2/%ff/tags/list'), isCode('NAME_INVALID'))
  assert.throws(() => parseRegistryPath('/v2/%/tags/list'), isCode('NAME_INVALID'))
  assert.throws(() => parseRegistryPath(`/v2/${'a/'.repeat(4000)}tags/list`), isCode('NAME_INVALID'))
  assert.throws(() => checkName('a'.repeat(256), false), isCode('NAME_INVALID'))
})

test('checked names stay under a folder, whatever the path was', () => {
  fc.assert(
    fc.property(fc.array(fc.oneof(fc.string(), fc.constantFrom('..', '.', '%2e%2e', '%2F', 'a', 'blobs'))), (parts) => {
      let path
      try {
        path = parseRegistryPath(`/v2/${parts.join('/')}/tags/list`)
        if (path?.kind !== 'tags') return
        checkName(path.name, true)
      } catch (error) {
        assert.ok(error instanceof OciError)
        return
      }
      for (const segment of path.name.split('/')) assert.match(segment, /^[A-Za-z0-9[][A-Za-z0-9._:[\]-]*$/)
    }),
  )
})

test('references and digests are checked', () => {
  assert.equal(checkReference('v1.0_x-y', false), 'v1.0_x-y')
  assert.equal(checkReference(DIGEST, true), DIGEST)
  assert.throws(() => checkReference('sha256:abc', false), isCode('DIGEST_INVALID'))
  assert.throws(() => checkReference('.bad', false), isCode('MANIFEST_UNKNOWN'))
  assert.throws(() => checkReference('.bad', true), isCode('TAG_INVALID'))
  assert.throws(() => checkReference('t'.repeat(129), true), isCode('TAG_INVALID'))
  assert.throws(() => checkDigest(`sha256:${'A'.repeat(64)}`), isCode('DIGEST_INVALID'))
  assert.throws(() => checkUploadId('../x'), isCode('BLOB_UPLOAD_UNKNOWN'))
  assert.equal(checkUploadId('Az09_-'), 'Az09_-')
})

function isCode(code: string): (error: unknown) => boolean {
  return (error) => error instanceof OciError && error.code === code
}
