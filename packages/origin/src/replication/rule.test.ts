import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ConfigMistakeError } from '@shoal/oci'
import { nameAtTarget, ruleNames } from './rule.ts'

const url = 'https://registry.example.com:5000'

test('names lose their beginning, and get another', () => {
  const cases: [removePrefix: string | undefined, addPrefix: string | undefined, name: string, there: string][] = [
    [undefined, undefined, 'team/web', 'team/web'],
    ['team', undefined, 'team/web', 'web'],
    ['team', undefined, 'team', 'team'],
    ['team', undefined, 'teams/web', 'teams/web'],
    ['team/web', undefined, 'team/web/api', 'api'],
    [undefined, 'site-1/copies', 'team/web', 'site-1/copies/team/web'],
    ['team', 'other', 'team/web', 'other/web'],
    ['team', 'other', 'base', 'other/base'],
  ]
  for (const [removePrefix, addPrefix, name, there] of cases) {
    const rule = { url, ...(removePrefix && { removePrefix }), ...(addPrefix && { addPrefix }) }
    assert.equal(nameAtTarget(rule, name), there)
  }
})

test('each rule has a name of its own', () => {
  const rules = [{ url }, { url, addPrefix: 'a' }, { url, name: 'second' }]
  assert.deepEqual(ruleNames(rules), ['registry.example.com:5000', 'registry.example.com:5000/a', 'second'])
  assert.throws(() => ruleNames([{ url }, { url, repositories: ['a/**'] }]), ConfigMistakeError)
})
