// A registry with a disk of its own is killed at random moments of pushes. Whatever the moment, its tags and digests show
// whole images, its catalog the repositories that show one, and garbage collection leaves exactly what the tags need.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { promisify } from 'node:util'
import { Daemon } from '../support/daemon.ts'
import { fetchAll } from '../support/http.ts'
import { KiB, MiB, makeImage, rawLayer, sha256, type Image } from '../support/images.ts'
import { freePorts } from '../support/ports.ts'
import { PushError, pushImage } from '../support/push.ts'
import { shoalCommand, writeConfig } from '../support/shoal.ts'
import { until } from '../support/until.ts'
import { randomOf } from './schedule.ts'

/** With `SHOAL_TEST_PUSHES=200` that many are made, however long it takes; otherwise the time below ends it. */
const PUSHES = Number(process.env['SHOAL_TEST_PUSHES'] ?? 40)
const TIME_LIMIT_MS = process.env['SHOAL_TEST_PUSHES'] === undefined ? 25_000 : Number.POSITIVE_INFINITY
/** The registry is killed when so many pushes have gone through at the latest, with others under way. */
const MOST_PUSHES_A_LIFE = 8
/** Gives sizes and moments; how the pushes of one round interleave is up to the machine. */
const SEED = Number(process.env['SHOAL_TEST_SEED'] ?? randomInt(2 ** 31))
const REPOSITORIES = ['app', 'team/base']
const TAGS = ['latest', '1']
/** Ends every wait for an answer, so that a registry that hangs is a failure and not a test without end. */
const ANSWER_LIMIT_MS = 30_000

const folder = mkdtempSync(join(tmpdir(), 'shoal-kills-'))
const dataDirectory = join(folder, 'data')
after(() => rmSync(folder, { recursive: true, force: true }))

/** What one tag may show: the image that was acknowledged last, and those whose push was cut off since. */
interface Target {
  repository: string
  tag: string
  acknowledged: boolean
  possible: Map<string, Image>
  /** All that were ever pushed under it: one that was cut off just before its tag is shown by its digest alone. */
  pushed: Image[]
  /** Those of `pushed` whose blobs were not looked through yet. */
  unchecked: Set<Image>
}

let started = 0

async function startRegistry(config: string, url: string): Promise<Daemon> {
  const name = `registry-${++started}`
  const command = shoalCommand('registry', '--config', config)
  const daemon = new Daemon({ name, command, logFile: join(folder, 'registry.log') })
  const look = async () => !daemon.running || (await fetchAll(`${url}/readyz`)).status === 200
  await until(look, { what: `readiness of ${name}`, deadlineMs: 60_000 })
  daemon.assertRunning()
  return daemon
}

/** Layers of all sizes; some are in many images, so that blobs are shared and found again. */
function randomImage(random: (below: number) => number): Image {
  const layers = Array.from({ length: 1 + random(4) }, () =>
    random(4) === 0
      ? rawLayer(`${SEED}/shared/${random(5)}`, 200 * KiB)
      : rawLayer(`${SEED}/${random(2 ** 31)}`, 1 + random(random(4) === 0 ? 6 * MiB : 300 * KiB)),
  )
  return makeImage(layers)
}

async function listOf(url: string, key: string): Promise<string[]> {
  const answer = await fetchAll(url, { idleLimitMs: ANSWER_LIMIT_MS })
  if (answer.status === 404) return []
  assert.equal(answer.status, 200)
  return (JSON.parse(answer.body.toString()) as Record<string, string[]>)[key] ?? []
}

async function checkWhole(url: string, repository: string, image: Image): Promise<void> {
  for (const blob of image.blobs) {
    const body = await fetchAll(`${url}/v2/${repository}/blobs/${blob.digest}`, { idleLimitMs: ANSWER_LIMIT_MS })
    assert.equal(body.status, 200)
    assert.equal(sha256(body.body), blob.digest)
  }
}

/** Whether any image answers by its digest, tagged or not. Each that does so for the first time must be whole. */
async function showsByDigest(url: string, target: Target): Promise<boolean> {
  let shows = false
  for (const image of target.pushed) {
    const address = `${url}/v2/${target.repository}/manifests/${image.digest}`
    const { status, body } = await fetchAll(address, { idleLimitMs: ANSWER_LIMIT_MS })
    if (status === 404) continue
    assert.equal(status, 200)
    assert.equal(sha256(body), image.digest)
    if (target.unchecked.delete(image)) await checkWhole(url, target.repository, image)
    shows = true
  }
  return shows
}

