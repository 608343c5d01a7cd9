import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import fc from 'fast-check'
import { acceptNeighbour, chooseNeighbours, progressIntervalMs } from './neighbours.ts'
import { MemberPool } from './member-pool.ts'
import { DEFAULT_PARAMETERS } from './parameters.ts'

function randomOf(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 4_294_967_296
  }
}

interface Member {
  zone: string
  degree: number
}

function poolOf(members: readonly Member[]): MemberPool<Member> {
  const pool = new MemberPool<Member>()
  for (const member of members) {
    pool.add(member)
    for (let raised = 0; raised < member.degree; raised++) pool.raiseDegree(member)
  }
  return pool
}

const nobody: ReadonlySet<Member> = new Set()

const swarms = fc.array(fc.record({ zone: fc.constantFrom('a', 'b', 'c'), degree: fc.nat({ max: 20 }) }), {
  maxLength: 300,
})

test('as many different members as asked for, as far as the own zone and the places for others go', () => {
  fc.assert(
    fc.property(swarms, fc.nat({ max: 30 }), fc.nat(), (members, count, seed) => {
      const chosen = chooseNeighbours(poolOf(members), 'a', count, nobody, DEFAULT_PARAMETERS, randomOf(seed))
      assert.equal(new Set(chosen).size, chosen.length)
      const own = members.filter(({ zone }) => zone === 'a').length
      const places = DEFAULT_PARAMETERS.acceptedRemoteNeighbours >> 1
      assert.ok(chosen.length <= count)
      assert.ok(chosen.length >= Math.min(count, own + Math.min(places, members.length - own)))
      assert.ok(chosen.filter(({ zone }) => zone !== 'a').length <= places)
    }),
  )
})

test('mostly the own zone, with a few across, and those with the fewest neighbours first', () => {
  const members = Array.from({ length: 60 }, (_, index) => ({ zone: index < 40 ? 'a' : 'b', degree: index % 10 }))
  const chosen = chooseNeighbours(poolOf(members), 'a', 8, nobody, DEFAULT_PARAMETERS, randomOf(1))
  assert.equal(chosen.filter(({ zone }) => zone === 'b').length, DEFAULT_PARAMETERS.crossZoneNeighbours)
  for (const { degree } of chosen) assert.ok(degree <= 1)
})

test('newcomers that are given the least connected members make a graph that is close to regular', () => {
  const random = randomOf(3)
  const members: Member[] = []
  const pool = poolOf([])
  const { introducedNeighbours } = DEFAULT_PARAMETERS
  for (let index = 0; index < 500; index++) {
    const chosen = chooseNeighbours(pool, '', introducedNeighbours, nobody, DEFAULT_PARAMETERS, random)
    const member = { zone: '', degree: 0 }
    members.push(member)
    pool.add(member)
    for (const other of chosen) {
      pool.raiseDegree(other)
      pool.raiseDegree(member)
    }
  }
  const degrees = members.map((member) => pool.degreeOf(member)).sort((a, b) => a - b)
  assert.ok(degrees[25]! >= 8 && degrees[250]! >= 14, `${degrees[25]} ${degrees[250]}`)
  assert.ok(degrees.at(-1)! <= DEFAULT_PARAMETERS.acceptedNeighbours + 2, `${degrees.at(-1)}`)
})

test('neighbours are accepted up to the limit, those of other zones up to a lower one', () => {
  const { acceptedNeighbours, acceptedRemoteNeighbours } = DEFAULT_PARAMETERS
  const accepts = (all: number, remote: number, isRemote: boolean) =>
    acceptNeighbour({ all, remote }, isRemote, DEFAULT_PARAMETERS)
  assert.equal(accepts(acceptedNeighbours - 1, acceptedRemoteNeighbours, false), true)
  assert.equal(accepts(acceptedNeighbours, 0, false), false)
  assert.equal(accepts(acceptedRemoteNeighbours, acceptedRemoteNeighbours - 1, true), true)
  assert.equal(accepts(acceptedRemoteNeighbours, acceptedRemoteNeighbours, true), false)
})

test('however many members there are, a tracker hears about the same number of them each second', () => {
  assert.equal(progressIntervalMs(2), 1000)
  for (const members of [2000, 5000, 15_000])
    assert.equal(Math.round((members / progressIntervalMs(members)) * 1000), 2000)
  assert.equal(progressIntervalMs(1e6), 10_000)
})
