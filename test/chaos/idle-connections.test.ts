// 5000 connections to an agent's mirror endpoint on which nothing happens: pulls go on, and when they have gone, so have
// the memory and the descriptors that they took. That the agent closes them by itself after a while is shown with short
// times in packages/registry/src/slow-clients.test.ts.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { test } from 'node:test'
import { fetchAll } from '../support/http.ts'
import { MiB } from '../support/images.ts'
import { memory } from '../support/process-cost.ts'
import { requires } from '../support/requirements.ts'
import { until } from '../support/until.ts'
import { digestOf, makeBlobs, startHeldOrigin, startLoneAgent, type LoneAgent } from './lone-agent.ts'

const CONNECTIONS = 5000
/** Opened at once: fewer than fit into the queue of a listener. */
const BATCH = 200
/** Of each connection while it is open, for Node's socket and parser; the system's buffers are not the agent's. */
const CONNECTION_BYTES = 32 * 1024
/** What a pull may take, and what the allocator keeps. */
const MORE_MEMORY_BYTES = 64 * MiB
/** What may stay in the heap of 5000 connections that have gone: less than a KiB for each. */
const MORE_HEAP_BYTES = 4 * MiB
/** Descriptors that come and go by themselves: of the index, blobs for the next request, connections to the origin. */
const OTHER_DESCRIPTORS = 20

/** What an idle connection has said: nothing, a part of a request, or a whole one that was answered. */
const SAID = ['', 'GET /v2/ HTTP/1.1\r\nHost: x\r\n', 'GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n']

async function openIdle(agent: LoneAgent, count: number): Promise<Socket[]> {
  const sockets: Socket[] = []
  while (sockets.length < count) {
    const opened = Array.from({ length: BATCH }, async (_, at) => {
      const said = SAID[at % SAID.length] ?? ''
      const socket = await agent.connect(said)
      if (said.endsWith('\r\n\r\n')) await once(socket, 'data')
      return socket
    })
    sockets.push(...(await Promise.all(opened)))
  }
  return sockets
}

test('5000 idle connections keep nobody from pulling, and leave nothing behind', async (t) => {
  if (!requires(t, 'descriptors')) return
  const blobs = makeBlobs('pulled', 2, 4 * MiB)
  const [first = '', second = ''] = blobs.keys()
  const origin = await startHeldOrigin(t, { repositories: { app: blobs } })
  const agent = await startLoneAgent(t, origin)
  const before = { memoryBytes: memory(agent.pid).residentBytes, descriptors: agent.descriptors() }

  const comeAndGo = async (count: number, digest: string): Promise<void> => {
    const sockets = await openIdle(agent, count)
    // Those that say nothing are accepted a moment later.
    const holdsAll = (): boolean => agent.descriptors() >= before.descriptors + count - OTHER_DESCRIPTORS
    await until(holdsAll, { what: `${count} connections at the agent` })
    const { status, body } = await fetchAll(agent.urlOf('app', digest))
    assert.equal(status, 200, body.subarray(0, 300).toString())
    assert.equal(digestOf(body), digest)
    assert.equal((await fetchAll(`${agent.admin}/readyz`)).status, 200)
    assert.equal(sockets.filter((socket) => socket.closed).length, 0, 'none was closed to make room')
    for (const socket of sockets) socket.destroy()
    const areBack = (): boolean => agent.descriptors() <= before.descriptors + OTHER_DESCRIPTORS
    await until(areBack, { what: 'closed descriptors' })
  }
  // What is made once, as code and caches, belongs to the level.
  await comeAndGo(BATCH, first)
  const levelBytes = await agent.heapBytes()
  await comeAndGo(CONNECTIONS, second)
  const isBack = async (): Promise<boolean> => (await agent.heapBytes()) <= levelBytes + MORE_HEAP_BYTES
  await until(isBack, { what: `a heap of ${levelBytes} bytes and little more`, everyMs: 200 })

  const { peakBytes, residentBytes } = memory(agent.pid)
  const [was, most, is] = [before.memoryBytes, peakBytes, residentBytes].map((bytes) => Math.round(bytes / MiB))
  t.diagnostic(`${was} MiB before, ${most} at most, ${is} afterwards; heap ${Math.round(levelBytes / MiB)} MiB`)
  const limitBytes = before.memoryBytes + CONNECTIONS * CONNECTION_BYTES + MORE_MEMORY_BYTES
  assert.ok(peakBytes < limitBytes, `${most} MiB of memory, ${was} before`)
  agent.assertRunning()
})
