import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Value } from 'typebox/value'
import { trackerConfig, trackerConfigSchema, type TrackerConfig } from './config.ts'

const valid = (more: Partial<TrackerConfig>) =>
  Value.Check(trackerConfigSchema, trackerConfig({ swarmKeyFiles: ['k'], ...more }))

describe('trackerConfig', () => {
  it('gives a configuration that the schema takes, with the ports of the design', () => {
    const config = trackerConfig({ swarmKeyFiles: ['k'] })
    assert.ok(Value.Check(trackerConfigSchema, config))
    assert.deepEqual([config.p2pPort, config.httpPort], [7710, 7711])
  })

  it('takes the other trackers as bootstrap peers', () =>
    assert.ok(valid({ bootstrapPeers: ['t2:7710', '/ip4/10.0.0.2/tcp/7710'] })))

  const bad: Record<string, unknown>[] = [
    { swarmKeyFiles: [] },
    { bootstrapPeers: ['t2'] },
    { leaseIdle: 0 },
    { originConcurrency: 0 },
    { unknown: 1 },
  ]
  for (const config of bad) it(`refuses ${JSON.stringify(config)}`, () => assert.ok(!valid(config)))
})
