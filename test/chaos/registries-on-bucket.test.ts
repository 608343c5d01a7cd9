// Two registry processes over one bucket. Neither knows of the other, one is killed in the midst of pushes, and clients
// of the other must never see anything but whole images.
import assert from 'node:assert/strict'
import { randomInt, randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test, type TestContext } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { Daemon } from '../support/daemon.ts'
import { fetchAll } from '../support/http.ts'
import { KiB, MiB, makeImage, rawLayer, sha256, type Image } from '../support/images.ts'
import { metricSum, parseMetrics } from '../support/metrics.ts'
import { OBJECT_STORE, startObjectStore, type ObjectStore } from '../support/object-store.ts'
import { freePorts } from '../support/ports.ts'
import { PushError, pushImage } from '../support/push.ts'
import { requires } from '../support/requirements.ts'
import { shoalCommand, writeConfig, type Config } from '../support/shoal.ts'
import { until } from '../support/until.ts'

/** Enough to hit every phase of a push now and then; `SHOAL_TEST_KILL_ROUNDS=100` for a longer search. */
const ROUNDS = Number(process.env['SHOAL_TEST_KILL_ROUNDS'] ?? 6)
const COLLECTION_ROUNDS = 3
const TAGS = ['latest', '1', '2']

const folder = mkdtempSync(join(tmpdir(), 'shoal-registries-'))
let store: Promise<ObjectStore> | undefined
let started = 0

after(async () => {
  await (await store)?.close()
  rmSync(folder, { recursive: true, force: true })
})

interface Registry {
  daemon: Daemon
  url: string
}

type Bucket = ReturnType<ObjectStore['bucket']>

async function startRegistry(bucket: Bucket, more: Config = {}): Promise<Registry> {
  const [port = 0] = await freePorts(1)
  const name = `registry-${++started}`
  const config = writeConfig(join(folder, `${name}.yaml`), {
    dataDirectory: join(folder, name),
    places: { bucket },
    defaultPlace: 'bucket',
    host: '127.0.0.1',
    port,
    logLevel: 'warn',
    ...more,
  })
  const daemon = new Daemon({
    name,
    command: shoalCommand('registry', '--config', config),
    logFile: join(folder, `${name}.log`),
  })
  const url = `http://127.0.0.1:${port}`
  const look = async () => !daemon.running || (await fetchAll(`${url}/readyz`)).status === 200
  await until(look, { what: `readiness of ${name}`, deadlineMs: 60_000 })
  daemon.assertRunning()
  return { daemon, url }
}

async function withRegistries(
  t: TestContext,
  run: (registries: Registry[], restart: (at: number) => Promise<void>, bucket: string) => Promise<void>,
  second: Config = {},
): Promise<void> {
  if (!requires(t, OBJECT_STORE)) return
  const bucket = (await (store ??= startObjectStore())).bucket(`b-${randomUUID()}`)
  const registries: Registry[] = []
  try {
    for (const more of [{}, second]) registries.push(await startRegistry(bucket, more))
    await run(registries, async (at) => void (registries[at] = await startRegistry(bucket)), bucket.bucket)
  } finally {
    await Promise.all(registries.map(({ daemon }) => daemon.stop()))
  }
}

test('one registry goes on with an upload that another began', async (t) => {
  await withRegistries(t, async ([one, other]) => {
    assert.ok(one && other)
    const layer = rawLayer('handed over', 21 * MiB + 5)
    const bytes = Buffer.concat([...layer.bytes()])
    const begun = await fetchAll(`${one.url}/v2/app/blobs/uploads/`, { method: 'POST' })
    let location = begun.headers.location ?? ''
    const ends = [3 * MiB, 3 * MiB + 1, 14 * MiB, bytes.length]
    for (const [turn, end] of ends.entries()) {
      const registry = turn % 2 ? one : other
      const start = ends[turn - 1] ?? 0
      const state = await fetchAll(new URL(location, registry.url).href)
      assert.equal(state.status, 204)
      assert.equal(state.headers.range, start === 0 ? '0-0' : `0-${start - 1}`)
      const part = bytes.subarray(start, end)
      const answer = await fetchAll(new URL(location, registry.url).href, {
        method: 'PATCH',
        headers: { 'content-length': part.length, 'content-range': `${start}-${end - 1}` },
        body: [part],
      })
      assert.equal(answer.status, 202, answer.body.toString())
      location = answer.headers.location ?? ''
    }
    const target = new URL(location, other.url)
    target.searchParams.set('digest', layer.digest)
    const end = await fetchAll(target.href, { method: 'PUT', headers: { 'content-length': 0 } })
    assert.equal(end.status, 201, end.body.toString())
    const blob = await fetchAll(`${one.url}/v2/app/blobs/${layer.digest}`)
    assert.ok(blob.body.equals(bytes))
    // Whoever took no part in the end of it knows that it is over.
    assert.equal((await fetchAll(new URL(location, one.url).href)).status, 404)
  })
})

