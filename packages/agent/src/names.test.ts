import assert from 'node:assert/strict'
import test from 'node:test'
import { OciError } from '@shoal/oci'
import fc from 'fast-check'
import { imageKey, targetOf } from './names.ts'

/** name in the path, `ns`, and what is meant where the default is Docker Hub. */
const CASES: [string, string | undefined, string, string][] = [
  // No hint: docker's registry-mirrors.
  ['library/busybox', undefined, 'docker.io', 'library/busybox'],
  ['busybox', undefined, 'docker.io', 'library/busybox'],
  ['team/app', undefined, 'docker.io', 'team/app'],
  ['a/b/c/d', undefined, 'docker.io', 'a/b/c/d'],
  // containerd.
  ['library/busybox', 'docker.io', 'docker.io', 'library/busybox'],
  ['busybox', 'docker.io', 'docker.io', 'library/busybox'],
  ['busybox', 'registry-1.docker.io', 'docker.io', 'library/busybox'],
  ['x/y', 'ghcr.io', 'ghcr.io', 'x/y'],
  ['app', 'ghcr.io', 'ghcr.io', 'app'],
  ['x/y', 'GHCR.IO', 'ghcr.io', 'x/y'],
  ['x/y', 'reg.example.com:5000', 'reg.example.com:5000', 'x/y'],
  ['x/y', 'registry:5000', 'registry:5000', 'x/y'],
  ['x/y', '[::1]:5000', '[::1]:5000', 'x/y'],
  // containerd with override_path: both.
  ['ghcr.io/x/y', 'ghcr.io', 'ghcr.io', 'x/y'],
  ['docker.io/busybox', 'docker.io', 'docker.io', 'library/busybox'],
  ['docker.io/library/busybox', 'docker.io', 'docker.io', 'library/busybox'],
  // The first segment of the path: docker directly, podman with a prefix.
  ['ghcr.io/x/y', undefined, 'ghcr.io', 'x/y'],
  ['ghcr.io/app', undefined, 'ghcr.io', 'app'],
  ['docker.io/busybox', undefined, 'docker.io', 'library/busybox'],
  ['docker.io/library/busybox', undefined, 'docker.io', 'library/busybox'],
  ['index.docker.io/library/busybox', undefined, 'docker.io', 'library/busybox'],
  ['localhost/x', undefined, 'localhost', 'x'],
  ['localhost:5000/x/y', undefined, 'localhost:5000', 'x/y'],
  ['127.0.0.1:5000/x', undefined, '127.0.0.1:5000', 'x'],
]

for (const [name, namespace, registry, repository] of CASES) {
  test(`${name}${namespace === undefined ? '' : ` with ns=${namespace}`} is ${repository} at ${registry}`, () => {
    assert.deepEqual(targetOf(name, namespace, 'docker.io'), { registry, repository })
  })
}

test('without a hint the default registry is meant, whatever it is', () => {
  assert.deepEqual(targetOf('app', undefined, 'reg.test:5000'), { registry: 'reg.test:5000', repository: 'app' })
})

const HOSTILE: [string, string | undefined][] = [
  ['x/y', 'bad host'],
  ['x/y', 'evil.test/path'],
  ['x/y', 'user@evil.test'],
  ['x/y', 'evil.test:99999'],
  ['x/y', 'evil.test:0'],
  ['x/y', 'http://evil.test'],
  ['x/y', '-evil.test'],
  ['x/y', 'evil..test'],
  ['x/y', '[::1'],
  ['x/y', 'e'.repeat(300)],
  ['x/y', 'evil.test\u0000'],
  ['x/y', 'evil.test\r\nHost: other'],
  ['../etc/passwd', undefined],
  ['x/../y', undefined],
  ['x//y', undefined],
  ['X/y', undefined],
  ['', undefined],
  ['ghcr.io/', undefined],
  ['ghcr.io/../x', undefined],
  ['ghcr.io/X', undefined],
  [`ghcr.io/${'a'.repeat(256)}`, undefined],
]

for (const [name, namespace] of HOSTILE) {
  test(`refused: ${JSON.stringify(name.slice(0, 30))} with ns=${JSON.stringify(namespace?.slice(0, 30))}`, () => {
    assert.throws(
      () => targetOf(name, namespace, 'docker.io'),
      (error: unknown) => {
        assert.ok(error instanceof OciError)
        assert.equal(error.code, 'NAME_INVALID')
        return true
      },
    )
  })
}

test('whatever is asked, the answer is a registry and a repository without tricks, or a clear refusal', () => {
  const text = fc.oneof(fc.string(), fc.stringMatching(/^[a-zA-Z0-9.:/@%[\]_-]{0,40}$/))
  fc.assert(
    fc.property(text, fc.option(text, { nil: undefined }), (name, namespace) => {
      try {
        const { registry, repository } = targetOf(name, namespace, 'docker.io')
        assert.match(registry, /^(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:\d+)?$/)
        assert.match(repository, /^[a-z0-9]+([._-]+[a-z0-9]+|\/[a-z0-9]+)*$/)
      } catch (error) {
        if (!(error instanceof OciError)) throw error
      }
    }),
  )
})

test('a tag has the same key on every node, however it was asked for', () => {
  const keys = [
    targetOf('busybox', undefined, 'docker.io'),
    targetOf('library/busybox', 'index.docker.io', 'docker.io'),
    targetOf('docker.io/library/busybox', undefined, 'other.test'),
  ].map((target) => imageKey(target, '1'))
  assert.deepEqual(new Set(keys), new Set(['docker.io/library/busybox:1']))
})
