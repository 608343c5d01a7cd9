import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import { ChunkMap } from '@shoal/store'
import fc from 'fast-check'
import { DEFAULT_PARAMETERS } from './parameters.ts'
import { chooseOriginRun, rendezvousRank, textHash } from './rendezvous.ts'

const members = fc.uniqueArray(fc.string({ minLength: 1 }), {
  minLength: 1,
  maxLength: 12,
  selector: (name) => textHash(name),
})

test('members that know each other agree on one owner for each chunk', () => {
  fc.assert(
    fc.property(members, fc.nat(), fc.nat({ max: 5000 }), (names, blobHash, chunk) => {
      const hashes = names.map(textHash)
      const ranks = hashes.map((self) =>
        rendezvousRank(
          self,
          hashes.filter((other) => other !== self),
          blobHash,
          chunk,
        ),
      )
      assert.deepEqual(
        [...ranks].sort((a, b) => a - b),
        names.map((_, rank) => rank),
      )
    }),
  )
})

test('every chunk is chosen by exactly one member, and every member makes progress while it owns one', () => {
  fc.assert(
    fc.property(members, fc.nat(), fc.integer({ min: 1, max: 100 }), (names, blobHash, length) => {
      const hashes = names.map(textHash)
      const taken = new Set<number>()
      for (const self of hashes) {
        const others = hashes.filter((other) => other !== self)
        const candidates = ChunkMap.full(length)
        for (;;) {
          const run = chooseOriginRun(candidates, self, others, blobHash, DEFAULT_PARAMETERS, () => 0.7)
          if (run === undefined) break
          for (let chunk = run.first; chunk < run.first + run.count; chunk++) {
            assert.ok(!taken.has(chunk), `chunk ${chunk} taken twice`)
            taken.add(chunk)
            assert.ok(candidates.delete(chunk))
          }
        }
      }
      assert.equal(taken.size, length)
    }),
  )
})

test('owners are spread evenly over similar names', () => {
  const hashes = Array.from({ length: 16 }, (_, index) => textHash(`node-${index}`))
  const owned = new Map<number, number>()
  for (let chunk = 0; chunk < 1600; chunk++) {
    for (const self of hashes) {
      const others = hashes.filter((other) => other !== self)
      if (rendezvousRank(self, others, 7, chunk) === 0) owned.set(self, (owned.get(self) ?? 0) + 1)
    }
  }
  for (const self of hashes) assert.ok(Math.abs((owned.get(self) ?? 0) - 100) < 45, `${owned.get(self)} of 1600`)
})

test('a node that knows no others reads along from the front in long runs', () => {
  const candidates = ChunkMap.full(100)
  candidates.delete(0)
  candidates.delete(4)
  const run = chooseOriginRun(candidates, 1, [], 2, DEFAULT_PARAMETERS, () => 0)
  assert.deepEqual(run, { first: 1, count: 3 })
})
