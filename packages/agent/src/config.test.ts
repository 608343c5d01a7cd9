import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Value } from 'typebox/value'
import { agentConfig, agentConfigSchema, type AgentConfig } from './config.ts'

const valid = (more: Partial<AgentConfig>) =>
  Value.Check(agentConfigSchema, agentConfig({ swarmKeyFiles: ['k'], ...more }))

describe('agentConfig', () => {
  it('gives a configuration that the schema takes', () => assert.ok(valid({})))

  it('has the ports and addresses of the design', () => {
    const config = agentConfig({ swarmKeyFiles: ['k'] })
    assert.deepEqual(
      [config.mirrorHost, config.mirrorPort, config.p2pPort, config.transferPort, config.adminHost, config.adminPort],
      ['127.0.0.1', 7700, 7701, 7702, '127.0.0.1', 7703],
    )
  })

  it('gives everybody lists of their own', () => {
    agentConfig({ swarmKeyFiles: ['k'] }).trackers.push('a:1')
    assert.deepEqual(agentConfig({ swarmKeyFiles: ['k'] }).trackers, [])
  })
})

describe('agentConfigSchema', () => {
  const good: Partial<AgentConfig>[] = [
    { trackers: ['tracker-1.example.com:7710', '10.0.0.1:7710', '[fd00::1]:7710', '/dns4/t/tcp/7710/p2p/12D3'] },
    { announceAddresses: ['10.0.0.1', 'fd00::1', 'node-1.example.com'] },
    { mirrorHost: '::' },
    { defaultRegistry: 'registry.example.com:5000' },
    { registries: { 'docker.io': {}, '127.0.0.1:5000': { plainHttp: true }, '[::1]:5000': {} } },
    { allowRegistries: ['*', '*.example.com', 'ghcr.io', '127.0.0.1:5000'] },
    { registries: { 'a.io': { username: 'u', passwordFile: '/p', proxy: 'http://u:p@proxy:3128' } } },
    { p2pPort: 0 },
  ]
  for (const config of good) it(`takes ${JSON.stringify(config)}`, () => assert.ok(valid(config)))

  const bad: Record<string, unknown>[] = [
    { swarmKeyFiles: [] },
    { trackers: ['tracker'] },
    { trackers: ['http://tracker:7710'] },
    { announceAddresses: ['10.0.0.1:7701'] },
    { announceAddresses: ['[fd00::1]'] },
    { mirrorHost: '[::1]' },
    { defaultRegistry: 'https://docker.io' },
    { registries: { 'docker.io/library': {} } },
    { registries: { 'a.io': { token: 'x' } } },
    { allowRegistries: ['a*b'] },
    { zone: 'a b' },
    { p2pPort: 65_536 },
    { stallTimeout: 1 },
    { unknown: 1 },
  ]
  for (const config of bad) it(`refuses ${JSON.stringify(config)}`, () => assert.ok(!valid(config)))
})
