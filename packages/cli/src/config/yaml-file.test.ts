import assert from 'node:assert/strict'
import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import fc from 'fast-check'
import { ConfigError } from './mistakes.ts'
import { MAX_FILE_BYTES, dotted, parseYaml, readYamlFile } from './yaml-file.ts'

function refusal(text: string): string {
  try {
    parseYaml(text, 'a.yaml')
  } catch (error) {
    assert.ok(error instanceof ConfigError)
    return error.message
  }
  return assert.fail('it was read')
}

describe('parseYaml', () => {
  it('gives plain values and their places', () => {
    const file = parseYaml('zone: a\nregistries:\n  ghcr.io:\n    proxy: x\ntrackers: [a, b]\n', 'a.yaml')
    assert.deepEqual(structuredClone(file.values), {
      zone: 'a',
      registries: { 'ghcr.io': { proxy: 'x' } },
      trackers: ['a', 'b'],
    })
    assert.equal(file.placeOf('/zone', 'key'), 'a.yaml:1:1')
    assert.equal(file.placeOf('/zone', 'value'), 'a.yaml:1:7')
    assert.equal(file.placeOf('/registries/ghcr.io/proxy', 'key'), 'a.yaml:4:5')
    assert.equal(file.placeOf('/trackers/1', 'value'), 'a.yaml:5:15')
  })

  it('takes an empty file as one without keys', () => {
    assert.deepEqual(structuredClone(parseYaml('# nothing\n', 'a.yaml').values), {})
  })

  it('follows an alias', () => {
    const { values } = parseYaml('registries:\n  a.io: &a {username: u}\n  b.io: *a\n', 'a.yaml')
    assert.deepEqual(structuredClone(values), { registries: { 'a.io': { username: 'u' }, 'b.io': { username: 'u' } } })
  })

  it('keeps a key called __proto__ a key', () => {
    const { values } = parseYaml('__proto__: {polluted: 1}\n', 'a.yaml')
    assert.deepEqual(Object.keys(values), ['__proto__'])
    assert.equal(({} as Record<string, unknown>)['polluted'], undefined)
  })

  it('names a key that is given twice with both places, and goes on', () => {
    const { mistakes, values } = parseYaml('zone: a\nmirrorPort: 1\nzone: b\n', 'a.yaml')
    assert.deepEqual(mistakes, [{ where: 'a.yaml:3:1', key: 'zone', message: 'is given twice, first at a.yaml:1:1' }])
    assert.equal(values['zone'], 'a')
  })

  it('names the place of a syntax error', () => {
    assert.match(refusal('zone: a\n  b: c\n'), /^a\.yaml:[12]:\d+: not valid YAML: /)
  })

  it('refuses a top level that is no map', () => {
    assert.match(parseYaml('- a\n', 'a.yaml').mistakes[0]?.message ?? '', /must hold keys and values/)
  })

  it('refuses a second document', () => {
    assert.match(refusal('a: 1\n---\nb: 2\n'), /not valid YAML/)
  })

  it('refuses an alias to nothing', () => {
    assert.match(
      parseYaml('a: *b\n', 'a.yaml').mistakes[0]?.message ?? refusal('a: *b\n'),
      /\*b refers to nothing|alias/i,
    )
  })

  const bomb = ['a: &a [x, x, x, x, x, x, x, x, x, x]']
  for (let level = 1; level < 9; level++) {
    const [name, previous] = ['abcdefghi'[level], 'abcdefghi'[level - 1]]
    bomb.push(`${name}: &${name} [${Array.from({ length: 10 }, () => `*${previous}`).join(', ')}]`)
  }
  const hostile: [string, string, RegExp][] = [
    ['a bomb of aliases', bomb.join('\n'), /more than 20000 values/],
    ['an alias to what it is in', 'a: &a\n  b: *a\n', /nested too deeply/],
    ['deep lists', '['.repeat(100_000), /nested too deeply|not valid YAML/],
    [
      'maps in maps without a line break, which overran the stack',
      ': '.repeat(5000),
      /nested too deeply|not valid YAML/,
    ],
    ['deep block lists', '- '.repeat(50_000), /nested too deeply|not valid YAML/],
    [
      '20 levels of maps',
      Array.from({ length: 20 }, (_, depth) => `${' '.repeat(depth)}a:`).join('\n'),
      /nested too deeply/,
    ],
    ['many values', `a: [${'1,'.repeat(30_000)}]`, /more than 20000 values/],
  ]
  for (const [name, text, message] of hostile) it(`refuses ${name}`, () => assert.match(refusal(text), message))

  it('gives values or a ConfigError for any text', () => {
    const fragment = fc.constantFrom(
      'a',
      ': ',
      '- ',
      '&x ',
      '*x',
      '\n',
      '  ',
      '[',
      ']',
      '{',
      '}',
      '? ',
      '!!str ',
      '|',
      '"',
      "'",
      '#',
      '---',
      '<<: ',
      ',',
    )
    fc.assert(
      fc.property(fc.array(fragment, { maxLength: 40 }), (parts) => {
        try {
          assert.equal(typeof parseYaml(parts.join(''), 'a.yaml').values, 'object')
        } catch (error) {
          assert.ok(error instanceof ConfigError, String(error))
        }
      }),
    )
  })
})

describe('readYamlFile', () => {
  let directory = ''
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'shoal-yaml-'))
  })
  after(() => rm(directory, { recursive: true }))

  it('reads a file through a symbolic link, as Kubernetes mounts it', async () => {
    await writeFile(join(directory, 'real.yaml'), 'zone: a\n')
    await symlink('real.yaml', join(directory, 'link.yaml'))
    assert.equal((await readYamlFile(join(directory, 'link.yaml'))).values['zone'], 'a')
  })

  it('tells that there is no such file', () =>
    assert.rejects(readYamlFile(join(directory, 'none.yaml')), /none\.yaml: .*no such file/))
  it('refuses a directory', () => assert.rejects(readYamlFile(directory), /not a regular file|EISDIR/))
  it('refuses a device', () => assert.rejects(readYamlFile('/dev/zero'), /not a regular file/))

  it('refuses a file that is too large', async () => {
    await writeFile(join(directory, 'large.yaml'), Buffer.alloc(MAX_FILE_BYTES + 1, '#'))
    await assert.rejects(readYamlFile(join(directory, 'large.yaml')), /larger than 256 KiB/)
  })

  it('refuses what is not text', async () => {
    await writeFile(join(directory, 'binary.yaml'), Buffer.from([0xff, 0xfe, 0x00]))
    await assert.rejects(readYamlFile(join(directory, 'binary.yaml')), /not UTF-8/)
  })
})

describe('dotted', () => {
  it('quotes what is no plain word', () => {
    assert.equal(dotted('/registries/a.io:5000/proxy'), 'registries."a.io:5000".proxy')
    assert.equal(dotted('/trackers/1'), 'trackers[1]')
    assert.equal(dotted('/a~1b'), '"a/b"')
  })
})
