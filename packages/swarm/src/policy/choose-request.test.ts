import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import { ChunkMap } from '@shoal/store'
import fc from 'fast-check'
import { chooseChunk, chooseRequest, type NeighbourView, type WantView } from './choose-request.ts'
import { DEFAULT_PARAMETERS } from './parameters.ts'

/** Numbers in [0, 1) that repeat. */
function randomOf(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 4_294_967_296
  }
}

function mapOf(length: number, indices: Iterable<number>): ChunkMap {
  const map = new ChunkMap(length)
  for (const index of indices) map.add(index)
  return map
}

function neighbourOf(chunks: ChunkMap, given: Partial<NeighbourView> = {}): NeighbourView {
  return { chunks, outstanding: 0, notBeforeMs: 0, freeSlots: 1, ...given }
}

function wantOf(open: ChunkMap, given: Partial<WantView> = {}): WantView {
  const availability = new Uint16Array(open.length).fill(1)
  return { open, late: new ChunkMap(open.length), availability, front: -1, ...given }
}

const chunkSets = (length: number) => fc.uniqueArray(fc.nat({ max: length - 1 }), { maxLength: length })
const LENGTH = 40

const situations = fc.record({
  open: chunkSets(LENGTH),
  late: chunkSets(LENGTH),
  front: fc.integer({ min: -1, max: LENGTH - 1 }),
  seed: fc.nat(),
  nowMs: fc.nat({ max: 100 }),
  neighbours: fc.array(
    fc.record({
      chunks: chunkSets(LENGTH),
      outstanding: fc.nat({ max: 2 }),
      notBeforeMs: fc.nat({ max: 200 }),
      freeSlots: fc.integer({ min: -2, max: 8 }),
    }),
    { maxLength: 20 },
  ),
})

test('a request goes to a neighbour that has the chunk, may be asked, and has room; if there is one, there is a request', () => {
  fc.assert(
    fc.property(situations, ({ open, late, front, seed, nowMs, neighbours }) => {
      const views = neighbours.map((one) => ({ ...one, chunks: mapOf(LENGTH, one.chunks) }))
      const want = wantOf(mapOf(LENGTH, open), { late: mapOf(LENGTH, late), front })
      const choice = chooseRequest(want, views, DEFAULT_PARAMETERS, nowMs, randomOf(seed))
      const wanted = open.length > 0 ? open : late
      const able = views.filter(
        (view) => view.notBeforeMs <= nowMs && view.outstanding < DEFAULT_PARAMETERS.requestsPerNeighbour,
      )
      const possible = able.some((view) => wanted.some((chunk) => view.chunks.has(chunk)))
      assert.equal(choice !== undefined, possible)
      if (choice === undefined) return
      const neighbour = views[choice.neighbour]!
      assert.ok(able.includes(neighbour))
      assert.ok(neighbour.chunks.has(choice.chunk))
      assert.ok(wanted.includes(choice.chunk))
      assert.equal(choice.duplicate, open.length === 0)
    }),
  )
})

test('the neighbour with the most free slots is asked first, also when it has the more common chunks', () => {
  const busy = neighbourOf(mapOf(8, [0]), { freeSlots: 1 })
  const idle = neighbourOf(mapOf(8, [1]), { freeSlots: 5 })
  const want = wantOf(ChunkMap.full(8), { availability: Uint16Array.of(1, 9, 1, 1, 1, 1, 1, 1) })
  assert.deepEqual(chooseRequest(want, [busy, idle], DEFAULT_PARAMETERS, 0, randomOf(1)), {
    neighbour: 1,
    chunk: 1,
    duplicate: false,
  })
})

test('of what a neighbour offers, the rarest chunk is taken; ties fall evenly', () => {
  const offered = mapOf(16, [2, 5, 9, 12])
  const availability = new Uint16Array(16).fill(3)
  availability[5] = 1
  availability[12] = 1
  const random = randomOf(7)
  const taken = new Map<number, number>()
  for (let round = 0; round < 2000; round++) {
    const chunk = chooseChunk(offered, ChunkMap.full(16), { availability, front: -1 }, DEFAULT_PARAMETERS, random)
    taken.set(chunk, (taken.get(chunk) ?? 0) + 1)
  }
  assert.deepEqual([...taken.keys()].sort(), [12, 5])
  assert.ok(Math.abs(taken.get(5)! - 1000) < 150, `${taken.get(5)} of 2000`)
})

test('a client that reads along gets its share from the front window, and anything else when the front is not offered', () => {
  const length = 200
  const availability = new Uint16Array(length).fill(5)
  availability[150] = 1
  const random = randomOf(3)
  let fromFront = 0
  for (let round = 0; round < 2000; round++) {
    const want = { availability, front: 20 }
    const chunk = chooseChunk(ChunkMap.full(length), ChunkMap.full(length), want, DEFAULT_PARAMETERS, random)
    if (chunk >= 20 && chunk < 20 + DEFAULT_PARAMETERS.frontWindowChunks) fromFront++
    else assert.equal(chunk, 150)
  }
  assert.ok(Math.abs(fromFront - 2000 * DEFAULT_PARAMETERS.frontShare) < 150, `${fromFront} of 2000`)
  const behind = { availability, front: 60 }
  assert.equal(chooseChunk(mapOf(length, [3]), ChunkMap.full(length), behind, DEFAULT_PARAMETERS, random), 3)
})

test('a chunk on its way is asked for again only when nothing else is open and it is late', () => {
  const has = neighbourOf(mapOf(8, [1, 2]))
  const late = mapOf(8, [1])
  const busyWithOthers = wantOf(mapOf(8, [2]), { late })
  assert.equal(chooseRequest(busyWithOthers, [has], DEFAULT_PARAMETERS, 0, randomOf(1))?.chunk, 2)
  const nothingElse = wantOf(new ChunkMap(8), { late })
  assert.deepEqual(chooseRequest(nothingElse, [has], DEFAULT_PARAMETERS, 0, randomOf(1)), {
    neighbour: 0,
    chunk: 1,
    duplicate: true,
  })
  assert.equal(chooseRequest(wantOf(new ChunkMap(8)), [has], DEFAULT_PARAMETERS, 0, randomOf(1)), undefined)
})

test('where all neighbours have everything the chunks are asked for in their order; else equals are drawn', () => {
  const open = mapOf(LENGTH, [7, 12, 30])
  const whole = neighbourOf(ChunkMap.full(LENGTH))
  const allButOne = neighbourOf(mapOf(LENGTH, Array(LENGTH - 1).keys()))
  const drawn = (neighbours: NeighbourView[]) => {
    const chosen = (seed: number) =>
      chooseRequest(wantOf(open), neighbours, DEFAULT_PARAMETERS, 0, randomOf(seed))?.chunk
    return new Set(Array.from({ length: 50 }, (_, at) => chosen(at * 7919)))
  }
  assert.deepEqual(drawn([whole]), new Set([7]))
  assert.deepEqual(drawn([whole, whole]), new Set([7]))
  assert.equal(drawn([allButOne]).size, 3)
  assert.equal(drawn([whole, allButOne]).size, 3)
})
