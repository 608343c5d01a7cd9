// Pushes to one registry arrive at two others, of Shoal's and of Debian's make, though these are down at first and the
// registry is killed while it has work left.
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Daemon } from '../support/daemon.ts'
import { fetchAll } from '../support/http.ts'
import { KiB, MiB, makeImage, makeIndex, OCI, rawLayer, sha256, type Image, type Index } from '../support/images.ts'
import { metricSum, parseMetrics } from '../support/metrics.ts'
import { freePorts } from '../support/ports.ts'
import { pushImage, pushIndex } from '../support/push.ts'
import { findProgram, requires } from '../support/requirements.ts'
import { shoalCommand, writeConfig, type Config } from '../support/shoal.ts'
import { until } from '../support/until.ts'

const BASE = rawLayer('a base that all share', 3 * MiB)
const PLATFORMS = ['amd64', 'arm64'].map((architecture) => ({ os: 'linux', architecture }))

const imageOf = (seed: string): Image => makeImage([BASE, rawLayer(seed, 300 * KiB)])

/** Processes and files of the test, gone at its end. */
class Registries implements AsyncDisposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'shoal-replication-'))
  readonly #daemons: Daemon[] = []

  /** The same name has the same data each time. */
  async shoal(name: string, port: number, config: Config = {}): Promise<Daemon> {
    const own = { dataDirectory: join(this.folder, name), host: '127.0.0.1', port, ...config }
    const file = writeConfig(join(this.folder, `${name}.yaml`), own)
    return await this.#start(name, port, shoalCommand('registry', '--config', file))
  }

  async debian(port: number): Promise<Daemon> {
    const file = join(this.folder, 'debian.yml')
    const data = join(this.folder, 'debian')
    mkdirSync(data, { recursive: true })
    const lines = [
      'version: 0.1',
      `storage: {filesystem: {rootdirectory: ${data}}}`,
      `http: {addr: "127.0.0.1:${port}", relativeurls: true}`,
      'log: {level: error}',
    ]
    writeFileSync(file, `${lines.join('\n')}\n`)
    return await this.#start('debian', port, [findProgram('docker-registry') ?? '', 'serve', file])
  }

  async #start(name: string, port: number, command: string[]): Promise<Daemon> {
    const daemon = new Daemon({ name, command, logFile: join(this.folder, `${name}.log`) })
    this.#daemons.push(daemon)
    const look = async () => !daemon.running || (await fetchAll(`http://127.0.0.1:${port}/v2/`)).status === 200
    await until(look, { what: `readiness of ${name}`, deadlineMs: 60_000 })
    daemon.assertRunning()
    return daemon
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#daemons.map((daemon) => daemon.stop()))
    rmSync(this.folder, { recursive: true, force: true })
  }
}

async function sumOf(url: string, what: string, labels: Record<string, string> = {}): Promise<number> {
  const text = (await fetchAll(`${url}/metrics`)).body.toString()
  return metricSum(parseMetrics(text), `shoal_registry_replication_${what}`, labels)
}

async function untilPending(url: string, isRight: (count: number) => boolean, what: string): Promise<void> {
  await until(async () => isRight(await sumOf(url, 'pending')), { what, deadlineMs: 60_000, everyMs: 100 })
}

async function assertWhole(url: string, name: string, reference: string, wanted: Image | Index): Promise<void> {
  const headers = { accept: `${OCI.manifest}, ${OCI.index}` }
  const manifest = await fetchAll(`${url}/v2/${name}/manifests/${reference}`, { headers })
  assert.equal(manifest.status, 200, `${url} has no ${name}:${reference}: ${manifest.body.toString()}`)
  assert.equal(sha256(manifest.body), wanted.digest, `${name}:${reference} at ${url}`)
  if ('images' in wanted) for (const image of wanted.images) await assertWhole(url, name, image.digest, image)
  else {
    for (const { digest } of wanted.blobs) {
      const blob = await fetchAll(`${url}/v2/${name}/blobs/${digest}`)
      assert.equal(sha256(blob.body), digest, `${name}@${digest} at ${url}`)
    }
  }
}

test('what is pushed arrives at other registries that were down, though the registry is killed in between', async (t) => {
  if (!requires(t, 'docker-registry')) return
  await using registries = new Registries()
  const [port = 0, shoalPort = 0, debianPort = 0] = await freePorts(3)
  const [source, theirs, debian] = [port, shoalPort, debianPort].map((each) => `http://127.0.0.1:${each}`) as [
    string,
    string,
    string,
  ]
  const replication = [
    { name: 'shoal', url: theirs },
    { name: 'debian', url: debian, repositories: ['team/**'], removePrefix: 'team', addPrefix: 'site-1' },
  ]
  const first = await registries.shoal('source', port, { replication })

  const images = new Map(['web', 'api', 'job'].map((name) => [`team/${name}`, imageOf(name)]))
  for (const [name, image] of images) await pushImage(source, name, '1.0', image)
  const hasFailed = (): boolean => first.log().includes('an image could not be copied to the other registry')
  await until(hasFailed, { what: 'a try in vain' })
  for (const seed of ['first', 'second', 'third']) await pushImage(source, 'team/web', 'moving', imageOf(seed))
  const index = makeIndex(PLATFORMS.map((platform) => makeImage([rawLayer(platform.architecture, MiB)], { platform })))
  await pushIndex(source, 'team/multi', '2.0', index)
  await pushImage(source, 'other/app', '1.0', imageOf('other'))
  // Killed as soon as the last push is answered.
  first.kill('SIGKILL')
  await first.ended

  await registries.shoal('theirs', shoalPort)
  await registries.debian(debianPort)
  const second = await registries.shoal('source', port, { replication })
  // And again in the midst of the copies, with one more.
  await until(async () => (await sumOf(source, 'total', { outcome: 'sent' })) > 0, { what: 'first copy', everyMs: 10 })
  const late = imageOf('late')
  await pushImage(source, 'team/late', '1.0', late)
  second.kill('SIGKILL')
  await second.ended

  await registries.shoal('source', port, { replication })
  await untilPending(source, (count) => count === 0, 'end of all copies')
  const copies: [target: string, nameThere: (name: string) => string][] = [
    [theirs, (name) => name],
    [debian, (name) => name.replace(/^team\//, 'site-1/')],
  ]
  for (const [target, nameThere] of copies) {
    for (const [name, image] of images) await assertWhole(target, nameThere(name), '1.0', image)
    await assertWhole(target, nameThere('team/web'), 'moving', imageOf('third'))
    await assertWhole(target, nameThere('team/multi'), '2.0', index)
    await assertWhole(target, nameThere('team/late'), '1.0', late)
  }
  await assertWhole(theirs, 'other/app', '1.0', imageOf('other'))
  const catalog = JSON.parse((await fetchAll(`${debian}/v2/_catalog`)).body.toString()) as { repositories: string[] }
  assert.deepEqual(
    catalog.repositories,
    ['api', 'job', 'late', 'multi', 'web'].map((name) => `site-1/${name}`),
  )

  // A layer that the target has elsewhere is mounted, there too.
  const before = await sumOf(source, 'bytes_total')
  const again = imageOf('again')
  await pushImage(source, 'team/again', '1.0', again)
  await untilPending(source, (count) => count === 0, 'the last copies')
  for (const [target, nameThere] of copies) await assertWhole(target, nameThere('team/again'), '1.0', again)
  const sent = (await sumOf(source, 'bytes_total')) - before
  assert.equal(sent, 2 * (again.totalBytes - again.manifest.length - BASE.sizeBytes))
})
