// A tracker and nodes in one process, talking over real sockets.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { SwarmTimings } from '@shoal/swarm'
import { MemoryOrigin, startNode, SWARM_KEY, until, type NodeOptions, type TestNode } from '@shoal/swarm/testing'
import { pino } from 'pino'
import { trackerConfig } from './config.ts'
import { createTracker, type Tracker } from './tracker.ts'

const MIB = 1024 * 1024

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

interface TestTracker {
  tracker: Tracker
  address: string
  api: string
  close: () => Promise<void>
}

interface TestTrackerOptions {
  ports?: { p2pPort: number; httpPort: number }
  leaseIdle?: number
}

async function startTracker(
  t: TestContext,
  { ports, leaseIdle = 2000 }: TestTrackerOptions = {},
): Promise<TestTracker> {
  const directory = await mkdtemp(join(tmpdir(), 'shoal-tracker-'))
  let tracker: Tracker | undefined = undefined as Tracker | undefined
  let closed: Promise<void> | undefined
  const close = () => (closed ??= tracker?.close() ?? Promise.resolve())
  t.after(async () => {
    await close()
    await rm(directory, { recursive: true, force: true })
  })
  const keyFile = join(directory, 'swarm.key')
  await writeFile(keyFile, `shoal-swarm-key-v1:${Buffer.from(SWARM_KEY).toString('base64')}\n`)
  await chmod(keyFile, 0o600)
  const { p2pPort, httpPort } = ports ?? { p2pPort: await freePort(), httpPort: await freePort() }
  const local = { p2pHost: '127.0.0.1', httpHost: '127.0.0.1', p2pPort, httpPort }
  const config = trackerConfig({ swarmKeyFiles: [keyFile], dataDirectory: directory, leaseIdle, ...local })
  tracker = await createTracker(config, { logger: pino({ level: process.env['SHOAL_TEST_LOG'] ?? 'silent' }) })
  await tracker.start()
  return { tracker, address: `127.0.0.1:${p2pPort}`, api: `http://127.0.0.1:${httpPort}`, close }
}

/**
 * A tracker, and timings for its nodes, by which nobody is judged for standing still: many nodes share the processors with
 * other tests here, and do so for seconds.
 */
async function startPatientTracker(t: TestContext): Promise<{ tracker: TestTracker; timings: Partial<SwarmTimings> }> {
  const longMs = 60_000
  const timings = {
    stallTimeoutMs: longMs,
    connectTimeoutMs: longMs,
    trackerGraceMs: longMs,
    trackerSilenceMs: longMs,
  }
  return { tracker: await startTracker(t, { leaseIdle: longMs }), timings }
}

/**
 * Leases for a copy more, granted because a node stood still: where ten of them share processors with other tests, they
 * do for seconds. Without one, what left the origin is known to the byte.
 */
async function leasesForMore(trackers: TestTracker[]): Promise<number> {
  const pages = await Promise.all(trackers.map(async ({ api }) => (await fetch(`${api}/metrics`)).text()))
  const counts = pages.flatMap((page) => [
    ...page.matchAll(/^shoal_tracker_leases_total\{kind="(?:second|rescue)"\} (\d+)$/gm),
  ])
  return counts.reduce((sum, [, count]) => sum + Number(count), 0)
}

/** Exactly one copy has left the origin. */
async function assertOneCopy(origin: MemoryOrigin, bytes: number, trackers: TestTracker[]): Promise<void> {
  const more = await leasesForMore(trackers)
  if (more === 0) assert.equal(origin.sentBytes, bytes)
  else
    assert.ok(origin.sentBytes >= bytes && origin.sentBytes <= 2 * bytes, `${origin.sentBytes} bytes left the origin`)
}

async function startMembers(t: TestContext, count: number, trackers: TestTracker[], options: NodeOptions = {}) {
  const addresses = trackers.map(({ address }) => address)
  const nodes = await Promise.all(
    Array.from({ length: count }, () => startNode(t, { ...options, trackers: addresses, bootstrap: addresses })),
  )
  const connected = () => nodes.every(({ swarm }) => swarm.trackers.status().every(({ connected }) => connected))
  await until(connected, 'all nodes are connected to all trackers')
  return nodes
}

test('four cold nodes that begin at once cost the origin exactly one copy', async (t) => {
  const { tracker, timings } = await startPatientTracker(t)
  const nodes = await startMembers(t, 4, [tracker], { timings })
  const origin = new MemoryOrigin()
  const digest = origin.add(8 * MIB + 3)
  await Promise.all(nodes.map((node) => node.fetch(origin, digest)))
  for (const node of nodes) assert.deepEqual(await node.bytes(digest), origin.content(digest))
  await assertOneCopy(origin, origin.size(digest), [tracker])
  for (const node of nodes) {
    assert.ok(
      (await node.metric('shoal_chunk_bytes_received_total', { source: 'origin' })) > 0,
      'all nodes took a part',
    )
  }
})

