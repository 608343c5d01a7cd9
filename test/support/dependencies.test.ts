import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { dependenciesIn, isAllowed, readAudit } from './dependencies.ts'

suite('check of dependencies', () => {
  test('production dependencies are found, nested ones too; what is only for development is not', () => {
    const packages = {
      '': { version: '1' },
      'packages/cli': { version: '1' },
      'node_modules/@a/b': { version: '1.0.0', license: 'MIT' },
      'node_modules/@a/b/node_modules/c': { version: '2.0.0' },
      'node_modules/d': { version: '3.0.0', license: 'ISC', dev: true },
      'node_modules/@shoal/cli': { link: true },
    }
    assert.deepEqual(dependenciesIn(JSON.stringify({ packages })), [
      { name: '@a/b', version: '1.0.0', licence: 'MIT' },
      { name: 'c', version: '2.0.0', licence: '' },
    ])
  })

  test('a choice needs one allowed licence, a sum needs all; none at all is not allowed', () => {
    for (const good of ['MIT', 'Apache-2.0 OR MIT', '(MIT OR GPL-3.0)', 'MIT AND ISC']) assert.ok(isAllowed(good), good)
    const bad = ['', 'GPL-3.0', 'MIT AND GPL-3.0', 'UNLICENSED', 'SEE LICENSE IN x', '(MIT OR GPL-3.0) AND AGPL-3.0']
    for (const each of bad) assert.ok(!isAllowed(each), each)
  })

  test('a registry that does not answer is told from one that knows no holes', () => {
    assert.equal(readAudit('').kind, 'unanswered')
    assert.equal(readAudit('{"message":"405 Method Not Allowed"}').kind, 'unanswered')
    assert.deepEqual(readAudit('{"vulnerabilities":{}}'), { kind: 'answered', severe: [] })
    const found = '{"vulnerabilities":{"a":{"severity":"critical"},"b":{"severity":"low"}}}'
    assert.deepEqual(readAudit(found), { kind: 'answered', severe: ['a (critical)'] })
  })
})
