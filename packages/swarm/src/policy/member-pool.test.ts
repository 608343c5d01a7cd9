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

test('a draw gives different usable members of the right zones, all of them where few were asked for', () => {
  fc.assert(
    fc.property(members, fc.nat({ max: 40 }), fc.nat(), (given, count, seed) => {
      const pool = new MemberPool<(typeof given)[number]>()
      for (const member of given) pool.add(member)
      const usable = ({ id }: { id: number }) => id % 2 === 0
      const inside = pool.drawFrom('a', count, usable, randomOf(seed))
      const outside = pool.drawOutside('a', count, usable, randomOf(seed))
      assert.ok(inside.every((member) => member.zone === 'a' && usable(member)))
      assert.ok(outside.every((member) => member.zone !== 'a' && usable(member)))
      for (const drawn of [inside, outside]) {
        assert.equal(new Set(drawn).size, drawn.length)
        assert.ok(drawn.length <= count)
      }
      const all = pool.drawFrom('b', given.length, () => true, randomOf(seed))
      assert.equal(all.length, pool.sizeOf('b'))
    }),
  )
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
  const usable = () => ++looked > 0
  pool.drawFrom('a', 16, usable, randomOf(1))
  pool.drawOutside('a', 16, usable, randomOf(1))
  assert.equal(looked, 32)
})

test('a draw of thousands is a draw like any other', () => {
  const pool = new MemberPool<{ zone: string; id: number }>()
  for (let id = 0; id < 20_000; id++) pool.add({ zone: 'a', id })
  for (const count of [200, 204, 205, 1000, 5000]) {
    const drawn = pool.drawFrom('a', count, () => true, randomOf(count))
    assert.equal(new Set(drawn.map(({ id }) => id)).size, count)
  }
})
