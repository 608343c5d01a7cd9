import { test } from 'node:test'
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { AccessRules, InvalidRuleError, type AccessRule, type Action } from './rules.ts'

function allows(rules: AccessRule[], user: string | undefined, name: string): string {
  return [...new AccessRules(rules).allowed(user, name)].sort().join(' ')
}

const pull: Action[] = ['pull']

test('without rules, who has logged in may do everything', () => {
  const rules = new AccessRules()
  assert.deepEqual(rules.allowed('ann', 'any/thing'), new Set(['pull', 'push', 'delete']))
  assert.deepEqual(rules.allowed(undefined, 'any/thing'), new Set())
})

test('rules add up, and name who they are for', () => {
  const rules: AccessRule[] = [
    { repositories: ['public/**'], users: ['anonymous'], actions: ['pull'] },
    { repositories: ['**'], users: ['*'], actions: ['pull'] },
    { repositories: ['team-a/**'], users: ['ann', 'bob'], actions: ['push'] },
    { repositories: ['home/{user}/**'], users: ['*'], actions: ['push', 'delete'] },
  ]
  assert.equal(allows(rules, undefined, 'public/app'), 'pull')
  assert.equal(allows(rules, undefined, 'team-a/app'), '')
  assert.equal(allows(rules, 'carl', 'team-a/app'), 'pull')
  assert.equal(allows(rules, 'ann', 'team-a/deep/app'), 'pull push')
  assert.equal(allows(rules, 'ann', 'home/ann/x'), 'delete pull push')
  assert.equal(allows(rules, 'ann', 'home/bob/x'), 'pull')
  assert.equal(allows(rules, undefined, 'home//x'), '')
})

test('patterns match whole names', () => {
  const cases: [string, string, boolean][] = [
    ['a/*', 'a/b', true],
    ['a/*', 'a/b/c', false],
    ['a/*', 'a', false],
    ['a/**', 'a', true],
    ['a/**', 'a/b/c', true],
    ['**/c', 'a/b/c', true],
    ['**/c', 'c', true],
    ['app-*', 'app-1', true],
    ['app-*', 'x/app-1', false],
    ['*-a*b', 'x-aab', true],
    ['*a*a', 'a', false],
    ['a.c', 'abc', false],
    ['ab*ba', 'aba', false],
  ]
  for (const [pattern, name, expected] of cases) {
    const rules = [{ repositories: [pattern], users: ['anonymous'], actions: pull }]
    assert.equal(allows(rules, undefined, name) === 'pull', expected, `${pattern} ${name}`)
  }
})

test('two stars match as a regular expression would', () => {
  const segment = fc.constantFrom('a', 'b')
  const parts = fc.array(fc.oneof(segment, fc.constant('**')), { minLength: 1, maxLength: 7 })
  fc.assert(
    fc.property(parts, fc.array(segment, { minLength: 1, maxLength: 8 }), (pattern, segments) => {
      const source = pattern.map((part) => (part === '**' ? '(?:[ab]/)*' : `${part}/`)).join('')
      const expected = new RegExp(`^${source}$`).test(segments.map((part) => `${part}/`).join(''))
      const rules = [{ repositories: [pattern.join('/')], users: ['anonymous'], actions: pull }]
      assert.equal(allows(rules, undefined, segments.join('/')) === 'pull', expected)
    }),
  )
})

test('a long name costs a pattern of many stars no more than its length', () => {
  const rules = [{ repositories: [`${'**/a/'.repeat(12)}b`], users: ['anonymous'], actions: pull }]
  assert.equal(allows(rules, undefined, Array.from({ length: 2000 }, () => 'a').join('/')), '')
})

test('a star matches as a regular expression would', () => {
  const text = fc.string({ unit: fc.constantFrom('a', 'b', '*', '-'), minLength: 1, maxLength: 8 })
  const name = fc.string({ unit: fc.constantFrom('a', 'b', '-'), minLength: 1, maxLength: 10 })
  fc.assert(
    fc.property(text, name, (pattern, segment) => {
      fc.pre(!pattern.includes('**'))
      const expected = new RegExp(`^${pattern.replaceAll('*', '.*')}$`).test(segment)
      const rules = [{ repositories: [pattern], users: ['anonymous'], actions: pull }]
      assert.equal(allows(rules, undefined, segment) === 'pull', expected)
    }),
  )
})

test('rules that mean nothing are refused', () => {
  for (const rule of [
    { repositories: [], users: ['*'], actions: pull },
    { repositories: ['a'], users: [], actions: pull },
    { repositories: ['a'], users: ['*'], actions: [] },
    { repositories: ['A b'], users: ['*'], actions: pull },
    { repositories: ['a'], users: ['*'], actions: ['read' as Action] },
  ]) {
    assert.throws(() => new AccessRules([rule]), InvalidRuleError)
  }
})
