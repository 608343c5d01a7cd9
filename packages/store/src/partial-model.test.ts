// Random writes, discards, reads and restarts of an arriving blob, against a model.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { ChunkMismatchError, ChunkMissingError } from './errors.ts'
import { openLevelStore } from './open-store.ts'
import { assertBytes, readAll, temporaryFolder, testBlob, writeAll } from './store-fixture.ts'

const blob = testBlob(9 * 256 * 1024 + 311)
const chunk = fc.nat({ max: blob.chunkCount - 1 })
const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('write' as const), index: chunk }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('wrong' as const), index: chunk }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('discard' as const), index: chunk }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('both' as const), index: chunk }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('reopen' as const), index: chunk }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('restart' as const), index: chunk }) },
)

test('an arriving blob does what the model says', async (t) => {
  const folder = await temporaryFolder(t)
  let run = 0
  // Runs that are cut off in the middle would write into a folder that is being removed, so none begins after this.
  const lastStartMs = performance.now() + 20_000
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), fc.boolean(), async (steps, threaded) => {
      if (performance.now() > lastStartMs) return
      const directory = `${folder}/${run++}`
      const options = { directory, hashing: threaded ? ('thread' as const) : ('inline' as const) }
      let store = await openLevelStore(options)
      try {
        let partial = await store.openPartial(blob.digest, blob.size)
        const model = new Set<number>()
        /** Places that were written, and whether they were all written since the blob was opened. */
        const places = new Set<number>()
        let exact = true
        for (const { kind, index } of steps) {
          if (kind === 'write') {
            await partial.writeChunk(index, blob.chunk(index), blob.hash(index))
            model.add(index)
            places.add(index)
          } else if (kind === 'wrong' && !model.has(index)) {
            const wrong = randomBytes(blob.chunk(index).byteLength)
            await assert.rejects(partial.writeChunk(index, wrong, blob.hash(index)), ChunkMismatchError)
            places.add(index)
          } else if (kind === 'discard') {
            await partial.discard([index])
            model.delete(index)
          } else if (kind === 'both') {
            await Promise.all([partial.discard([index]), partial.writeChunk(index, blob.chunk(index))])
            if (partial.chunks.has(index)) model.add(index)
            else model.delete(index)
            places.add(index)
          } else if (kind === 'reopen') {
            await partial.close()
            partial = await store.openPartial(blob.digest, blob.size)
            exact = false
          } else if (kind === 'restart') {
            await store.close()
            store = await openLevelStore(options)
            partial = await store.openPartial(blob.digest, blob.size)
            exact = false
          }
          assert.deepEqual(
            [...partial.chunks.indices()],
            [...model].sort((a, b) => a - b),
          )
          assert.equal(partial.frontChunk, partial.chunks.firstMissing())
          const written = [...places].reduce((sum, i) => sum + blob.chunk(i).byteLength, 0)
          const { storedBytes } = store.usage()
          // Opened again, it counts what the file takes, and a place that is written again once more.
          if (exact) assert.equal(storedBytes, written)
          else assert.ok(written <= storedBytes && storedBytes <= blob.size, `${written} bytes, counted ${storedBytes}`)
          const into = Buffer.alloc(100)
          if (model.has(index)) {
            await partial.readChunk(index, into, 3)
            assertBytes(into, blob.chunk(index).subarray(3, 103))
            assert.deepEqual(Buffer.from(partial.hashOf(index)!), blob.hash(index))
          } else await assert.rejects(partial.readChunk(index, into), ChunkMissingError)
        }
        const stream = readAll(partial.createReadStream())
        await writeAll(partial, blob)
        await partial.complete()
        assertBytes(await stream, blob.content)
        assert.equal(store.usage().storedBytes, blob.size)
      } finally {
        await store.close()
      }
    }),
    { numRuns: 25 },
  )
})
