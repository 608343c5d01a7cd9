import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { digestOf } from './digest.ts'
import type { ImageIndex } from './manifest.ts'
import { MEDIA_TYPE_OCI_INDEX, MEDIA_TYPE_OCI_MANIFEST } from './media-types.ts'
import {
  formatPlatform,
  InvalidPlatformError,
  isPlatformFor,
  normalizePlatform,
  parsePlatform,
  platformOfConfig,
  selectPlatform,
} from './platform.ts'

function indexOf(...platforms: (string | undefined)[]): ImageIndex {
  return {
    kind: 'index',
    schemaVersion: 2,
    mediaType: MEDIA_TYPE_OCI_INDEX,
    manifests: platforms.map((platform, at) => {
      const [os = '', architecture = '', variant] = platform?.split('/') ?? []
      const child = { mediaType: MEDIA_TYPE_OCI_MANIFEST, digest: digestOf(String(at)), size: 1 }
      if (platform === undefined) return child
      return { ...child, platform: variant === undefined ? { os, architecture } : { os, architecture, variant } }
    }),
  }
}

function selected(wanted: string, ...platforms: (string | undefined)[]): string | undefined {
  const index = indexOf(...platforms)
  const child = selectPlatform(index, parsePlatform(wanted))
  return child && platforms[index.manifests.indexOf(child)]
}

test('one spelling for each platform', () => {
  const cases: [string, string][] = [
    ['linux/amd64', 'linux/amd64'],
    ['linux/x64', 'linux/amd64'],
    ['Linux/X86_64', 'linux/amd64'],
    ['linux/amd64/v1', 'linux/amd64'],
    ['linux/amd64/v3', 'linux/amd64/v3'],
    ['linux/aarch64', 'linux/arm64'],
    ['linux/arm64/v8', 'linux/arm64'],
    ['linux/arm64/8', 'linux/arm64'],
    ['linux/arm', 'linux/arm/v7'],
    ['linux/armhf', 'linux/arm/v7'],
    ['linux/armel', 'linux/arm/v6'],
    ['linux/arm/6', 'linux/arm/v6'],
    ['win32/x64', 'windows/amd64'],
    ['linux/riscv64', 'linux/riscv64'],
  ]
  for (const [text, normal] of cases) assert.equal(formatPlatform(parsePlatform(text)), normal, text)
})

test('the best child that the machine can run', () => {
  assert.equal(selected('linux/amd64', 'linux/arm64', 'linux/amd64', 'linux/386'), 'linux/amd64')
  assert.equal(selected('linux/amd64', 'linux/386', 'linux/arm64'), 'linux/386')
  assert.equal(selected('linux/amd64', 'linux/amd64/v3'), undefined)
  assert.equal(selected('linux/amd64/v3', 'linux/amd64', 'linux/amd64/v2', 'linux/amd64/v4'), 'linux/amd64/v2')
  assert.equal(selected('linux/arm64', 'linux/arm/v7', 'linux/arm64/v8'), 'linux/arm64/v8')
  assert.equal(selected('linux/arm64', 'linux/arm/v6', 'linux/arm/v7'), 'linux/arm/v7')
  assert.equal(selected('linux/arm/v7', 'linux/arm/v5', 'linux/arm/v6', 'linux/arm64'), 'linux/arm/v6')
  assert.equal(selected('linux/arm/v6', 'linux/arm/v7'), undefined)
  assert.equal(selected('linux/arm/v6', 'linux/arm'), undefined)
  assert.equal(selected('linux/amd64', 'windows/amd64', 'unknown/unknown', undefined), undefined)
  assert.equal(selected('linux/s390x', 'linux/amd64', 'linux/s390x'), 'linux/s390x')
  assert.equal(selected('linux/constructor', 'linux/constructor'), 'linux/constructor')
})

test('the first of equals, and the same version of Windows before another', () => {
  const index = indexOf('windows/amd64', 'windows/amd64')
  assert.equal(selectPlatform(index, parsePlatform('windows/amd64')), index.manifests[0])
  const [first, second] = index.manifests
  if (first?.platform && second?.platform) {
    first.platform.osVersion = '10.0.17763.1'
    second.platform.osVersion = '10.0.20348.1'
  }
  const machine = { os: 'windows', architecture: 'amd64', osVersion: '10.0.20348.1' }
  assert.equal(selectPlatform(index, machine), second)
})

test('a text is either a platform that can be written and read again, or refused', () => {
  for (const text of ['', 'linux', 'linux/', '/amd64', 'linux/amd64/', 'linux/arm/v7/x', 'linux/a b', 'li\nnux/a']) {
    assert.throws(() => parsePlatform(text), InvalidPlatformError, text)
  }
  const part = fc.constantFrom('linux', 'arm', 'arm64', 'amd64', 'v7', '7', 'v8', 'armhf', 'x', '', '__proto__', 'é')
  fc.assert(
    fc.property(fc.array(part, { maxLength: 4 }), (parts) => {
      try {
        const platform = parsePlatform(parts.join('/'))
        assert.deepEqual(parsePlatform(formatPlatform(platform)), platform)
        assert.deepEqual(normalizePlatform(platform), platform)
      } catch (error) {
        assert.ok(error instanceof InvalidPlatformError)
      }
    }),
  )
})

test('an image is for what its configuration says, if it says so, and for what runs that', () => {
  const cases: [config: Record<string, unknown>, wanted: string, expected: boolean | undefined][] = [
    [{ os: 'linux', architecture: 'amd64' }, 'linux/amd64', true],
    [{ os: 'linux', architecture: 'amd64' }, 'linux/amd64/v3', true],
    [{ os: 'linux', architecture: 'amd64' }, 'linux/arm64', false],
    [{ os: 'windows', architecture: 'amd64' }, 'linux/amd64', false],
    [{ os: 'linux', architecture: 'arm', variant: 'v7' }, 'linux/arm64', true],
    [{ os: 'linux', architecture: 'arm', variant: 'v7' }, 'linux/arm/v6', false],
    [{ os: 'linux', architecture: 'arm' }, 'linux/arm/v6', true],
    [{ os: 'linux' }, 'linux/amd64', undefined],
    [{ os: 1, architecture: '' }, 'linux/amd64', undefined],
  ]
  for (const [config, wanted, expected] of cases) {
    const platform = platformOfConfig(config)
    const found = platform && isPlatformFor(platform, parsePlatform(wanted))
    assert.equal(found, expected, `${JSON.stringify(config)} ${wanted}`)
  }
})
