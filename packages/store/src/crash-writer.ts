// A process for crash.test.ts to kill: writes the chunks of a blob in random order, discards some, and completes it.
import { randomInt } from 'node:crypto'
import { openStore } from './open-store.ts'
import { patternBlob } from './store-fixture.ts'

const directory = process.argv[2] ?? ''
const blob = patternBlob(Number(process.argv[3]))
const store = await openStore({ directory })
const partial = await store.openPartial(blob.digest, blob.size)
const order = Array.from({ length: blob.chunkCount }, (_, index) => index)
for (let i = order.length - 1; i > 0; i--) {
  const j = randomInt(i + 1)
  ;[order[i], order[j]] = [order[j]!, order[i]!]
}
process.send?.({ started: partial.chunks.count })
let next = 0
async function write(): Promise<void> {
  while (next < order.length) {
    const index = order[next++]!
    // Bytes that are wrong by the blob's digest, but kept because nobody knew the hash.
    if (index % 7 === 0 && !partial.chunks.has(index)) {
      await partial.writeChunk(index, Buffer.alloc(blob.chunk(index).byteLength, index))
    }
    // They are taken back, also those of a run that was killed before it could do so.
    const kept = partial.hashOf(index)
    if (kept !== undefined && !blob.hash(index).equals(kept)) await partial.discard([index])
    await partial.writeChunk(index, blob.chunk(index), blob.hash(index))
    process.send?.({ written: index })
  }
}
await Promise.all([write(), write(), write()])
await partial.complete()
process.send?.({ complete: true })
await partial.close()
await store.close()
process.disconnect()
