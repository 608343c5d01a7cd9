import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { digestOf } from './digest.ts'
import {
  formatReference,
  InvalidReferenceError,
  isRegistry,
  isRepositoryName,
  isTag,
  manifestReference,
  parseReference,
  parseRegistry,
  type ImageReference,
} from './reference.ts'

const digest = digestOf('content')

test("docker's defaults are filled in", () => {
  const cases: [string, string][] = [
    ['ubuntu', 'docker.io/library/ubuntu:latest'],
    ['ubuntu:24.04', 'docker.io/library/ubuntu:24.04'],
    ['org/app', 'docker.io/org/app:latest'],
    ['docker.io/ubuntu', 'docker.io/library/ubuntu:latest'],
    ['index.docker.io/ubuntu', 'docker.io/library/ubuntu:latest'],
    ['registry-1.docker.io/library/ubuntu', 'docker.io/library/ubuntu:latest'],
    ['INDEX.docker.io/ubuntu', 'docker.io/library/ubuntu:latest'],
    ['localhost/app', 'localhost/app:latest'],
    ['localhost:5000/app', 'localhost:5000/app:latest'],
    ['host/app', 'docker.io/host/app:latest'],
    ['host:5000/app', 'host:5000/app:latest'],
    ['GHCR.io/org', 'ghcr.io/org:latest'],
    ['Host/app', 'HOST/app:latest'],
    ['HOST/app:latest', 'HOST/app:latest'],
    ['ghcr.io', 'docker.io/library/ghcr.io:latest'],
    ['ghcr.io/app', 'ghcr.io/app:latest'],
    ['ghcr.io/a/b/c__d/e--f.g:v1', 'ghcr.io/a/b/c__d/e--f.g:v1'],
    ['127.0.0.1:7700/ghcr.io/a/b', '127.0.0.1:7700/ghcr.io/a/b:latest'],
    ['[::1]/app', '[::1]/app:latest'],
    ['[2001:DB8::1]:5000/a/app:1', '[2001:db8::1]:5000/a/app:1'],
    [`ubuntu@${digest}`, `docker.io/library/ubuntu@${digest}`],
    [`ghcr.io/a:1@${digest}`, `ghcr.io/a:1@${digest}`],
  ]
  for (const [text, full] of cases) assert.equal(formatReference(parseReference(text)), full, text)
})

test('what to ask the registry for: the digest before the tag', () => {
  assert.equal(manifestReference(parseReference('a')), 'latest')
  assert.equal(manifestReference(parseReference('a:1')), '1')
  assert.equal(manifestReference(parseReference(`a:1@${digest}`)), digest)
})

test('malformed references are refused', () => {
  const wrong = [
    '',
    ' ',
    'a b',
    ':tag',
    'a:',
    'a:.b',
    'a:-b',
    `a:${'t'.repeat(129)}`,
    'a@',
    'a@sha256:abc',
    `a@${digest}@${digest}`,
    `a@${digest.toUpperCase()}`,
    'Ubuntu:1',
    'org/App',
    '/a',
    'a/',
    'a//b',
    'ghcr.io/',
    'a..b/c',
    'a/..',
    'a/../b',
    'a/.b',
    'a/b-',
    'a/b___c',
    'http://a/b',
    'user@ghcr.io/a',
    'ghcr.io:0/a',
    'ghcr.io:65536/a',
    'ghcr.io:/a',
    'ghcr.io:080/a',
    'ghcr.io:5000x/a',
    '-ghcr.io/a',
    'ghcr-.io/a',
    'my_registry:5000/a',
    '[::1/a',
    '[::1]x/a',
    '[::g]/a',
    '[1:2]/a',
    '[fe80::1%eth0]/a',
    '[::ffff:1.2.3.4]/a',
    `${'a.'.repeat(127)}com:5000/a`,
    'f'.repeat(64),
    'ä/b',
    'a\n',
    'a:1\n',
    'ghcr.io\n/a',
    'ghcr.io/a%2fb',
    'a'.repeat(5000),
  ]
  for (const text of wrong) assert.throws(() => parseReference(text), InvalidReferenceError, JSON.stringify(text))
})

test('the length of a repository is bounded with what docker adds', () => {
  assert.equal(parseReference('a'.repeat(247)).repository.length, 255)
  assert.throws(() => parseReference('a'.repeat(248)), /longer than 255/)
  assert.equal(isRepositoryName('a'.repeat(255)), true)
  assert.equal(isRepositoryName('a'.repeat(256)), false)
})

