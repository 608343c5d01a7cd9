import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  createDigestHash,
  digestAlgorithm,
  digestBytes,
  digestFromBytes,
  digestHex,
  digestOf,
  InvalidDigestError,
  isDigest,
  parseDigest,
} from './digest.ts'

test('known answers of SHA-256 and SHA-512', () => {
  assert.equal(digestOf(''), 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855')
  assert.equal(
    digestOf(new TextEncoder().encode('abc'), 'sha512'),
    'sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a' +
      '2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f',
  )
})

test('a digest keeps its bytes on the way to binary and back', () => {
  fc.assert(
    fc.property(fc.uint8Array(), fc.constantFrom('sha256' as const, 'sha512' as const), (content, algorithm) => {
      const digest = digestOf(content, algorithm)
      assert.equal(parseDigest(digest), digest)
      assert.equal(digestAlgorithm(digest), algorithm)
      assert.equal(`${algorithm}:${digestHex(digest)}`, digest)
      assert.equal(digestFromBytes(digestBytes(digest)), digest)
      const middle = content.length >> 1
      const hash = createDigestHash(digest).update(content.subarray(0, middle)).update(content.subarray(middle))
      assert.equal(hash.digest(), digest)
    }),
  )
})

test('digestFromBytes reads a view at its offset and refuses other lengths', () => {
  const whole = Uint8Array.from({ length: 40 }, (_, at) => at)
  assert.equal(
    digestFromBytes(whole.subarray(8, 40)),
    `sha256:${Array.from({ length: 32 }, (_, at) => (at + 8).toString(16).padStart(2, '0')).join('')}`,
  )
  for (const length of [0, 31, 33, 63, 65]) {
    assert.throws(() => digestFromBytes(new Uint8Array(length)), InvalidDigestError)
  }
  assert.throws(() => digestFromBytes(new Uint8Array(64), 'sha256'), InvalidDigestError)
})

test('only the exact form is a digest', () => {
  const hex = 'a'.repeat(64)
  const wrong: unknown[] = [
    '',
    hex,
    `sha256:${hex.slice(1)}`,
    `sha256:${hex}a`,
    `sha256:${hex.toUpperCase()}`,
    `SHA256:${hex}`,
    `sha256:${hex}\n`,
    ` sha256:${hex}`,
    `sha512:${hex}`,
    `sha384:${'a'.repeat(96)}`,
    `sha256:../../${hex.slice(6)}`,
    `sha256:${'g'.repeat(64)}`,
    `sha256+b64:${hex}`,
    null,
    42,
    [`sha256:${hex}`],
  ]
  for (const value of wrong) {
    assert.equal(isDigest(value), false, String(value))
    assert.throws(() => parseDigest(value), InvalidDigestError)
  }
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 150 }), (text) => {
      assert.equal(isDigest(text), /^sha256:[0-9a-f]{64}$|^sha512:[0-9a-f]{128}$/.test(text))
    }),
  )
})

test('the error of a long hostile text stays short', () => {
  assert.throws(
    () => parseDigest('x'.repeat(100_000)),
    (error: Error) => error.message.length < 400,
  )
})
