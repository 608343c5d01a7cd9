import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { digestOf, type Digest } from '@shoal/oci'
import { pino } from 'pino'
import { Providing, type ProvidingInit } from './providing.ts'

const ONE = digestOf('one')
const TWO = digestOf('two')
const THREE = digestOf('three')

/** In a network so large that its growth is no reason to tell anything again. */
function setUp(t: TestContext, timing: Pick<ProvidingInit, 'repeatMs' | 'repeatPauseMs'>) {
  const told: Digest[] = []
  const providing = new Providing({
    provide: async (digest) => void told.push(digest),
    cancel: async () => undefined,
    routingTableSize: () => 100,
    logger: pino({ level: 'silent' }),
    ...timing,
  })
  t.after(() => providing.stop())
  const { signal } = new AbortController()
  return {
    told,
    addAll: async () => {
      for (const digest of [ONE, TWO, THREE]) await providing.add(digest, signal)
    },
    /** A look at what is due. What it has begun is over one turn of the event loop later: nothing here takes time. */
    look: async () => {
      providing.peerFound()
      await new Promise((resolve) => setImmediate(resolve))
    },
  }
}

test('what was told is told again when it is old, the oldest first', async (t) => {
  const { told, addAll, look } = setUp(t, { repeatMs: 0, repeatPauseMs: 0 })
  await addAll()
  for (let count = 0; count < 6; count++) await look()
  assert.deepEqual(told, [ONE, TWO, THREE, ONE, TWO, THREE, ONE, TWO, THREE])
})

test('repetitions keep their distance, however many are due and however often they are looked at', async (t) => {
  const { told, addAll, look } = setUp(t, { repeatMs: 0, repeatPauseMs: 3600_000 })
  await addAll()
  for (let count = 0; count < 6; count++) await look()
  assert.deepEqual(told, [ONE, TWO, THREE, ONE])
})

test('what is not old is not told again', async (t) => {
  const { told, addAll, look } = setUp(t, { repeatMs: 3600_000, repeatPauseMs: 0 })
  await addAll()
  for (let count = 0; count < 6; count++) await look()
  assert.deepEqual(told, [ONE, TWO, THREE])
})