/** Checks all that can be seen, and gives back the image that each tag shows. */
async function checkVisible(url: string, targets: readonly Target[]): Promise<Map<Target, Image>> {
  const shown = new Map<Target, Image>()
  const withManifests = new Set<string>()
  for (const target of targets) {
    const { repository, tag } = target
    if (await showsByDigest(url, target)) withManifests.add(repository)
    const answer = await fetchAll(`${url}/v2/${repository}/manifests/${tag}`, { idleLimitMs: ANSWER_LIMIT_MS })
    if (answer.status === 404 && !target.acknowledged) continue
    assert.equal(answer.status, 200, `${repository}:${tag} was acknowledged and is gone`)
    const image = target.possible.get(sha256(answer.body))
    assert.ok(image, `${repository}:${tag} shows an image that it never got, or one before that`)
    await checkWhole(url, repository, image)
    // From here on it may show this one, or one that is pushed later.
    target.possible = new Map([[image.digest, image]])
    shown.set(target, image)
  }
  const seen = [...shown.keys()]
  for (const repository of REPOSITORIES) {
    const tags = seen.flatMap((target) => (target.repository === repository ? [target.tag] : []))
    assert.deepEqual(await listOf(`${url}/v2/${repository}/tags/list`, 'tags'), tags.sort())
  }
  assert.deepEqual(await listOf(`${url}/v2/_catalog`, 'repositories'), [...withManifests].sort())
  return shown
}

/** Names of the files below a folder of the data directory that hold contents, as digests. */
async function stored(name: string): Promise<string[]> {
  const entries = await readdir(join(dataDirectory, name), { recursive: true, withFileTypes: true })
  return entries.flatMap((entry) => (entry.isFile() ? [entry.name.replace('-', ':')] : [])).sort()
}

test(`kill -9 of the registry at random moments of pushes (seed ${SEED})`, async (t) => {
  t.diagnostic(`again with SHOAL_TEST_SEED=${SEED} SHOAL_TEST_PUSHES=${PUSHES}`)
  const next = randomOf(String(SEED))
  const random = (below: number): number => Math.floor(next() * below)
  const [port = 0] = await freePorts(1)
  const url = `http://127.0.0.1:${port}`
  const config = writeConfig(join(folder, 'registry.yaml'), {
    dataDirectory,
    host: '127.0.0.1',
    port,
    logLevel: 'warn',
    collectionInterval: 0,
    collectionGrace: 0,
    removeUntagged: true,
  })
  const targets = REPOSITORIES.flatMap((repository) =>
    TAGS.map((tag): Target => {
      return { repository, tag, acknowledged: false, possible: new Map(), pushed: [], unchecked: new Set() }
    }),
  )
  const endMs = performance.now() + TIME_LIMIT_MS
  let [begun, whole, cutOff, kills] = [0, 0, 0, 0]
  let daemon = await startRegistry(config, url)
  try {
    while (begun < PUSHES && performance.now() < endMs) {
      const dying = new AbortController()
      // Where all pushes are over within a second, a time alone would kill the registry once, and perhaps between two of them.
      const enough = Promise.withResolvers<void>()
      let untilKilled = 1 + random(MOST_PUSHES_A_LIFE)
      const pushing = targets.map(async (target) => {
        while (!dying.signal.aborted && begun < PUSHES) {
          begun++
          const image = randomImage(random)
          target.possible.set(image.digest, image)
          target.pushed.push(image)
          target.unchecked.add(image)
          try {
            await pushImage(url, target.repository, target.tag, image)
          } catch (error) {
            // What ends a push is the death of the registry, not a wrong answer.
            if (!dying.signal.aborted || error instanceof PushError) throw error
            cutOff++
            return
          }
          whole++
          target.acknowledged = true
          target.possible = new Map([[image.digest, image]])
          if (--untilKilled === 0) enough.resolve()
        }
      })
      const ended = Promise.allSettled(pushing)
      await Promise.race([pause(random(1_200)), enough.promise, ended])
      dying.abort()
      daemon.kill('SIGKILL')
      for (const result of await ended) if (result.status === 'rejected') throw result.reason
      assert.equal(await daemon.ended, 'SIGKILL')
      kills++
      daemon = await startRegistry(config, url)
      await checkVisible(url, targets)
    }
    t.diagnostic(`${begun} pushes, ${kills} kills: ${whole} pushes went through, ${cutOff} were cut off`)
    assert.ok(whole > 0 && cutOff > 0, 'the pushes were too slow or too fast to tell anything')

    const shown = await checkVisible(url, targets)
    const before = (await stored('blobs')).length
    const [program = '', ...args] = shoalCommand('registry', 'gc', '--config', config)
    await promisify(execFile)(program, args, { timeout: 60_000 })
    const images = [...shown.values()]
    const blobs = images.flatMap((image) => image.blobs.map(({ digest }) => digest))
    const needed = [...new Set([...images.map(({ digest }) => digest), ...blobs])].sort()
    assert.deepEqual(await stored('blobs'), needed)
    assert.deepEqual(await stored('chunks'), [...new Set(blobs)].sort())
    t.diagnostic(`garbage collection left ${needed.length} of ${before} contents`)
    // The registry that ran all the while shows the same, and so does one that begins anew.
    await checkVisible(url, targets)
    await daemon.stop()
    daemon = await startRegistry(config, url)
    assert.deepEqual(await checkVisible(url, targets), shown)
  } catch (error) {
    t.diagnostic(daemon.logTail())
    throw error
  } finally {
    await daemon.stop('SIGKILL')
  }
})
