import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import fc from 'fast-check'
import { IndexedSet, MemberPool } from './member-pool.ts'

function randomOf(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 4_294_967_296
  }
}

const members = fc.array(fc.record({ zone: fc.constantFrom('a', 'b', 'c'), id: fc.nat() }), { maxLength: 200 })

test('a set keeps what was added and not taken out, whatever the order', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.boolean(), fc.nat({ max: 20 })), { maxLength: 200 }), (steps) => {
      const set = new IndexedSet<number>()
      const model = new Set<number>()
      for (const [add, item] of steps) {
        if (add) set.add(item)
        else set.delete(item)
        if (add) model.add(item)
        else model.delete(item)
      }
      const all = Array.from({ length: set.size }, (_, index) => set.at(index))
      assert.deepEqual(new Set(all), model)
      assert.equal(all.length, model.size)
    }),
  )
})

test('a draw gives different usable members of the zone, all of them where few were asked for', () => {
  fc.assert(
    fc.property(members, fc.nat({ max: 40 }), fc.nat(), (given, count, seed) => {
      const pool = new MemberPool<(typeof given)[number]>()
      for (const member of given) pool.add(member)
      const usable = ({ id }: { id: number }) => id % 2 === 0
      const drawn = pool.drawFrom('a', count, usable, randomOf(seed))
      assert.ok(drawn.every((member) => member.zone === 'a' && usable(member)))
      assert.equal(new Set(drawn).size, drawn.length)
      assert.ok(drawn.length <= count)
      const all = pool.drawFrom('b', given.length, () => true, randomOf(seed))
      assert.equal(all.length, pool.sizeOf('b'))
    }),
  )
})

test('a pool keeps the degree of each member, whoever comes and goes', () => {
  const steps = fc.array(fc.tuple(fc.constantFrom('add', 'delete', 'raise'), fc.nat({ max: 150 })), { maxLength: 600 })
  fc.assert(
    fc.property(steps, (given) => {
      const known = Array.from({ length: 151 }, (_, id) => ({ id, zone: id % 3 === 0 ? 'a' : 'b' }))
      const pool = new MemberPool<(typeof known)[number]>()
      const model = new Map<(typeof known)[number], number>()
      for (const [step, id] of given) {
        const member = known[id]!
        const degree = model.get(member)
        if (step === 'add') {
          pool.add(member)
          if (degree === undefined) model.set(member, 0)
        } else if (step === 'delete') {
          pool.delete(member)
          model.delete(member)
        } else {
          pool.raiseDegree(member)
          if (degree !== undefined) model.set(member, degree + 1)
        }
      }
      assert.equal(pool.size, model.size)
      for (const member of known) assert.equal(pool.degreeOf(member), model.get(member) ?? 0)
    }),
  )
})

test('the least connected of a zone and of all others, in order, without those that are excluded', () => {
  fc.assert(
    fc.property(members, fc.nat({ max: 40 }), fc.nat(), (given, count, seed) => {
      const pool = new MemberPool<(typeof given)[number]>()
      for (const member of given) {
        pool.add(member)
        for (let degree = 0; degree < member.id % 7; degree++) pool.raiseDegree(member)
      }
      const excluded = new Set(given.filter(({ id }) => id % 4 === 0))
      // As many are looked at as there are: then it is the very least.
      const inside = pool.leastConnected('a', given.length, count, excluded, randomOf(seed))
      const outside = pool.leastConnectedOutside('a', given.length, count, excluded, randomOf(seed))
      for (const [chosen, from] of [
        [inside, given.filter(({ zone }) => zone === 'a')],
        [outside, given.filter(({ zone }) => zone !== 'a')],
      ] as const) {
        const wanted = from.filter((member) => !excluded.has(member)).map((member) => pool.degreeOf(member))
        const least = wanted.sort((a, b) => a - b).slice(0, count)
        assert.deepEqual(
          chosen.map((member) => pool.degreeOf(member)),
          least,
        )
        assert.equal(new Set(chosen).size, chosen.length)
        assert.ok(chosen.every((member) => from.includes(member) && !excluded.has(member)))
      }
    }),
  )
})

test('of equals each is the least connected about as often as every other', () => {
  const pool = new MemberPool<{ zone: string; id: number }>()
  for (let id = 0; id < 50; id++) pool.add({ zone: 'a', id })
  const random = randomOf(7)
  const counts = new Array<number>(50).fill(0)
  for (let round = 0; round < 5000; round++)
    for (const { id } of pool.leastConnected('a', 20, 5, new Set(), random)) counts[id]!++
  assert.ok(Math.min(...counts) > 400 && Math.max(...counts) < 600, `${Math.min(...counts)} ${Math.max(...counts)}`)
})

test('one member that is not excluded is found among many that are', () => {
  const pool = new MemberPool<{ zone: string; id: number }>()
  const known = Array.from({ length: 100 }, (_, id) => ({ zone: 'a', id }))
  for (const member of known) pool.add(member)
  assert.deepEqual(pool.leastConnected('a', 24, 4, new Set(known.slice(1)), randomOf(1)), [known[0]])
})

test('every member is drawn about as often as every other', () => {
  const set = new IndexedSet<number>()
  for (let item = 0; item < 50; item++) set.add(item)
  const random = randomOf(7)
  const counts = new Array<number>(50).fill(0)
  for (let round = 0; round < 5000; round++) for (const item of set.draw(5, () => true, random)) counts[item]!++
  assert.ok(Math.min(...counts) > 400 && Math.max(...counts) < 600, `${Math.min(...counts)} ${Math.max(...counts)}`)
})

test('the cost of a draw does not depend on how many there are', () => {
  const pool = new MemberPool<{ zone: string }>()
  for (let index = 0; index < 20_000; index++) pool.add({ zone: index % 2 === 0 ? 'a' : 'b' })
  let looked = 0
  const random = () => ++looked / 100
  pool.drawFrom('a', 16, () => true, random)
  pool.leastConnected('a', 16, 2, new Set(), random)
  pool.leastConnectedOutside('a', 16, 2, new Set(), random)
  assert.equal(looked, 48)
})

test('a draw of thousands is a draw like any other', () => {
  const pool = new MemberPool<{ zone: string; id: number }>()
  for (let id = 0; id < 20_000; id++) pool.add({ zone: 'a', id })
  for (const count of [200, 204, 205, 1000, 5000]) {
    const drawn = pool.drawFrom('a', count, () => true, randomOf(count))
    assert.equal(new Set(drawn.map(({ id }) => id)).size, count)
  }
})
