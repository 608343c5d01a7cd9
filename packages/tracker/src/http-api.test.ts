import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import type { ControlPlane } from '@shoal/network'
import { digestOf } from '@shoal/oci'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { Coordinator } from './coordinator.ts'
import { createHttpApi } from './http-api.ts'
import { createTrackerMetrics } from './metrics.ts'
import { FakeChannel } from '@shoal/swarm/testing'

const CHUNK = 256 * 1024

function setUp(t: TestContext) {
  const registry = new Registry()
  const logger = pino({ level: 'silent' })
  const node = new FakeChannel('peer0', 'rack-1')
  const metrics = createTrackerMetrics(registry, {
    swarms: () => coordinator.swarms.size,
    nodes: () => 1,
    members: () => 1,
  })
  const coordinator = new Coordinator({ originConcurrency: 2, leaseIdleMs: 1000, tagTtlMs: 1000, logger, metrics })
  t.after(() => coordinator.close())
  const address = { peerId: 'tracker', multiaddrs: [], transfer: '', zone: '' }
  const control = { peerId: 'tracker', address, channels: () => [node] } as unknown as ControlPlane
  let ready = false
  const server = createHttpApi({ coordinator, control, registry, version: '1.2.3', logger, isReady: () => ready })
  t.after(() => server.close())
  const chunks = new Uint8Array([0b11])
  const digest = digestOf('blob')
  const join = { type: 'tracker-join', digest, sizeBytes: 4 * CHUNK, originHost: 'origin.test', chunks } as const
  coordinator.receive(node, { ...join, complete: false, leaseCredit: 1 })
  return { server, digest, beReady: () => (ready = true) }
}

test('health is told at once, readiness when it listens', async (t) => {
  const { server, beReady } = setUp(t)
  assert.equal((await server.inject('/healthz')).statusCode, 200)
  assert.equal((await server.inject('/readyz')).statusCode, 503)
  beReady()
  assert.equal((await server.inject('/readyz')).statusCode, 200)
})

test('swarms, nodes and status are told as JSON', async (t) => {
  const { server, digest } = setUp(t)
  const swarms = (await server.inject('/api/v1/swarms')).json()
  assert.deepEqual(
    swarms.swarms.map((swarm: object) => ({ ...swarm, leases: undefined })),
    [
      {
        digest,
        sizeBytes: 4 * CHUNK,
        originHost: 'origin.test',
        members: 1,
        completeMembers: 0,
        chunks: 4,
        coveredChunks: 2,
        leases: undefined,
      },
    ],
  )
  const { nodes } = (await server.inject('/api/v1/nodes')).json()
  assert.equal(nodes.length, 1)
  assert.equal(nodes[0].peerId, 'peer0')
  assert.equal(nodes[0].zone, 'rack-1')
  assert.equal(nodes[0].swarms, 1)
  const status = (await server.inject('/api/v1/status')).json()
  assert.equal(status.version, '1.2.3')
  assert.equal(status.swarms, 1)
})

test('metrics are in the format of Prometheus', async (t) => {
  const { server } = setUp(t)
  const answer = await server.inject('/metrics')
  assert.match(answer.headers['content-type'] as string, /^text\/plain/)
  assert.match(answer.body, /^shoal_tracker_swarms 1$/m)
  assert.match(answer.body, /^shoal_tracker_messages_total\{type="tracker-join"\} 1$/m)
})

test('it is read-only', async (t) => {
  const { server } = setUp(t)
  for (const method of ['POST', 'PUT', 'DELETE'] as const) {
    assert.equal((await server.inject({ method, url: '/api/v1/swarms' })).statusCode, 404)
  }
})
