import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import fc from 'fast-check'
import { InboundMeter } from './inbound-meter.ts'

function meter(): { meter: InboundMeter; floods: string[] } {
  const floods: string[] = []
  const options = { ratePerSecond: 100, burst: 50, floodAfterMs: 5000 }
  return { meter: new InboundMeter({ ...options, onFlood: (peer) => floods.push(peer) }), floods }
}

suite('inbound meter', () => {
  test('a burst passes, what is more waits for as long as it is too much', () => {
    const { meter: inbound, floods } = meter()
    for (let unit = 0; unit < 50; unit++) assert.equal(inbound.take('a', 1, 0), 0)
    assert.equal(inbound.take('a', 10, 0), 100)
    // Another peer has an account of its own.
    assert.equal(inbound.take('b', 50, 0), 0)
    assert.equal(inbound.take('a', 1, 200), 0)
    assert.deepEqual(floods, [])
  })

  test('who is held back for long is flooding, who pauses is not', () => {
    const { meter: inbound, floods } = meter()
    let now = 0
    while (now < 4900) now += Math.max(1, inbound.take('busy', 60, now))
    now += 1000
    while (now < 9000) now += Math.max(1, inbound.take('busy', 60, now))
    assert.deepEqual(floods, [])
    let flooding = 0
    while (floods.length === 0 && flooding < 6000) flooding += Math.max(1, inbound.take('flooder', 60, flooding))
    assert.deepEqual(floods, ['flooder'])
    assert.ok(flooding >= 5000)
  })

  test('who obeys never gets more through than the burst and the rate', () => {
    const steps = fc.array(fc.record({ units: fc.nat(40), waitMs: fc.nat(500) }), { maxLength: 100 })
    fc.assert(
      fc.property(steps, (list) => {
        const { meter: inbound } = meter()
        let now = 0
        let through = 0
        for (const { units, waitMs } of list) {
          through += units
          now += Math.max(inbound.take('a', units, now), waitMs)
          assert.ok(through <= 50 + now / 10 + 1e-6)
        }
      }),
    )
  })
})
