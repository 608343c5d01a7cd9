import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import type { ControlMessage, PreheatReport } from '@shoal/network'
import { FakeChannel } from '@shoal/swarm/testing'
import { pino } from 'pino'
import { Preheats } from './preheats.ts'

const WISH = {
  image: 'docker.io/library/app:1',
  platform: '',
  zone: undefined,
  nodesPercent: 100,
  action: 'pull',
} as const

function setUp(t: TestContext, count = 10) {
  const channels = Array.from({ length: count }, (_, i) => new FakeChannel(`peer${i}`, i % 2 === 0 ? 'even' : 'odd'))
  const gone = new Set<FakeChannel>()
  const agents = () => channels.filter((channel) => !gone.has(channel))
  const preheats = new Preheats({ agents, logger: pino({ level: 'silent' }) })
  t.after(() => preheats.close())
  const ordered = () => channels.filter(({ sent }) => sent.some(({ type }) => type === 'preheat-order'))
  return { channels, gone, preheats, ordered }
}

function reportOf(preheatId: string, more: Partial<PreheatReport> = {}): PreheatReport {
  const bytes = { totalBytes: 10, receivedBytes: 10, fromPeersBytes: 4, fromOriginBytes: 6 }
  return { type: 'preheat-report', preheatId, state: 'done', digest: '', ...bytes, errorCode: '', reason: '', ...more }
}

const countOrders = (sent: ControlMessage[]) => sent.filter(({ type }) => type === 'preheat-order').length

test('a larger share includes the nodes of a smaller one, and a zone keeps to itself', (t) => {
  const { preheats, ordered, channels } = setUp(t)
  const some = preheats.start({ ...WISH, nodesPercent: 20 }, 0)!
  const more = preheats.start({ ...WISH, nodesPercent: 50 }, 0)!
  assert.equal(some.nodes.size, 2)
  assert.equal(more.nodes.size, 5)
  for (const peerId of some.nodes.keys()) assert.ok(more.nodes.has(peerId))
  assert.equal(ordered().length, 5)
  const zone = preheats.start({ ...WISH, zone: 'odd', nodesPercent: 1 }, 0)!
  assert.deepEqual(
    [...zone.nodes.values()].map((node) => node.zone),
    ['odd'],
  )
  assert.equal(preheats.start({ ...WISH, zone: 'none' }, 0)!.state, 'done')
  assert.equal(channels.length, 10)
})

test('it is over when every node is, and failed when one has', (t) => {
  const { preheats } = setUp(t, 2)
  const { id, nodes } = preheats.start(WISH, 0)!
  preheats.report('peer0', reportOf(id))
  preheats.report('peer0', reportOf(id, { state: 'running' }))
  assert.equal(nodes.get('peer0')!.state, 'done', 'what is over is over')
  preheats.report('stranger', reportOf(id))
  assert.equal(preheats.get(id)!.state, 'running')
  preheats.report('peer1', reportOf(id, { state: 'failed', errorCode: 'DENIED', reason: 'no' }))
  assert.equal(preheats.get(id)!.state, 'failed')
  assert.equal(nodes.get('peer1')!.reason, 'no (DENIED)')
})

test('who says nothing is asked again, then given up', (t) => {
  const { preheats, channels } = setUp(t, 1)
  const { id } = preheats.start(WISH, 0)!
  for (let sweep = 0; sweep < 4; sweep++) preheats.sweep(0)
  assert.equal(countOrders(channels[0]!.sent), 5)
  assert.equal(preheats.get(id)!.state, 'running')
  preheats.sweep(0)
  assert.equal(preheats.get(id)!.state, 'failed')
})

test('a node that comes back in time is told again; one that does not is given up', (t) => {
  const { preheats, channels, gone } = setUp(t, 1)
  const channel = channels[0]!
  const { id, nodes } = preheats.start(WISH, 0)!
  preheats.report('peer0', reportOf(id, { state: 'running' }))
  gone.add(channel)
  preheats.sweep(1000)
  assert.equal(nodes.get('peer0')!.state, 'lost')
  gone.delete(channel)
  preheats.connected(channel, 2000)
  assert.equal(countOrders(channel.sent), 2)
  gone.add(channel)
  preheats.sweep(3000)
  preheats.sweep(62_999)
  assert.equal(preheats.get(id)!.state, 'running')
  preheats.sweep(63_000)
  assert.equal(preheats.get(id)!.state, 'failed')
})

test('a cancelled preheat is told to its nodes, and is over', (t) => {
  const { preheats, channels } = setUp(t, 2)
  const { id } = preheats.start(WISH, 0)!
  assert.equal(preheats.cancel(id), true)
  for (const { sent } of channels) assert.deepEqual(sent.at(-1), { type: 'preheat-cancel', preheatId: id })
  preheats.report('peer0', reportOf(id))
  assert.equal(preheats.get(id)!.state, 'cancelled')
  assert.equal(preheats.cancel(id), false)
})

test('what runs and what is remembered is bounded', (t) => {
  const { preheats } = setUp(t, 1)
  const ids = Array.from({ length: 17 }, () => preheats.start(WISH, 0)?.id)
  assert.equal(ids.filter((id) => id !== undefined).length, 16)
  for (let i = 0; i < 200; i++) {
    const { id } = preheats.start(WISH, 0) ?? preheats.list().find(({ state }) => state === 'running')!
    preheats.report('peer0', reportOf(id))
  }
  assert.ok(preheats.list().length <= 100)
})

test('a report of one node among thousands does not look at the others', (t) => {
  const { preheats, channels } = setUp(t)
  const preheat = preheats.start(WISH, 0)!
  preheat.nodes.values = () => assert.fail('all nodes were looked at')
  for (const { peerId } of channels.slice(1)) preheats.report(peerId, reportOf(preheat.id))
  preheats.report(channels[0]!.peerId, reportOf(preheat.id, { state: 'running' }))
  assert.equal(preheat.state, 'running')
})
