// What crosses the border of a zone when no tracker grants leases for it.
import assert from 'node:assert/strict'
import test from 'node:test'
import { meetAll, startNode, until, type TestNode } from './testing/cluster.ts'
import { MemoryOrigin } from './testing/origin.ts'

const MIB = 1024 * 1024
const ACROSS = 'shoal_chunk_bytes_from_other_zones_total'

test('each chunk comes into a zone once, whichever of its nodes want it', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(8 * MIB)
  const released = Promise.withResolvers<void>()
  origin.pace = () => released.promise
  // Nobody helps itself out of impatience, however slow the machine is.
  const parameters = { crossZoneAfterMs: 60_000 }
  const outside = await startNode(t, { zone: 'a', parameters })
  const inside: TestNode[] = []
  for (let number = 0; number < 4; number++) inside.push(await startNode(t, { zone: 'b', parameters }))
  await meetAll([outside, ...inside])
  const first = await outside.download(origin, digest)
  const others = await Promise.all(inside.map((node) => node.download(origin, digest, false)))
  await until(() => others.every(({ neighbourhood }) => neighbourhood.size === 4), 'all are neighbours')
  released.resolve()
  await Promise.all([first, ...others].map(({ done }) => done))
  const crossed = await Promise.all(inside.map((node) => node.metric(ACROSS)))
  assert.equal(
    crossed.reduce((sum, bytes) => sum + bytes, 0),
    origin.size(digest),
  )
  assert.ok(crossed.filter((bytes) => bytes > 0).length >= 2, 'the work is shared')
})

test('a zone whose bringer does not bring helps itself', async (t) => {
  const origin = new MemoryOrigin()
  const digest = origin.add(2 * MIB)
  const outside = await startNode(t, { zone: 'a' })
  await outside.fetch(origin, digest)
  // One that wants the blob, is asked to bring its share, and has nobody to bring it from.
  const blind = await startNode(t, { zone: 'b' })
  const seeing = await startNode(t, { zone: 'b' })
  await blind.meet(seeing)
  await seeing.meet(outside)
  const waiting = await blind.download(origin, digest, false)
  const download = await seeing.download(origin, digest, false)
  await Promise.all([waiting.done, download.done])
  // The DHT may lead the blind one out in the end, too; nothing comes twice but what both have just asked for.
  const crossed = (await seeing.metric(ACROSS)) + (await blind.metric(ACROSS))
  assert.ok(crossed >= origin.size(digest) && crossed < 1.5 * origin.size(digest), `${crossed} bytes crossed`)
  assert.ok((await seeing.metric(ACROSS)) > 0)
})
