import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Value } from 'typebox/value'
import { registryConfig, registryConfigSchema, type RegistryConfig } from './config.ts'

const valid = (more: Partial<RegistryConfig>) => Value.Check(registryConfigSchema, registryConfig(more))

describe('registryConfig', () => {
  it('gives a configuration that the schema takes, with the port of the design', () => {
    const config = registryConfig()
    assert.ok(Value.Check(registryConfigSchema, config))
    assert.equal(config.port, 9000)
  })

  it('takes a certificate with its key', () => assert.ok(valid({ tlsCertFile: '/c', tlsKeyFile: '/k' })))

  const rule = { repositories: ['team/**', 'home/{user}/*'], users: ['ann', '*', 'anonymous'], actions: ['pull'] }
  const htpasswdFile = '/h'

  it('takes accounts with rules', () => {
    assert.ok(valid({ htpasswdFile, accessRules: [{ ...rule, actions: ['pull', 'push', 'delete'] }] }))
    assert.ok(valid({ publicUrl: 'https://registry.example.com:8443/' }))
  })

  it('takes quotas', () => assert.ok(valid({ quotas: [{ repositories: ['team-a/**', 'base/*'], limit: 2 ** 30 }] })))

  it('takes endpoints of notifications', () => {
    const one = { url: 'https://ci.example.com/hook?key=1', headersFile: '/h', repositories: ['team-a/**'] }
    assert.ok(valid({ notifications: [one, { url: 'http://127.0.0.1:8080' }] }))
  })

  it('takes origins of web pages', () =>
    assert.ok(valid({ corsOrigins: ['https://ui.example.com', 'http://localhost:8080', 'http://[::1]:8080'] })))

  const url = 'https://registry.example.com:5000'

  it('takes rules of replication', () => {
    const access = { username: 'copy', passwordFile: '/p', caFile: '/ca', certFile: '/c', keyFile: '/k' }
    const names = { repositories: ['team-a/**'], removePrefix: 'team-a', addPrefix: 'site-1/a_b' }
    assert.ok(valid({ replication: [{ url, name: 'site-2', ...names, ...access }, { url }] }))
  })

  const bad: Record<string, unknown>[] = [
    { tlsCertFile: '/c' },
    { tlsKeyFile: '/k' },
    { port: -1 },
    { notifications: [{ url: 'ci.example.com' }] },
    { notifications: [{ url: 'https://user:pass@ci.example.com' }] },
    { notifications: [{ url: 'http://ci', repositories: [] }] },
    { notifications: [{ headersFile: '/h' }] },
    { quotas: [{ repositories: ['home/{user}/**'], limit: 1 }] },
    { quotas: [{ repositories: ['a/**'], limit: 0 }] },
    { quotas: [{ repositories: [], limit: 1 }] },
    { quotas: [{ repositories: ['a/**'] }] },
    { replication: [{ repositories: ['**'] }] },
    { replication: [{ url: 'registry.example.com' }] },
    { replication: [{ url: 'https://user:pass@registry.example.com' }] },
    { replication: [{ url: `${url}/v2/` }] },
    { replication: [{ url, addPrefix: 'Site' }] },
    { replication: [{ url, addPrefix: '/site' }] },
    { replication: [{ url, password: 'p' }] },
    { replication: [{ url, username: 'u', password: 'p', passwordFile: '/p' }] },
    { replication: [{ url, certFile: '/c' }] },
    { replication: [{ url, repositories: [] }] },
    { corsOrigins: ['*'] },
    { corsOrigins: ['https://ui.example.com/'] },
    { corsOrigins: ['https://*.example.com'] },
    { corsOrigins: ['ui.example.com'] },
    { corsOrigins: [] },
    { uploadExpiry: 1 },
    { unknown: 1 },
    { accessRules: [rule] },
    { tokenKeyFile: '/t' },
    { htpasswdFile, tokenLifetime: 1_000 },
    { htpasswdFile, accessRules: [{ ...rule, repositories: ['Team/**'] }] },
    { htpasswdFile, accessRules: [{ ...rule, repositories: ['home/{name}/*'] }] },
    { htpasswdFile, accessRules: [{ ...rule, repositories: [] }] },
    { htpasswdFile, accessRules: [{ ...rule, users: ['a b'] }] },
    { htpasswdFile, accessRules: [{ ...rule, actions: ['read'] }] },
    { htpasswdFile, accessRules: [{ ...rule, deny: true }] },
    { htpasswdFile, accessRules: [{ repositories: ['**'], users: ['*'] }] },
    { publicUrl: 'registry.example.com' },
    { publicUrl: 'https://user:pass@registry.example.com' },
    { publicUrl: 'https://registry.example.com/v2/' },
  ]
  for (const config of bad) it(`refuses ${JSON.stringify(config)}`, () => assert.ok(!valid(config)))
})
