// A hundred clients that take a byte a second of large blobs, stored and arriving: others pull at their own pace meanwhile,
// the agent's memory stays bounded, and in the end the slow ones are cut off and have given everything back.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { test, type TestContext } from 'node:test'
import { fetchAll } from '../support/http.ts'
import { MiB } from '../support/images.ts'
import { memory } from '../support/process-cost.ts'
import { until } from '../support/until.ts'
import { digestOf, makeBlobs, startHeldOrigin, startLoneAgent } from './lone-agent.ts'

const READERS = 100
/** More than the buffers of two sockets take, so that a reader who does not read keeps the agent waiting. */
const BLOB_BYTES = 32 * MiB
const BYTE_EVERY_MS = 1000
/** Long enough for an ordinary pull on a busy machine to come before it. */
const CLIENT_STALL_MS = 20_000
/** Up to four buffers of a MiB for each, as long as it lasts, and what the pulls of the others take. */
const MORE_MEMORY_BYTES = (4 * READERS + 128) * MiB
/** What an agent may keep of it once it has been quiet for a while: its own code has run hot meanwhile. */
const KEPT_MEMORY_BYTES = 64 * MiB
/** Files of blobs that stay open for the next request, and connections to the origin. */
const MORE_DESCRIPTORS = 20

/** Takes a byte of what has come, again and again. It does not hear when the other side closes: it has more to read. */
function readSlowly(t: TestContext, socket: Socket): void {
  socket.on('readable', () => undefined)
  const timer = setInterval(() => socket.read(1), BYTE_EVERY_MS)
  t.after(() => clearInterval(timer))
}

test('clients that read a byte a second hold nobody up, and are cut off', async (t) => {
  const blobs = makeBlobs('large', 2, BLOB_BYTES)
  const [stored = '', arriving = ''] = blobs.keys()
  const origin = await startHeldOrigin(t, { repositories: { app: blobs } })
  const agent = await startLoneAgent(t, origin, {
    clientStall: `${CLIENT_STALL_MS}ms`,
    stallTimeout: '60s',
    blobTimeout: '10m',
  })
  const pull = async (digest: string): Promise<void> => {
    const { status, body } = await fetchAll(agent.urlOf('app', digest), { idleLimitMs: 120_000 })
    assert.equal(status, 200, body.subarray(0, 300).toString())
    assert.equal(digestOf(body), digest)
  }
  await pull(stored)
  const before = { memoryBytes: memory(agent.pid).residentBytes, descriptors: agent.descriptors() }

  origin.hold([arriving])
  const sockets = await Promise.all(
    Array.from({ length: READERS }, (_, at) =>
      agent.connect(`GET ${agent.pathOf('app', at % 2 === 0 ? stored : arriving)} HTTP/1.1\r\nHost: x\r\n\r\n`),
    ),
  )
  for (const socket of sockets) readSlowly(t, socket)
  await Promise.all(sockets.map((socket) => once(socket, 'readable')))
  const pulls = Promise.all([pull(stored), pull(arriving)])
  origin.release()
  await pulls
  // No slow reader had to go before the others had everything.
  assert.ok(agent.descriptors() >= before.descriptors + READERS, 'the agent still has them all')

  const { peakBytes } = memory(agent.pid)
  const back = (): boolean => agent.descriptors() <= before.descriptors + MORE_DESCRIPTORS
  await until(back, { what: 'end of the slow readers', deadlineMs: 2 * CLIENT_STALL_MS + 30_000 })
  const mib = (bytes: number): number => Math.round(bytes / MiB)
  t.diagnostic(
    `${mib(before.memoryBytes)} MiB before, ${mib(peakBytes)} at most; ` +
      `${before.descriptors} descriptors before, ${agent.descriptors()} afterwards`,
  )
  assert.ok(peakBytes < before.memoryBytes + MORE_MEMORY_BYTES, `${mib(peakBytes)} MiB of memory`)
  const given = (): boolean => memory(agent.pid).residentBytes < before.memoryBytes + KEPT_MEMORY_BYTES
  await until(given, { what: 'the memory that the slow readers took', deadlineMs: 120_000 })
  t.diagnostic(`${mib(memory(agent.pid).residentBytes)} MiB in the end`)
  await pull(arriving)
})
