import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import test from 'node:test'
import { hedged, unlessAborted, withTimeLimit } from './aborting.ts'

const never = new Promise<never>(() => undefined)
const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length

test('work within the limit leaves neither a timer nor a listener', async () => {
  const { signal } = new AbortController()
  const before = timers()
  assert.equal(await withTimeLimit(signal, 60_000, () => Promise.resolve(7)), 7)
  await assert.rejects(
    withTimeLimit(signal, 60_000, () => Promise.reject(new Error('broken'))),
    /broken/,
  )
  assert.equal(timers(), before)
  assert.equal(getEventListeners(signal, 'abort').length, 0)
})

test('what the work left under way is told that it is over', async () => {
  const { signal } = new AbortController()
  let left: AbortSignal | undefined
  await withTimeLimit(signal, 60_000, (limited) => Promise.resolve((left = limited)))
  assert.equal(left?.aborted, true)
})

test('work that takes longer sees a TimeoutError', async () => {
  const { signal } = new AbortController()
  const late = withTimeLimit(signal, 5, (limited) => unlessAborted(never, limited))
  await assert.rejects(late, { name: 'TimeoutError' })
})

test('work sees the reason of whoever stopped waiting, before and meanwhile', async () => {
  const waiting = new AbortController()
  const stopped = withTimeLimit(waiting.signal, 60_000, (limited) => unlessAborted(never, limited))
  waiting.abort(new Error('gone'))
  await assert.rejects(stopped, /gone/)
  await assert.rejects(
    withTimeLimit(waiting.signal, 60_000, () => Promise.resolve()),
    /gone/,
  )
})

test('a second way is taken only where the first is late, and its failure is no answer', async () => {
  const before = timers()
  const notTaken = () => assert.fail('the first was in time')
  assert.equal(await hedged(Promise.resolve('first'), 60_000, notTaken), 'first')
  await assert.rejects(hedged(Promise.reject(new Error('broken')), 60_000, notTaken), /broken/)
  assert.equal(timers(), before)
  const patient = hedged(new Promise((resolve) => setImmediate(resolve, 'first')), Infinity, notTaken)
  assert.equal(timers(), before)
  assert.equal(await patient, 'first')

  assert.equal(await hedged<string>(never, 1, () => Promise.resolve('second')), 'second')

  const late = Promise.withResolvers<string>()
  const failing = hedged(late.promise, 1, () => {
    setImmediate(() => late.resolve('first, late'))
    return Promise.reject(new Error('broken'))
  })
  assert.equal(await failing, 'first, late')
})

test('a second way that has been taken counts though the first fails, and tells of the first where it fails, too', async () => {
  for (const [brings, outcome] of [
    [() => Promise.resolve('second'), 'second'],
    [() => Promise.reject(new Error('broken, too')), 'broken'],
  ] as const) {
    const first = Promise.withResolvers<string>()
    const done = Promise.withResolvers<void>()
    const answer = hedged(first.promise, 1, async () => {
      first.reject(new Error('broken'))
      await done.promise
      return await brings()
    })
    setImmediate(done.resolve)
    assert.equal(await answer.catch((error: unknown) => (error as Error).message), outcome)
  }
})

test('the second way ends when the first has brought the answer', async () => {
  const first = Promise.withResolvers<string>()
  let seen: AbortSignal | undefined
  const answer = hedged(first.promise, 1, (signal) => {
    seen = signal
    first.resolve('first')
    return never
  })
  assert.equal(await answer, 'first')
  assert.equal(seen?.aborted, true)
})
