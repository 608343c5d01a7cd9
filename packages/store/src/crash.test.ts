// kill -9 at any moment: what is claimed afterwards is right, and what was acknowledged is not lost.
import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { createHash, randomInt } from 'node:crypto'
import { once } from 'node:events'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { openLevelStore } from './open-store.ts'
import { assertBytes, patternBlob, readAll, temporaryFolder, writeAll } from './store-fixture.ts'

const blob = patternBlob(48 * 256 * 1024 + 999)
const script = fileURLToPath(new URL('./crash-writer.ts', import.meta.url))

/** Runs the writer until it has sent `messages` messages, and kills it then. */
async function killedWriter(directory: string, messages: number): Promise<{ written: Set<number>; complete: boolean }> {
  const child = fork(script, [directory, String(blob.size)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  const written = new Set<number>()
  let complete = false
  let received = 0
  child.on('message', (message: { written?: number; complete?: true }) => {
    if (message.written !== undefined) written.add(message.written)
    if (message.complete === true) complete = true
    if (++received === messages) child.kill('SIGKILL')
  })
  const [code, signal] = (await once(child, 'exit')) as [number | null, string | null]
  assert.ok(signal === 'SIGKILL' || code === 0, `the writer ended with ${code} ${signal}`)
  return { written, complete }
}

test('a killed writer loses nothing that it was told is written, and leaves no wrong byte', async (t) => {
  for (let round = 0; round < 5; round++) {
    const directory = await temporaryFolder(t)
    // Twice in a row, so that a resumed blob is killed, too; the last rounds die around the completion.
    const written = new Set<number>()
    let complete = false
    for (const messages of round < 3 ? [1 + randomInt(30), 1 + randomInt(30)] : [50 + round]) {
      const killed = await killedWriter(directory, messages)
      for (const index of killed.written) written.add(index)
      complete ||= killed.complete
      const store = await openLevelStore({ directory, hashing: 'inline' })
      try {
        await store.reconciled
        if (complete) assert.equal(store.has(blob.digest), true)
        const partial = await store.openPartial(blob.digest, blob.size)
        for (const index of written) assert.equal(partial.chunks.has(index), true, `chunk ${index} is lost`)
        for (const index of partial.chunks.indices()) {
          const bytes = Buffer.alloc(blob.chunk(index).byteLength)
          await partial.readChunk(index, bytes)
          assert.deepEqual(Buffer.from(partial.hashOf(index)!), createHash('sha256').update(bytes).digest())
          // What was taken back before the kill may be there, under its own hash; what was written later is not that.
          if (written.has(index)) assertBytes(bytes, blob.chunk(index))
        }
        await partial.close()
      } finally {
        await store.close()
      }
    }
    const store = await openLevelStore({ directory, hashing: 'inline' })
    try {
      const partial = await store.openPartial(blob.digest, blob.size)
      await partial.discard([...partial.chunks.indices()].filter((i) => !blob.hash(i).equals(partial.hashOf(i)!)))
      await writeAll(partial, blob)
      await partial.complete()
      assertBytes(await readAll(partial.createReadStream()), blob.content)
      await partial.close()
      assert.equal(store.usage().storedBytes, blob.size)
    } finally {
      await store.close()
    }
  }
})
