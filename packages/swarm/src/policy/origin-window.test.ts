import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import { ChunkMap } from '@shoal/store'
import fc from 'fast-check'
import { OriginWindow, originShare } from './origin-window.ts'
import { DEFAULT_PARAMETERS } from './parameters.ts'
import { textHash } from './rendezvous.ts'

test('the share grows with the wait and is never more than all', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 2, max: 100_000 }),
      fc.nat({ max: 60_000 }),
      fc.nat({ max: 1000 }),
      (members, waitedMs, moreMs) => {
        const now = originShare(waitedMs, members, DEFAULT_PARAMETERS)
        const later = originShare(waitedMs + moreMs, members, DEFAULT_PARAMETERS)
        assert.ok(now > 0 && now <= later && later <= 1)
      },
    ),
  )
  assert.equal(originShare(0, 1, DEFAULT_PARAMETERS), 1)
})

test('whatever a node believes of the others, it takes each chunk in bounded time when nobody else does', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 100_000 }), fc.string(), (members, name) => {
      const window = new OriginWindow(40)
      const candidates = ChunkMap.full(40)
      const view = { candidates, claimed: 0, members, self: textHash(name), blobHash: 3 }
      let nowMs = 0
      while (candidates.count > 0) {
        const chunk = window.choose(view, DEFAULT_PARAMETERS, nowMs)
        if (chunk >= 0) assert.ok(candidates.delete(chunk))
        else nowMs += 25
        // Doubling from a tenth of a share to the whole takes log2(10 * members) steps.
        assert.ok(nowMs <= DEFAULT_PARAMETERS.originShareDoublingMs * (Math.log2(10 * members) + 1) + 25)
      }
    }),
  )
})

test('no more chunks are due than the window has room for', () => {
  const window = new OriginWindow(1000)
  const candidates = ChunkMap.full(1000)
  const room = DEFAULT_PARAMETERS.originWindowChunks
  const taken: number[] = []
  for (let nowMs = 0; nowMs < 60_000; nowMs += 100) {
    const view = { candidates, claimed: taken.length, members: 50, self: 77, blobHash: 3 }
    const chunk = window.choose(view, DEFAULT_PARAMETERS, nowMs)
    if (chunk < 0) continue
    taken.push(chunk)
    candidates.delete(chunk)
  }
  assert.equal(taken.length, room)
  assert.ok(Math.max(...taken) < room)
})

test('many members that hear each other within 30 ms fetch each chunk about once, however wrong their guess', () => {
  for (const guess of [0.3, 1, 3]) {
    const count = 400
    const chunks = 60
    const members = Array.from({ length: count }, (_, index) => ({
      window: new OriginWindow(chunks),
      self: textHash(`member ${index}`),
      candidates: ChunkMap.full(chunks),
    }))
    const heard: { atMs: number; chunk: number }[] = []
    let fetched = 0
    let endMs = 0
    for (let nowMs = 0; nowMs < 20_000 && members[0]!.candidates.count > 0; nowMs += 5) {
      while (heard.length > 0 && heard[0]!.atMs <= nowMs) {
        const { chunk } = heard.shift()!
        for (const member of members) member.candidates.delete(chunk)
      }
      for (const [index, { window, self, candidates }] of members.entries()) {
        // Each looks every 25 ms, at times of its own.
        if ((nowMs + index * 5) % 25 !== 0) continue
        const view = { candidates, claimed: 0, members: count * guess, self, blobHash: 9 }
        const chunk = window.choose(view, DEFAULT_PARAMETERS, nowMs)
        if (chunk < 0) continue
        fetched++
        candidates.delete(chunk)
        heard.push({ atMs: nowMs + 30, chunk })
      }
      endMs = nowMs
    }
    assert.ok(fetched >= chunks && fetched <= chunks * 1.6, `${fetched} fetches for ${chunks} chunks, guess ${guess}`)
    assert.ok(endMs < 1500, `took ${endMs} ms, guess ${guess}`)
  }
})
