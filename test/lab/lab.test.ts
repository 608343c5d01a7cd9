// The lab itself, without any Shoal in it: rates, counters, cuts, freezes and what is left behind.
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import { KiB, MiB } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { until } from '../support/until.ts'
import { withLab } from './lab.ts'
import { hasCubic, listNamespaces, parseRate } from './network.ts'
import { cleanStaleRuns, Run } from './runs.ts'

test('rates are read as people write them', () => {
  assert.equal(parseRate('100mbit'), 100e6)
  assert.equal(parseRate('1.5gbit'), 1.5e9)
  assert.equal(parseRate('8000'), 8000)
  assert.throws(() => parseRate('100MB/s'), RangeError)
})

test('what a killed owner left behind is found and removed, and only that', async (t) => {
  if (!requires(t, 'namespaces', 'docker-registry')) return
  const mine = new Run()
  const program = `
    const { createLab } = await import(${JSON.stringify(join(import.meta.dirname, 'lab.ts'))})
    const lab = await createLab({ agents: 0, tracker: false })
    console.log(JSON.stringify({ prefix: lab.run.prefix, folder: lab.run.folder, pid: lab.origin.pid }))
    setInterval(() => {}, 1000)`
  for (const signal of ['SIGKILL', 'SIGINT'] as const) {
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const exited = once(child, 'exit')
    const line = String(await once(createInterface({ input: child.stdout }), 'line'))
    const { prefix, folder, pid } = JSON.parse(line) as { prefix: string; folder: string; pid: number }
    const left = (): string[] => listNamespaces().filter((name) => name.startsWith(prefix))
    assert.deepEqual(left().length, 3)
    child.kill(signal)
    await exited
    // The kernel ends the processes with their owner, killed or not.
    await until(() => !existsSync(`/proc/${pid}`), { what: 'end of the origin' })
    assert.equal(left().length, signal === 'SIGKILL' ? 3 : 0)
    cleanStaleRuns()
    assert.equal(left().length, 0)
    assert.equal(existsSync(folder), false)
  }
  assert.equal(existsSync(mine.folder), true)
  mine.close()
})

test('a lab shapes, counts, cuts, freezes, and leaves nothing behind', async (t) => {
  if (!requires(t, 'namespaces', 'docker-registry', 'curl')) return
  const { prefix, folder, pid } = await withLab('self', { agents: 0, tracker: false, clients: 2 }, async (lab) => {
    const [first, second] = [lab.client(0), lab.client(1)]
    const image = await lab.pushImage({ layers: [8 * MiB, 5 * KiB] })

    // Every digest is checked by the client; the origin's own count and the link's agree on what left it.
    const fast = await lab.straightDownload(image, first)
    assert.equal(fast.manifestDigest, image.digest)
    assert.ok(fast.blobs.every(({ verified }) => verified))
    assert.equal(fast.bytes, image.totalBytes)
    assert.equal(await lab.origin.contentBytesSent(), image.totalBytes)
    const { sentBytes } = lab.counters().get('origin') ?? { sentBytes: 0 }
    assert.ok(sentBytes >= image.totalBytes && sentBytes < 1.1 * image.totalBytes, `${sentBytes} over the link`)

    // Whatever the machine is tuned to.
    const route = spawnSync('ip', ['-n', first.link.namespace, 'route', 'get', second.link.address], {
      encoding: 'utf8',
    })
    if (hasCubic()) assert.match(route.stdout, /congctl cubic/)

    // Each node has a rate of its own, and nothing is faster than its rate.
    first.link.shape({ rateBits: 200e6 })
    second.link.shape({ rateBits: 20e6 })
    const quick = await lab.straightDownload(image, first)
    const slow = await lab.straightDownload(image, second)
    const leastMs = (rateBits: number): number => ((image.totalBytes * 8) / rateBits) * 0.9 * 1000
    assert.ok(quick.durationMs > leastMs(200e6), `${quick.durationMs} ms is too fast`)
    assert.ok(slow.durationMs > leastMs(20e6), `${slow.durationMs} ms is too fast`)
    assert.ok(quick.durationMs < slow.durationMs, `quick ${quick.durationMs} ms, slow ${slow.durationMs} ms`)

    const ask = ['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', '-m', '1', `http://${lab.origin.host}/v2/`]
    assert.equal((await first.exec(ask)).stdout, '200')

    first.link.cut()
    assert.notEqual((await first.exec(ask)).code, 0, 'a cut node reaches the origin')
    assert.equal((await second.exec(ask)).stdout, '200')
    first.link.mend()
    await until(async () => (await first.exec(ask)).stdout === '200', { what: 'connection after mending' })

    second.link.refuse(lab.origin.link)
    assert.equal((await second.exec(ask)).code, 28, 'a refused answer comes through')
    second.link.refuse(lab.origin.link, false)

    lab.origin.freeze()
    assert.equal((await second.exec(ask)).code, 28, 'a frozen origin answers')
    lab.origin.thaw()
    assert.equal((await second.exec(ask)).stdout, '200')

    await lab.origin.kill()
    assert.equal((await second.exec(ask)).code, 7, 'a dead origin takes connections')
    await lab.origin.start()
    assert.equal((await second.exec(ask)).stdout, '200')
    return { prefix: lab.run.prefix, folder: lab.run.folder, pid: lab.origin.pid ?? 0 }
  })
  assert.deepEqual(
    listNamespaces().filter((name) => name.startsWith(prefix)),
    [],
  )
  assert.equal(existsSync(folder), false)
  await until(() => !existsSync(`/proc/${pid}`), { what: 'end of the origin', deadlineMs: 5000 })
})
