import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import type { ControlPlane } from '@shoal/network'
import { digestOf } from '@shoal/oci'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { ApiTokens } from '@shoal/registry'
import { Coordinator } from './coordinator.ts'
import { createHttpApi } from './http-api.ts'
import { createTrackerMetrics } from './metrics.ts'
import { Preheats } from './preheats.ts'
import { FakeChannel } from '@shoal/swarm/testing'

const CHUNK = 256 * 1024

const TOKEN = 'token-of-the-tracker-api'

function setUp(t: TestContext, tokens?: ApiTokens, readsNeedToken = false) {
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
  const preheats = new Preheats({ agents: () => [node], logger })
  t.after(() => preheats.close())
  let ready = false
  const server = createHttpApi({
    coordinator,
    preheats,
    control,
    registry,
    version: '1.2.3',
    logger,
    isReady: () => ready,
    tokens,
    readsNeedToken,
    tls: undefined,
  })
  t.after(() => server.close())
  const chunks = new Uint8Array([0b11])
  const digest = digestOf('blob')
  const join = { type: 'tracker-join', digest, sizeBytes: 4 * CHUNK, originHost: 'origin.test', chunks } as const
  coordinator.receive(node, { ...join, complete: false, leaseCredit: 1 })
  return { server, digest, coordinator, beReady: () => (ready = true) }
}

test('a person sees on a page what is rolled out and which nodes are there', async (t) => {
  const { server, digest } = setUp(t)
  const page = await server.inject('/')
  assert.equal(page.headers['content-type'], 'text/html; charset=utf-8')
  for (const text of ['Shoal tracker', digest, 'origin.test', 'peer0', 'rack-1', '1.0 MiB', '50 %']) {
    assert.ok(page.body.includes(text), `${text} is not on the page`)
  }
})

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
test('what changes something needs the token, what tells only where that is wanted', async (t) => {
  const change = { method: 'PATCH', url: '/api/v1/limits', payload: { originConcurrency: 5 } } as const
  const withToken = { headers: { authorization: `Bearer ${TOKEN}` } }
  const locked = setUp(t)
  assert.equal((await locked.server.inject(change)).statusCode, 403)
  assert.equal((await locked.server.inject('/api/v1/limits')).json().originConcurrency, 2)

  const guarded = setUp(t, new ApiTokens([TOKEN]))
  assert.equal((await guarded.server.inject(change)).statusCode, 401)
  assert.equal(guarded.coordinator.originConcurrency, 2)
  assert.equal((await guarded.server.inject({ ...change, ...withToken })).statusCode, 200)
  assert.equal(guarded.coordinator.originConcurrency, 5)
  assert.equal((await guarded.server.inject('/api/v1/swarms')).statusCode, 200)
  for (const payload of [{}, { originConcurrency: 0 }, { originConcurrency: '5' }, { other: 1 }]) {
    assert.equal((await guarded.server.inject({ ...change, ...withToken, payload })).statusCode, 400)
  }

  const closed = setUp(t, new ApiTokens([TOKEN]), true)
  assert.equal((await closed.server.inject('/api/v1/swarms')).statusCode, 401)
  assert.equal((await closed.server.inject({ url: '/api/v1/swarms', ...withToken })).statusCode, 200)
  assert.equal((await closed.server.inject('/metrics')).statusCode, 200)
})
