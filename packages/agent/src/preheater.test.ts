// Orders of a tracker that wait for their turn.
import assert from 'node:assert/strict'
import test from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import type { PreheatReport } from '@shoal/network'
import type { Pins } from './pins.ts'
import { Preheater, type PullWish } from './preheater.ts'
import { silent } from './testing/agents.ts'

/** As many as a node holds, and as it carries out at once. */
const ORDERS = 64
const AT_ONCE = 2

function setUp() {
  const pulls = new Map<string, PullWish & { end: () => void }>()
  const reports: PreheatReport[] = []
  const pull = async (wish: PullWish): Promise<undefined> => {
    const { promise, resolve, reject } = Promise.withResolvers<undefined>()
    wish.signal.addEventListener('abort', () => reject(wish.signal.reason as Error))
    pulls.set(wish.requestId.slice('preheat-'.length), { ...wish, end: () => resolve(undefined) })
    return await promise
  }
  const preheater = new Preheater({ pins: {} as Pins, pull, logger: silent })
  const order = (preheatId: string) =>
    preheater.order({ type: 'preheat-order', preheatId, image: 'a:1', platform: '', action: 'pull' }, (report) => {
      reports.push({ ...(report as PreheatReport) })
    })
  const statesOf = (preheatId: string) =>
    reports.filter((report) => report.preheatId === preheatId).map(({ state }) => state)
  return { preheater, order, statesOf, pulls, reports }
}

test('an order that is cancelled while it waits says so at once, and leaves its place to others', async (t) => {
  const { preheater, order, statesOf, pulls, reports } = setUp()
  t.after(() => preheater.close())
  const ids = Array.from({ length: ORDERS }, (_, at) => `order-${at}`)
  for (const id of ids) order(id)
  order('too-many')
  assert.deepEqual(statesOf('too-many'), ['failed'])
  for (const id of ids.slice(AT_ONCE, -1)) preheater.cancel(id)
  await turn()
  for (const id of ids.slice(AT_ONCE, -1)) assert.deepEqual(statesOf(id), ['waiting', 'failed'])
  assert.match(reports.at(-1)!.reason, /cancelled/)
  for (const id of ids.slice(AT_ONCE, -1)) order(`${id}-again`)
  assert.deepEqual(statesOf(`${ids[AT_ONCE]!}-again`), ['waiting'])
  // Whoever waited before is still the next, and nobody's turn is lost.
  assert.deepEqual([...pulls.keys()], ids.slice(0, AT_ONCE))
  pulls.get(ids[0]!)!.end()
  await turn()
  assert.deepEqual([...pulls.keys()].slice(AT_ONCE), [ids.at(-1)])
})

test("a turn that comes to an order while it is cancelled is the next one's", async (t) => {
  // The end of a pull is seen some promises later: one of these is the moment.
  for (let moment = 0; moment < 20; moment++) {
    const { preheater, order, pulls } = setUp()
    t.after(() => preheater.close())
    for (const id of ['one', 'two', 'three', 'four']) order(id)
    await turn()
    pulls.get('one')!.end()
    for (let passed = 0; passed < moment; passed++) await Promise.resolve()
    preheater.cancel('three')
    await turn()
    assert.ok(pulls.has('four'), `after ${moment} promises`)
  }
})