test('many blobs of every size at once: each costs one copy', async (t) => {
  const { tracker, timings } = await startPatientTracker(t)
  const nodes = await startMembers(t, 4, [tracker], { timings })
  const origin = new MemoryOrigin()
  const digests = [0, 1, 1000, 256 * 1024, 256 * 1024 + 1, 3 * MIB].map((size) => origin.add(size))
  await Promise.all(nodes.flatMap((node) => digests.map((digest) => node.fetch(origin, digest))))
  const total = digests.reduce((sum, digest) => sum + origin.size(digest), 0)
  await assertOneCopy(origin, total, [tracker])
})

test('who breaks what it fetches from the origin, and vouches for it, is the only one that is left', async (t) => {
  const tracker = await startTracker(t)
  const [liar, ...honest] = await startMembers(t, 6, [tracker])
  const origin = new MemoryOrigin()
  const digest = origin.add(8 * MIB)
  const evil = new MemoryOrigin()
  const bytes = Buffer.from(origin.content(digest))
  for (let at = 0; at < bytes.length; at += 256 * 1024) bytes[at]! ^= 1
  evil.blobs.set(digest, bytes)
  for (const each of [origin, evil]) each.pace = () => delay(5)
  const lie = await liar!.download(evil, digest)
  lie.done.catch(() => undefined)
  await until(() => lie.partial.chunks.count > 0, 'the liar has something to lie about')
  await Promise.all(honest.map((node) => node.fetch(origin, digest)))
  for (const node of honest) {
    assert.deepEqual(await node.bytes(digest), origin.content(digest))
    // Honest nodes that had believed it were taken for witnesses against whoever told the truth next. What it is caught at
    // depends on who comes first: its hash is refuted, or it sends bytes that do not have the right one.
    const banned = node.swarm.banned()
    const [[, lie = ''] = []] = banned
    assert.deepEqual(banned, [[liar!.control.peerId, lie]])
    assert.ok(['wrong_hash', 'wrong_bytes'].includes(lie), lie)
  }
  assert.ok(origin.sentBytes <= 2 * origin.size(digest), `${origin.sentBytes} bytes left the origin`)
})

test('what only a node has that the others banned is fetched anew at once', async (t) => {
  const tracker = await startTracker(t)
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  const [flooder] = await startMembers(t, 1, [tracker], {
    handler: () => () => ({ status: 'busy', retryAfterMs: 60_000 }),
  })
  await flooder!.fetch(origin, digest)
  const honest = await startMembers(t, 2, [tracker])
  const downloads = await Promise.all(honest.map((node) => node.download(origin, digest)))
  const { peerId } = flooder!.control
  await until(() => downloads.every(({ neighbourhood }) => neighbourhood.has(peerId)), 'it is a neighbour of both')
  for (const node of honest) node.control.offend(peerId, 'flood', 'a test says so')
  await Promise.all(downloads.map(({ done }) => done))
  for (const node of honest) assert.deepEqual(await node.bytes(digest), origin.content(digest))
  const page = await (await fetch(`${tracker.api}/metrics`)).text()
  assert.match(page, new RegExp(`^shoal_tracker_peer_faults\\{peer="${peerId}",reason="undelivered"\\} 1$`, 'm'))
})

test('a latecomer finds the swarm through the tracker and needs no origin', async (t) => {
  const tracker = await startTracker(t)
  const [first, second] = await startMembers(t, 2, [tracker])
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  await first!.fetch(origin, digest)
  const download = await second!.fetch(origin, digest, false)
  assert.equal(download.fromPeersBytes, origin.size(digest))
})

test('what the tracker knows is told over HTTP', async (t) => {
  const tracker = await startTracker(t)
  const [node] = await startMembers(t, 1, [tracker])
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  await node!.fetch(origin, digest)
  const swarms = async () =>
    ((await (await fetch(`${tracker.api}/api/v1/swarms`)).json()) as { swarms: { completeMembers: number }[] }).swarms
  let known = await swarms()
  while (known[0]?.completeMembers !== 1) known = await swarms()
  assert.equal(known.length, 1)
  assert.equal((await fetch(`${tracker.api}/readyz`)).status, 200)
})