test(`one of two registries is killed in the midst of pushes: whole images only (${ROUNDS} rounds)`, async (t) => {
  await withRegistries(t, async (registries, restart) => {
    const pushed = new Map<string, Image>()
    /** What each tag may show: the image that was acknowledged last, and those whose push has not been answered. */
    const possible = new Map(TAGS.map((tag) => [tag, new Set<string>()]))
    const acknowledged = new Set<string>()
    let whole = 0
    let cutOff = 0
    for (let round = 0; round < ROUNDS; round++) {
      const victim = round % 2
      const dying = new AbortController()
      const push = async (tag: string, { url, daemon }: Registry, dies: boolean): Promise<void> => {
        while (!dying.signal.aborted) {
          const sizes = Array.from({ length: randomInt(1, 4) }, () => randomInt(1, randomInt(4) ? 300_000 : 9 * MiB))
          const image = makeImage(sizes.map((size) => rawLayer(randomUUID(), size)))
          pushed.set(image.digest, image)
          possible.get(tag)?.add(image.digest)
          try {
            await pushImage(url, 'app', tag, image)
          } catch (error) {
            // What ends a push is the death of the registry, not a wrong answer.
            if (!dies || !dying.signal.aborted) throw error
            cutOff++
            return
          }
          whole++
          acknowledged.add(tag)
          possible.set(tag, new Set([image.digest]))
          if (!dies) daemon.assertRunning()
        }
      }
      // Each tag is pushed through one of them, so that the last push is known; the blobs are shared.
      const pushes = TAGS.map((tag, at) => {
        const which = (at + round) % 2
        return push(tag, registries[which] as Registry, which === victim)
      })
      const pushing = Promise.allSettled(pushes)
      await pause(randomInt(50, 1_500))
      dying.abort()
      registries[victim]?.daemon.kill('SIGKILL')
      for (const result of await pushing) if (result.status === 'rejected') throw result.reason
      await registries[victim]?.daemon.ended

      await checkVisible(registries[1 - victim] as Registry, pushed, possible, acknowledged)
      await restart(victim)
      await checkVisible(registries[victim] as Registry, pushed, possible, acknowledged)
    }
    t.diagnostic(`${whole} pushes went through, ${cutOff} were cut off`)
    assert.ok(whole > 0 && cutOff > 0, 'the pushes were too slow or too fast to tell anything')
  })
})

test('one registry collects garbage while another takes pushes that need some of it: every tag is whole', async (t) => {
  // With the grace that it has by itself, of a day.
  const collecting = { collectionInterval: '100ms', removeUntagged: true }
  await withRegistries(
    t,
    async ([pushed, collector], _restart, bucket) => {
      assert.ok(pushed && collector)
      const collected = async (name: string, labels: Record<string, string>): Promise<number> => {
        const text = (await fetchAll(`${collector.url}/metrics`)).body.toString()
        return metricSum(parseMetrics(text), name, labels)
      }
      const runs = () => collected('shoal_registry_collections_total', { outcome: 'done' })
      const tags = new Map<string, Image>()
      let repeated = 0
      const push = async (tag: string, image: Image): Promise<void> => {
        for (;;) {
          try {
            await pushImage(pushed.url, 'app', tag, image)
            tags.set(tag, image)
            return
          } catch (error) {
            // A layer that the registry had when it was asked, and that went in that moment: clients push it again.
            if (!(error instanceof PushError && error.message.includes('MANIFEST_BLOB_UNKNOWN'))) throw error
            repeated++
          }
        }
      }
      for (let round = 0; round < COLLECTION_ROUNDS; round++) {
        const left = Array.from({ length: 8 }, (_, at) => rawLayer(`${round} left ${at}`, 20 * KiB))
        const forgotten = rawLayer(`${round} forgotten`, 20 * KiB)
        const image = makeImage([...left, forgotten])
        await push('old', image)
        const removal = await fetchAll(`${pushed.url}/v2/app/manifests/${image.digest}`, { method: 'DELETE' })
        assert.equal(removal.status, 202)
        tags.delete('old')
        const before = await runs()
        const objects = await store
        for (const folder of ['blobs', 'chunks', 'repositories/app']) objects?.keepFolders(bucket, folder)
        objects?.age(bucket, 25 * 3_600_000)
        // While what is left of it goes, images are pushed that consist of it.
        let next = 0
        const pushing = async (): Promise<void> => {
          for (let layer = left[next++]; layer !== undefined; layer = left[next++]) {
            await push(`${round}-${next}`, makeImage([layer, rawLayer(`${round} new ${next}`, 20 * KiB)]))
          }
        }
        await Promise.all([pushing(), pushing()])
        await until(async () => (await runs()) >= before + 2, { what: 'two collections', deadlineMs: 60_000 })
        assert.equal((await fetchAll(`${pushed.url}/v2/app/blobs/${forgotten.digest}`)).status, 404)
      }
      for (const [tag, image] of tags) {
        await checkVisible(
          collector,
          new Map([[image.digest, image]]),
          new Map([[tag, new Set([image.digest])]]),
          new Set([tag]),
        )
      }
      assert.equal(tags.size, COLLECTION_ROUNDS * 8)
      assert.ok((await collected('shoal_registry_collected_total', { kind: 'blobs' })) >= COLLECTION_ROUNDS)
      t.diagnostic(`${await runs()} collections, ${repeated} pushes had to be repeated`)
    },
    collecting,
  )
})

async function checkVisible(
  { url }: Registry,
  pushed: ReadonlyMap<string, Image>,
  possible: ReadonlyMap<string, Set<string>>,
  acknowledged: ReadonlySet<string>,
): Promise<void> {
  for (const [tag, images] of possible) {
    const answer = await fetchAll(`${url}/v2/app/manifests/${tag}`)
    if (answer.status === 404 && !acknowledged.has(tag)) continue
    assert.equal(answer.status, 200)
    const digest = sha256(answer.body)
    assert.ok(images.has(digest), `the tag ${tag} shows an image that it never got`)
    const image = pushed.get(digest)
    assert.ok(image)
    for (const blob of image.blobs) {
      const body = await fetchAll(`${url}/v2/app/blobs/${blob.digest}`)
      assert.equal(body.status, 200)
      assert.equal(sha256(body.body), blob.digest)
    }
  }
}
