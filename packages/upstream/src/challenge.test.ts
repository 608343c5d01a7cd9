import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseChallenges } from './challenge.ts'

const plain = (header: string) =>
  parseChallenges(header).map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)])

test('challenges as registries write them', () => {
  assert.deepEqual(
    plain('Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'),
    [
      [
        'bearer',
        { realm: 'https://auth.docker.io/token', service: 'registry.docker.io', scope: 'repository:a/b:pull,push' },
      ],
    ],
  )
  assert.deepEqual(plain('Basic realm="Harbor \\"core\\""'), [['basic', { realm: 'Harbor "core"' }]])
  assert.deepEqual(plain('Basic realm=simple'), [['basic', { realm: 'simple' }]])
  assert.deepEqual(plain('Negotiate, Basic realm="x", Bearer realm="y" , service = "z"'), [
    ['negotiate', {}],
    ['basic', { realm: 'x' }],
    ['bearer', { realm: 'y', service: 'z' }],
  ])
  assert.deepEqual(plain('Negotiate abc123==, Basic REALM="x"'), [
    ['negotiate', {}],
    ['basic', { realm: 'x' }],
  ])
  assert.deepEqual(plain('bEaReR realm="a",realm="b"'), [['bearer', { realm: 'a' }]])
  assert.deepEqual(plain(', ,Basic'), [['basic', {}]])
})

test('malformed headers end the reading', () => {
  for (const header of ['', '"', '=', 'Bearer realm="open', 'a'.repeat(10_000)]) {
    assert.ok(
      plain(header).every(([, parameters]) => Object.keys(parameters as object).length === 0),
      header,
    )
  }
})

test('what is written by the rules is read back; nothing makes it throw or hang', () => {
  const token = fc.string({ unit: fc.constantFrom(...'abcXYZ09-_.'), minLength: 1, maxLength: 8 })
  const parameter = fc.tuple(token, fc.string({ unit: 'grapheme-ascii' }))
  const challenge = fc.tuple(
    token,
    fc.uniqueArray(parameter, { selector: ([name]) => name.toLowerCase(), minLength: 1, maxLength: 4 }),
  )
  fc.assert(
    fc.property(fc.array(challenge, { maxLength: 4 }), (challenges) => {
      const header = challenges
        .map(([scheme, parameters]) => {
          const list = parameters.map(([name, value]) => `${name}="${value.replace(/[\\"]/g, '\\$&')}"`)
          return `${scheme} ${list.join(', ')}`
        })
        .join(', ')
      const expected = challenges.map(([scheme, parameters]) => [
        scheme.toLowerCase(),
        Object.fromEntries(parameters.map(([name, value]) => [name.toLowerCase(), value])),
      ])
      assert.equal(JSON.stringify(plain(header)), JSON.stringify(expected))
    }),
  )
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom(...'aB ="\\,;\t=\u0000é') }), (text) => void parseChallenges(text)),
  )
})