test('the tracker dies in the middle: all finish; it comes back and knows them again', async (t) => {
  const tracker = await startTracker(t)
  const nodes = await startMembers(t, 3, [tracker])
  const origin = new MemoryOrigin()
  const digest = origin.add(6 * MIB)
  const gate = Promise.withResolvers<void>()
  origin.pace = async () => {
    if (origin.sentBytes > 2 * MIB) await gate.promise
  }
  const downloads = await Promise.all(nodes.map((node) => node.download(origin, digest)))
  await until(() => origin.sentBytes > 2 * MIB, 'the origin is at it')
  await tracker.close()
  gate.resolve()
  await Promise.all(downloads.map(({ done }) => done))
  for (const node of nodes) assert.deepEqual(await node.bytes(digest), origin.content(digest))

  const [p2pPort, httpPort] = [Number(tracker.address.split(':')[1]), Number(new URL(tracker.api).port)]
  const again = await startTracker(t, { ports: { p2pPort, httpPort } })
  await until(() => nodes.every(({ swarm }) => swarm.trackers.status()[0]!.connected), 'all have found it again')
  const held = async () => {
    const answer = await fetch(`${again.api}/api/v1/swarms`)
    const { swarms } = (await answer.json()) as { swarms: { completeMembers: number }[] }
    return swarms[0]?.completeMembers
  }
  while ((await held()) !== 3) await new Promise((resolve) => setImmediate(resolve))
})

test('of two trackers one dies: its blobs go to the other, without a second copy', async (t) => {
  const trackers = [await startTracker(t), await startTracker(t)]
  const nodes = await startMembers(t, 3, trackers)
  const origin = new MemoryOrigin()
  const before = Array.from({ length: 4 }, () => origin.add(MIB))
  await Promise.all(nodes.slice(0, 2).flatMap((node) => before.map((digest) => node.fetch(origin, digest))))
  const copies = origin.sentBytes
  await assertOneCopy(origin, 4 * MIB, trackers)
  await trackers[0]!.close()
  await until(() => nodes.every(({ swarm }) => !swarm.trackers.status()[0]!.connected), 'its loss was noticed')
  for (const digest of before) await nodes[2]!.fetch(origin, digest)
  assert.equal(origin.sentBytes, copies)
})

test('a tag is looked up by two nodes for all', async (t) => {
  const tracker = await startTracker(t)
  const nodes = await startMembers(t, 5, [tracker])
  const found = { digest: new MemoryOrigin().add(10), mediaType: 'm', sizeBytes: 10 }
  let lookups = 0
  const lookup = async () => {
    lookups++
    await new Promise((resolve) => setImmediate(resolve))
    return found
  }
  const outcomes = await Promise.all(nodes.map(({ swarm }) => swarm.trackers.askTag('r/app:1', lookup, 20_000)))
  // Where the machine stands still for a moment, one more is asked; tag-table.test.ts has it with a clock of its own.
  assert.ok(lookups === 2 || lookups === 3, `${lookups} nodes asked the origin`)
  assert.equal(outcomes.filter((outcome) => outcome?.kind === 'own').length, lookups)
  for (const each of outcomes) assert.ok(each !== undefined && 'found' in each && each.found.digest === found.digest)
})

test('a member that says of a tag what no other finds is the only one to believe it', async (t) => {
  const tracker = await startTracker(t)
  const [liar, ...honest] = await startMembers(t, 5, [tracker])
  const origin = new MemoryOrigin()
  const wrong = { digest: origin.add(11), mediaType: 'm', sizeBytes: 11 }
  const right = { digest: origin.add(10), mediaType: 'm', sizeBytes: 10 }
  const outcome = await liar!.swarm.trackers.askTag('r/app:1', async () => wrong, 20_000)
  assert.equal(outcome?.kind, 'own')
  let lookups = 0
  const lookup = async () => {
    lookups++
    return right
  }
  const outcomes = await Promise.all(honest.map(({ swarm }) => swarm.trackers.askTag('r/app:1', lookup, 20_000)))
  // The second one contradicts the liar, the third one decides.
  assert.ok(lookups >= 2)
  for (const each of outcomes) assert.ok(each !== undefined && 'found' in each && each.found.digest === right.digest)
})