test('registry hosts have one normal form', () => {
  assert.equal(parseRegistry('registry-1.docker.io'), 'docker.io')
  assert.equal(parseRegistry('Ghcr.IO'), 'ghcr.io')
  assert.equal(parseRegistry('reg.example.com:5000'), 'reg.example.com:5000')
  assert.equal(isRegistry('Ghcr.IO'), false)
  assert.equal(isRegistry('ghcr.io'), true)
  for (const text of ['', 'a/b', 'a:b:c', 'a?b', 'user:pw@host', 'a#b', '..', 'a b', '::1', '[]']) {
    assert.throws(() => parseRegistry(text), InvalidReferenceError, text)
  }
})

const letters = (unit: string, maxLength: number) =>
  fc.string({ unit: fc.constantFrom(...unit), minLength: 1, maxLength })
const alphanumeric = 'abcxyz0189'
const host = fc.oneof(
  fc.array(letters(alphanumeric, 8), { minLength: 2, maxLength: 4 }).map((labels) => labels.join('.')),
  fc.constantFrom('localhost', '[::1]', '[2001:db8::5]', '127.0.0.1'),
)
const registry = fc
  .tuple(host, fc.option(fc.integer({ min: 1, max: 65535 }), { nil: undefined }))
  .map(([name, port]) => (port === undefined ? name : `${name}:${port}`))
const component = fc
  .tuple(
    letters(alphanumeric, 6),
    fc.array(fc.tuple(fc.constantFrom('.', '_', '__', '-', '---'), letters(alphanumeric, 6)), { maxLength: 3 }),
  )
  .map(([first, more]) => first + more.map(([separator, part]) => separator + part).join(''))
const repository = fc.array(component, { minLength: 1, maxLength: 4 }).map((parts) => parts.join('/'))
const tag = fc
  .tuple(letters('abzAZ09_', 1), fc.string({ unit: fc.constantFrom(...'aZ0_.-'), maxLength: 127 }))
  .map(([first, rest]) => first + rest)

test('every well-formed reference survives being written and read', () => {
  const reference: fc.Arbitrary<ImageReference> = fc
    .tuple(registry, repository, fc.option(tag), fc.boolean())
    .map(([where, name, label, pinned]) => ({
      registry: where,
      repository: name,
      ...(label === null && pinned ? {} : { tag: label ?? 'latest' }),
      ...(pinned ? { digest } : {}),
    }))
  fc.assert(
    fc.property(reference, (value) => {
      assert.deepEqual(parseReference(formatReference(value)), value)
    }),
  )
})

test('any text is either refused with the right error or read into valid parts, and reading again changes nothing', () => {
  const soup = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.string({ unit: fc.constantFrom(...'aZ0._-/:@[]% \n'), maxLength: 40 }),
    fc
      .tuple(fc.string({ unit: fc.constantFrom(...'aZ0.'), maxLength: 3 }), repository)
      .map(([where, name]) => `${where}/${name}`),
    fc.tuple(registry, repository, tag).map(([where, name, label]) => `${where}/${name}:${label}`),
  )
  fc.assert(
    fc.property(soup, (text) => {
      let parsed: ImageReference
      try {
        parsed = parseReference(text)
      } catch (error) {
        assert.ok(error instanceof InvalidReferenceError)
        return
      }
      assert.ok(isRegistry(parsed.registry))
      assert.ok(isRepositoryName(parsed.repository))
      assert.ok(parsed.tag === undefined || isTag(parsed.tag))
      assert.deepEqual(parseReference(formatReference(parsed)), parsed)
    }),
    { numRuns: 500 },
  )
})

test('a valid registry is safe to put into a URL: the URL has no other host', () => {
  fc.assert(
    fc.property(
      fc.oneof(registry, fc.string({ unit: fc.constantFrom(...'a0.-:/@?#[]%\\'), maxLength: 12 })),
      (text) => {
        if (!isRegistry(text)) return
        if (!URL.canParse(`https://${text}/v2/`)) return
        const url = new URL(`https://${text}/v2/`)
        assert.equal(url.username, '')
        assert.equal(url.pathname, '/v2/')
        assert.equal(url.search + url.hash, '')
      },
    ),
    { numRuns: 500 },
  )
})
