import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { pino } from 'pino'
import { collectWhenQuiet } from './quiet-collection.ts'

const MiB = 1024 * 1024
const SILENT = pino({ level: 'silent' })

function watched(t: TestContext) {
  t.mock.timers.enable({ apis: ['setInterval'] })
  const state = { cpuMs: 0, residentBytes: 180 * MiB, afterBytes: 120 * MiB, collections: 0 }
  const stop = collectWhenQuiet(SILENT, {
    cpuMs: () => state.cpuMs,
    residentBytes: () => state.residentBytes,
    collect: async () => {
      state.collections++
      state.residentBytes = state.afterBytes
    },
  })
  t.after(stop)
  /** Ten seconds go by, in which the process was busy for so long. */
  const look = async (busyMs = 100): Promise<number> => {
    state.cpuMs += busyMs
    t.mock.timers.tick(10_000)
    await turn()
    return state.collections
  }
  return { state, look, stop }
}

test('what a start leaves behind is collected when the daemon has been quiet for 30 s', async (t) => {
  const { look } = watched(t)
  assert.deepEqual([await look(2000), await look(), await look(), await look()], [0, 0, 0, 1])
})

test('a busy daemon is left alone', async (t) => {
  const { look } = watched(t)
  for (let at = 0; at < 5; at++) assert.deepEqual([await look(), await look(), await look(500)], [0, 0, 0])
})

test('it is collected again when memory has grown, and only then', async (t) => {
  const { state, look } = watched(t)
  for (let at = 0; at < 10; at++) await look()
  assert.equal(state.collections, 1)
  state.residentBytes += 15 * MiB
  assert.equal(await look(), 1)
  state.residentBytes += MiB
  assert.equal(await look(), 2)
})

test('what cannot be collected is not tried again and again', async (t) => {
  const { state, look } = watched(t)
  state.afterBytes = state.residentBytes
  for (let at = 0; at < 10; at++) await look()
  assert.equal(state.collections, 1)
})

test('it ends when it is told to', async (t) => {
  const { look, stop } = watched(t)
  stop()
  for (let at = 0; at < 10; at++) assert.equal(await look(), 0)
})

test('garbage of this process is collected', async (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] })
  const lost = new WeakRef({ big: new Array(1000).fill(0) })
  const collected = new Promise<void>((resolve) => {
    const logger = pino({ level: 'debug' }, { write: () => resolve() })
    t.after(collectWhenQuiet(logger, undefined))
  })
  // The clock of the timers is the test's, so the processor time of a look is next to nothing.
  for (let at = 0; at < 3; at++) t.mock.timers.tick(10_000)
  await collected
  assert.equal(lost.deref(), undefined)
})
