import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import fc from 'fast-check'
import { ZoneBooks } from './zone-books.ts'

const CHUNKS = 9
const ZONES = ['a', 'b', 'c'] as const

interface Member {
  zone: (typeof ZONES)[number]
  chunks: Set<number>
  promised: Set<number>
  complete: boolean
}

const step = fc.record({
  kind: fc.constantFrom('join', 'leave', 'chunk', 'promise', 'complete'),
  who: fc.nat({ max: 7 }),
  chunk: fc.nat({ max: CHUNKS - 1 }),
})

/** Switches between having and not having. */
function toggle(set: Set<number>, chunk: number): 1 | -1 {
  if (set.delete(chunk)) return -1
  set.add(chunk)
  return 1
}

test('a zone wants what another has and nobody of its own has or is bringing, whatever has happened', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const books = new ZoneBooks(CHUNKS)
      const members = new Map<number, Member>()
      for (const { kind, who, chunk } of steps) {
        const member = members.get(who)
        if (member === undefined) {
          if (kind !== 'join') continue
          const zone = ZONES[who % ZONES.length]!
          books.joins(zone)
          members.set(who, { zone, chunks: new Set(), promised: new Set(), complete: false })
        } else if (kind === 'leave') {
          for (const promised of member.promised) books.promises(member.zone, promised, -1)
          for (const had of member.chunks) books.copies(member.zone, had, -1)
          if (member.complete) books.complete(member.zone, -1)
          books.leaves(member.zone)
          members.delete(who)
        } else if (kind === 'chunk') books.copies(member.zone, chunk, toggle(member.chunks, chunk))
        else if (kind === 'promise') books.promises(member.zone, chunk, toggle(member.promised, chunk))
        else if (kind === 'complete') {
          member.complete = !member.complete
          books.complete(member.zone, member.complete ? 1 : -1)
        }
        const all = [...members.values()]
        const zones = new Set(all.map(({ zone }) => zone))
        assert.equal(books.size, zones.size)
        const expected = new Map(
          [...zones].map((zone) => {
            const inside = all.filter((one) => one.zone === zone)
            const has = (one: Member, of: number) => one.complete || one.chunks.has(of)
            const wanted = Array.from({ length: CHUNKS }, (_, at) => at).filter(
              (of) => all.some((one) => has(one, of)) && !inside.some((one) => has(one, of) || one.promised.has(of)),
            )
            assert.equal(books.incompleteMembers(zone), inside.filter(({ complete }) => !complete).length)
            return [zone, wanted]
          }),
        )
        for (const [zone, wanted] of expected) assert.deepEqual([...books.wanted(zone).indices()], wanted)
        const lacking = [...expected].filter(([, wanted]) => wanted.length > 0).map(([zone]) => zone)
        assert.deepEqual(books.lacking().sort(), lacking.sort())
      }
    }),
    { numRuns: 300 },
  )
})

test('however often what is whole where changes, chunks are looked at once, when somebody asks', () => {
  const books = new ZoneBooks(100)
  for (const zone of ['a', 'b']) books.joins(zone)
  const wanted = books.wanted('a')
  let looks = 0
  for (const change of ['add', 'delete'] as const) {
    const honest = wanted[change].bind(wanted)
    wanted[change] = (chunk) => {
      looks++
      return honest(chunk)
    }
  }
  for (let round = 0; round < 10; round++) {
    books.complete('b', 1)
    books.complete('b', -1)
  }
  books.complete('b', 1)
  assert.equal(looks, 0)
  assert.deepEqual(books.lacking(), ['a'])
  assert.equal(books.wanted('a').count, 100)
  assert.equal(looks, 100)
})
