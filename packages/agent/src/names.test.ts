import assert from 'node:assert/strict'
import test from 'node:test'
import { OciError } from '@shoal/oci'
import fc from 'fast-check'
import { imageKey, registryOfSegment, segmentOfRegistry, targetOf, type Naming } from './names.ts'

const HUB: Naming = { defaultRegistry: 'docker.io', isNamed: (registry) => registry === 'my-registry:9000' }

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
  // A port as docker can write it.
  ['reg.example.com__5000/x/y', undefined, 'reg.example.com:5000', 'x/y'],
  ['10.0.0.5__5000/x', undefined, '10.0.0.5:5000', 'x'],
  ['localhost__5000/x', undefined, 'localhost:5000', 'x'],
  ['my-registry__9000/foo/bar', undefined, 'my-registry:9000', 'foo/bar'],
  ['my-registry__9001/foo/bar', undefined, 'docker.io', 'my-registry__9001/foo/bar'],
  ['team__9/app', undefined, 'docker.io', 'team__9/app'],
  ['reg.example.com__0/x', undefined, 'docker.io', 'reg.example.com__0/x'],
  ['reg.example.com__99999/x', undefined, 'docker.io', 'reg.example.com__99999/x'],
  ['x/y__9000', 'reg.example.com', 'reg.example.com', 'x/y__9000'],
]

for (const [name, namespace, registry, repository] of CASES) {
  test(`${name}${namespace === undefined ? '' : ` with ns=${namespace}`} is ${repository} at ${registry}`, () => {
    assert.deepEqual(targetOf(name, namespace, HUB), { registry, repository })
  })
}

test('without a hint the default registry is meant, whatever it is', () => {
  assert.deepEqual(targetOf('app', undefined, { ...HUB, defaultRegistry: 'reg.test:5000' }), {
    registry: 'reg.test:5000',
    repository: 'app',
  })
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
      () => targetOf(name, namespace, HUB),
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
        const { registry, repository } = targetOf(name, namespace, HUB)
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
    targetOf('busybox', undefined, HUB),
    targetOf('library/busybox', 'index.docker.io', HUB),
    targetOf('docker.io/library/busybox', undefined, { ...HUB, defaultRegistry: 'other.test' }),
  ].map((target) => imageKey(target, '1'))
  assert.deepEqual(new Set(keys), new Set(['docker.io/library/busybox:1']))
})

test('a registry is read back from the segment that it is written as, and two registries never share one', () => {
  const label = fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?$/)
  const host = fc.tuple(label, label).map((labels) => labels.join('.'))
  const port = fc.option(fc.integer({ min: 1, max: 65_535 }), { nil: undefined })
  const registry = fc.tuple(host, port).map(([name, at]) => (at === undefined ? name : `${name}:${at}`))
  fc.assert(
    fc.property(registry, registry, (one, other) => {
      assert.equal(registryOfSegment(segmentOfRegistry(one), HUB), one)
      assert.match(segmentOfRegistry(one), /^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$/, 'docker takes it')
      if (one !== other) assert.notEqual(segmentOfRegistry(one), segmentOfRegistry(other))
    }),
  )
})
