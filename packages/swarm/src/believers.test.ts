// An honest node that has believed a liar passes its bytes on: that makes it no witness against those who sent the right ones.
import assert from 'node:assert/strict'
import test from 'node:test'
import type { ChunkHandler } from '@shoal/network'
import { meetAll, startNode, until } from './testing/cluster.ts'
import { hanging, MemoryOrigin } from './testing/origin.ts'

const MIB = 1024 * 1024
const CHUNK = 256 * 1024

/** Serves chunks as long as it is told to. */
const gated =
  (serves: { now: boolean }) =>
  (honest: ChunkHandler): ChunkHandler =>
  (request) =>
    serves.now ? honest(request) : { status: 'busy', retryAfterMs: 20 }

test('bytes of an honest node that believed a liar get nobody banned who sent the right ones', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  const evil = Buffer.from(origin.content(digest))
  evil[3 * CHUNK + 99]! ^= 0xff
  const lies = new MemoryOrigin()
  lies.blobs.set(digest, evil)
  lies.pace = async (_sent, position) => {
    if (position >= evil.length - CHUNK) await new Promise(() => undefined)
  }
  const liarServes = { now: true }
  const liar = await startNode(t, { handler: gated(liarServes) })
  const lying = await liar.download(lies, digest)
  await until(() => lying.partial.chunks.count === 7, 'the liar has its chunks')

  // It gets all that the liar has, and is not whole: so it cannot see that one chunk is wrong.
  const believerServes = { now: false }
  const believer = await startNode(t, { handler: gated(believerServes) })
  await believer.meet(liar)
  const stuck = new MemoryOrigin()
  stuck.blobs.set(digest, origin.content(digest))
  stuck.mood = hanging
  const believing = await believer.download(stuck, digest)
  await until(() => believing.partial.chunks.has(3), 'the believer has the wrong chunk')
  liarServes.now = false

  const honest = await startNode(t)
  await honest.fetch(origin, digest)
  const honestSpeaks = Promise.withResolvers<void>()
  const open = honest.store.open.bind(honest.store)
  honest.store.open = async (asked) => {
    await honestSpeaks.promise
    return await open(asked)
  }

  const gate = Promise.withResolvers<void>()
  const own = new MemoryOrigin()
  own.blobs.set(digest, origin.content(digest))
  own.mood = () => gate.promise
  const victim = await startNode(t)
  await meetAll([victim, believer, liar, honest])
  const download = await victim.download(own, digest)
  const neighbour = (node: typeof honest) => download.neighbourhood.get(node.control.peerId)
  await until(() => download.book.signer(3) === liar.control.peerId, "the liar's word is the first")
  let isRefused = false
  const keep = download.keeper.keepFromPeer.bind(download.keeper)
  download.keeper.keepFromPeer = async (giver, chunk, ...rest) => {
    const isKept = await keep(giver, chunk, ...rest)
    if (!isKept && chunk === 3 && giver === neighbour(honest)) isRefused = true
    return isKept
  }
  honestSpeaks.resolve()
  await until(() => isRefused, 'the right bytes are refused')
  believerServes.now = true
  await until(() => download.partial.chunks.has(3), 'the wrong bytes are kept')
  gate.resolve()
  await download.done
  assert.deepEqual(await victim.bytes(digest), origin.content(digest))
  assert.deepEqual(victim.swarm.banned(), [[liar.control.peerId, 'wrong_hash']])
})
