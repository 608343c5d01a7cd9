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

  const bad: Record<string, unknown>[] = [
    { tlsCertFile: '/c' },
    { tlsKeyFile: '/k' },
    { port: -1 },
    { uploadExpiry: 1 },
    { unknown: 1 },
  ]
  for (const config of bad) it(`refuses ${JSON.stringify(config)}`, () => assert.ok(!valid(config)))
})
