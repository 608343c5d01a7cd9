import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import fc from 'fast-check'
import { Links } from './links.ts'

function linksOf(nodes: number, zones: number[] = [], border: number[] = [Infinity]): Links {
  return new Links({
    up: new Float64Array(nodes).fill(100),
    down: new Float64Array(nodes).fill(100),
    zone: Int32Array.from({ length: nodes }, (_, node) => zones[node] ?? 0),
    border: Float64Array.from(border),
    perFlow: Infinity,
  })
}

/** Steps until the flow is over. */
function stepsFor(links: Links, isOver: () => boolean): number {
  let steps = 0
  while (!isOver() && steps < 100_000) {
    links.advance(1)
    steps++
  }
  return steps
}

test('a lone flow gets the whole link, two share it, and what one cannot use the other gets', () => {
  const links = linksOf(4)
  let done = 0
  links.add(0, 1, 1000, () => done++)
  assert.equal(
    stepsFor(links, () => done === 1),
    10,
  )
  links.add(0, 1, 1000, () => done++)
  links.add(0, 2, 1000, () => done++)
  assert.equal(
    stepsFor(links, () => done === 3),
    20,
  )
  // Node 3 receives from 0, 1 and 2: a third each. Node 0 has the rest for node 1.
  for (const from of [0, 1, 2]) links.add(from, 3, 1e6, () => done++)
  links.add(0, 1, 6600, () => done++)
  const steps = stepsFor(links, () => done === 4)
  assert.ok(steps >= 99 && steps <= 104, `${steps}`)
})

test('a border is shared by all that cross it', () => {
  const links = linksOf(4, [0, 0, 1, 1], [50, 50])
  let done = 0
  links.add(0, 2, 1000, () => done++)
  links.add(1, 3, 1000, () => done++)
  assert.equal(
    stepsFor(links, () => done === 2),
    40,
  )
  assert.equal(links.zoneOut[0], 2000)
  assert.equal(links.zoneIn[1], 2000)
})

test('no link ever carries more than its rate, and all bytes arrive', () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.record({ from: fc.nat({ max: 5 }), to: fc.nat({ max: 5 }), bytes: fc.integer({ min: 1, max: 5000 }) }),
        {
          minLength: 1,
          maxLength: 40,
        },
      ),
      (transfers) => {
        const links = linksOf(6)
        let done = 0
        const flows = transfers.map(({ from, to, bytes }) => links.add(from, to, bytes, () => done++))
        let steps = 0
        while (done < transfers.length && steps < 10_000) {
          const before = flows.map((flow) => links.remaining(flow))
          links.advance(1)
          steps++
          const out = new Float64Array(6)
          const into = new Float64Array(6)
          flows.forEach((flow, at) => {
            const moved = before[at]! - links.remaining(flow)
            out[flow.from]! += moved
            into[flow.to]! += moved
          })
          for (let node = 0; node < 6; node++) assert.ok(out[node]! <= 100.001 && into[node]! <= 100.001)
        }
        assert.equal(done, transfers.length)
        const total = transfers.reduce((sum, { bytes }) => sum + bytes, 0)
        assert.ok(Math.abs(links.sent.reduce((sum, bytes) => sum + bytes, 0) - total) < 1e-3)
      },
    ),
    { numRuns: 50 },
  )
})

test('a flow that is taken away frees its share and counts what it carried', () => {
  const links = linksOf(3)
  let done = 0
  const gone = links.add(0, 1, 1000, () => assert.fail('was taken away'))
  links.add(0, 2, 1000, () => done++)
  for (let step = 0; step < 10; step++) links.advance(1)
  links.remove(gone)
  links.remove(gone)
  assert.equal(links.sent[0], 500)
  assert.equal(
    stepsFor(links, () => done === 1),
    5,
  )
})
