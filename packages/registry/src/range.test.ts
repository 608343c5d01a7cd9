import { test } from 'node:test'
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { matchesEntityTag, parseRange, parseUploadRange } from './range.ts'

test('reads the ranges that clients send', () => {
  assert.deepEqual(parseRange('bytes=0-', 10), { start: 0, end: 9 })
  assert.deepEqual(parseRange('bytes=3-5', 10), { start: 3, end: 5 })
  assert.deepEqual(parseRange('bytes=3-500', 10), { start: 3, end: 9 })
  assert.deepEqual(parseRange('bytes=-4', 10), { start: 6, end: 9 })
  assert.deepEqual(parseRange('bytes=-40', 10), { start: 0, end: 9 })
  assert.deepEqual(parseRange('BYTES=9-9', 10), { start: 9, end: 9 })
  assert.deepEqual(parseRange('bytes= 0-5', 10), { start: 0, end: 5 })
})

test('tells what cannot be satisfied from what is to be ignored', () => {
  for (const header of ['bytes=10-', 'bytes=10-12', 'bytes=5-3', 'bytes=-0', `bytes=${'9'.repeat(400)}-`]) {
    assert.equal(parseRange(header, 10), 'unsatisfiable', header)
  }
  assert.equal(parseRange('bytes=0-', 0), 'unsatisfiable')
  for (const header of [undefined, 'bytes=-', 'bytes=0-1,3-4', 'items=0-1', 'bytes', 'bytes=a-b', 'bytes=0 - 1', '']) {
    assert.equal(parseRange(header, 10), undefined, header)
  }
})

test('a header that is all blanks takes no time', () => {
  // Looked at again for each blank, it would take minutes.
  const blanks = ' '.repeat(8_000)
  const startedMs = performance.now()
  assert.equal(parseRange(`bytes=${blanks}-${blanks}x`, 10), undefined)
  assert.ok(performance.now() - startedMs < 20_000)
})

test('a satisfiable range lies within the content', () => {
  const part = fc.oneof(fc.nat(), fc.bigInt({ min: 0n, max: 1n << 80n }), fc.constant(''))
  fc.assert(
    fc.property(part, part, fc.nat(), (first, last, size) => {
      const range = parseRange(`bytes=${first}-${last}`, size)
      if (range === undefined || range === 'unsatisfiable') return
      assert.ok(range.start >= 0 && range.start <= range.end && range.end < size)
    }),
  )
})

test('reads the Content-Range of uploads', () => {
  assert.deepEqual(parseUploadRange('0-9'), { start: 0, end: 9 })
  assert.deepEqual(parseUploadRange('bytes 5-9/*'), { start: 5, end: 9 })
  assert.deepEqual(parseUploadRange('bytes=5-9/10'), { start: 5, end: 9 })
  for (const header of ['', '9-0', '5', '-5', '5-', 'bytes */10', `0-${'9'.repeat(30)}`, '0x1-2']) {
    assert.equal(parseUploadRange(header), undefined, header)
  }
})

test('compares entity tags', () => {
  assert.equal(matchesEntityTag('"sha256:a"', 'sha256:a'), true)
  assert.equal(matchesEntityTag('"x", W/"sha256:a"', 'sha256:a'), true)
  assert.equal(matchesEntityTag('*', 'sha256:a'), true)
  assert.equal(matchesEntityTag('sha256:a', 'sha256:a'), false)
  assert.equal(matchesEntityTag(undefined, 'sha256:a'), false)
})