test('each chunk comes into a zone once, though its nodes do not all know each other', async (t) => {
  const { tracker, timings } = await startPatientTracker(t)
  // Of a few neighbours only, by hashing each chunk would have several that feel responsible.
  const parameters = { neighbours: 4, acceptedNeighbours: 5, acceptedRemoteNeighbours: 1, crossZoneAfterMs: 60_000 }
  const outside = await startMembers(t, 2, [tracker], { zone: 'a', parameters, timings })
  const inside = await startMembers(t, 8, [tracker], { zone: 'b', parameters, timings })
  const origin = new MemoryOrigin()
  const digest = origin.add(8 * MIB)
  const crossed = async (nodes: readonly TestNode[]) => {
    const each = await Promise.all(nodes.map((node) => node.metric('shoal_chunk_bytes_from_other_zones_total')))
    return each.reduce((sum, bytes) => sum + bytes, 0)
  }
  // Those outside take the origin's chunks while those inside are already waiting for them.
  const first = await Promise.all(outside.map((node) => node.download(origin, digest)))
  const others = await Promise.all(inside.map((node) => node.download(origin, digest)))
  await Promise.all([...first, ...others].map(({ done }) => done))
  for (const node of inside) assert.deepEqual(await node.bytes(digest), origin.content(digest))
  await assertOneCopy(origin, origin.size(digest), [tracker])
  assert.ok((await crossed(inside)) <= origin.size(digest))
  assert.ok((await crossed(outside)) <= origin.size(digest))
  // The first copy of each chunk is in one zone, and crosses into the other.
  if ((await leasesForMore([tracker])) === 0)
    assert.equal((await crossed(inside)) + (await crossed(outside)), origin.size(digest))

  // Whole blobs cross in the same way: the hashes are asked of the one that the lease names.
  const later = origin.add(4 * MIB)
  await outside[0]!.fetch(origin, later)
  const before = await crossed(inside)
  await Promise.all(inside.map((node) => node.fetch(origin, later, false)))
  const brought = (await crossed(inside)) - before
  if ((await leasesForMore([tracker])) === 0) assert.equal(brought, origin.size(later))
  else assert.ok(brought <= origin.size(later))
})

test('nobody waits for what was evicted', { timeout: 120_000 }, async (t) => {
  const tracker = await startTracker(t)
  const [holder] = await startMembers(t, 1, [tracker], { quotaBytes: 3 * MIB })
  const origin = new MemoryOrigin()
  const [evicted, newer] = [origin.add(2 * MIB), origin.add(2 * MIB)]
  for (const digest of [evicted, newer]) await holder!.fetch(origin, digest)
  const holders = async () => {
    const answer = await fetch(`${tracker.api}/api/v1/swarms`)
    const { swarms } = (await answer.json()) as { swarms: { digest: string; completeMembers: number }[] }
    return swarms.find(({ digest }) => digest === evicted)?.completeMembers
  }
  while ((await holders()) !== 0) await new Promise((resolve) => setImmediate(resolve))
  assert.equal(holder!.store.has(evicted), false)
  const [newcomer] = await startMembers(t, 1, [tracker])
  await newcomer!.fetch(origin, evicted)
  assert.deepEqual(await newcomer!.bytes(evicted), origin.content(evicted))
})

test('nobody waits for what was evicted at a tracker that was in charge of it meanwhile', async (t) => {
  const first = await startTracker(t)
  const other = await startTracker(t)
  const [holder] = await startMembers(t, 1, [first, other])
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  await holder!.fetch(origin, digest)
  // Both know of it: the one that is in charge, and the other, as if that had been gone for a while.
  const status = holder!.swarm.trackers.status()
  const channels = status.map(({ peerId }) => holder!.control.openChannel(peerId!)!)
  const held = { type: 'tracker-join', digest, sizeBytes: MIB, originHost: '', chunks: new Uint8Array() } as const
  for (const channel of channels) channel.send({ ...held, complete: true, leaseCredit: 0 })
  const holders = async () => {
    const answers = await Promise.all([first, other].map(({ api }) => fetch(`${api}/api/v1/swarms`)))
    const pages = (await Promise.all(answers.map((answer) => answer.json()))) as {
      swarms: { completeMembers: number }[]
    }[]
    return pages.map(({ swarms }) => swarms[0]?.completeMembers)
  }
  const become = async (each: number) => {
    while (!(await holders()).every((count) => count === each)) await new Promise((resolve) => setImmediate(resolve))
  }
  await become(1)
  await holder!.store.delete(digest)
  await become(0)
})

test('a member that does not give what it says it has does not keep a zone from it', async (t) => {
  const tracker = await startTracker(t)
  const origin = new MemoryOrigin()
  const digest = origin.add(MIB)
  const withholding = () => async () => ({ status: 'missing' }) as const
  const [silent] = await startMembers(t, 1, [tracker], { zone: 'a', handler: withholding })
  await silent!.fetch(origin, digest)
  const [honest] = await startMembers(t, 1, [tracker], { zone: 'a' })
  await honest!.fetch(origin, digest)
  const inside = await startMembers(t, 2, [tracker], { zone: 'b' })
  await Promise.all(inside.map((node) => node.fetch(origin, digest)))
  for (const node of inside) assert.deepEqual(await node.bytes(digest), origin.content(digest))
})
