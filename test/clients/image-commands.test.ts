// `shoal image` beside docker and skopeo: what one writes the other reads, and copies go between registries of two makes.
import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { execute } from '../lab/node.ts'
import { Daemon } from '../support/daemon.ts'
import { fetchAll } from '../support/http.ts'
import { makeIndex, runnableImage } from '../support/images.ts'
import { freePorts } from '../support/ports.ts'
import { pushImage, pushIndex } from '../support/push.ts'
import { findProgram, requires } from '../support/requirements.ts'
import { shoalCommand, writeConfig } from '../support/shoal.ts'
import { until } from '../support/until.ts'
import { startDockerDaemon, thisMachine } from './runtimes.ts'

const LAYERS = [200_000, 3000]

async function shoalImage(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await execute(shoalCommand('image', ...args))
  assert.equal(code, 0, `shoal image ${args.join(' ')}: ${stderr}`)
  return stdout
}

async function startRegistry(t: TestContext, folder: string, kind: 'docker-registry' | 'shoal'): Promise<string> {
  const data = join(folder, kind)
  mkdirSync(data)
  const [port = 0] = await freePorts(1)
  const host = `127.0.0.1:${port}`
  let command: string[]
  if (kind === 'shoal') {
    const config = { dataDirectory: join(data, 'data'), host: '127.0.0.1', port }
    command = shoalCommand('registry', '--config', writeConfig(join(data, 'registry.yaml'), config))
  } else {
    const config = join(data, 'registry.yml')
    const storage = `storage: {filesystem: {rootdirectory: ${join(data, 'data')}}}`
    writeFileSync(
      config,
      `version: 0.1\n${storage}\nhttp: {addr: "${host}", relativeurls: true}\nlog: {level: error}\n`,
    )
    command = [findProgram('docker-registry') ?? '', 'serve', config]
  }
  const daemon = new Daemon({ name: kind, command, logFile: join(data, 'log') })
  t.after(() => daemon.stop())
  const look = async () => !daemon.running || (await fetchAll(`http://${host}/v2/`)).status === 200
  await until(look, { what: `readiness of ${kind}` })
  daemon.assertRunning()
  return host
}

test('docker save, shoal image load, docker pull and run; shoal image save, docker load and run', async (t) => {
  if (!requires(t, 'root', 'dockerd', 'docker', 'containerd', 'ctr', 'busybox')) return
  const place = thisMachine(t)
  const registry = await startRegistry(t, place.folder, 'shoal')
  const { docker, close } = await startDockerDaemon(place)
  try {
    const made = runnableImage('image-commands', LAYERS)
    await pushImage(`http://${registry}`, 'team/app', '1.0', made)
    const run = async (name: string): Promise<void> => {
      assert.match((await docker('run', '--rm', '--network=none', name)).stdout, /shoal-runs/)
      await docker('image', 'rm', '-f', name)
    }
    await docker('pull', '-q', `${registry}/team/app:1.0`)
    const saved = join(place.folder, 'docker-saved.tar')
    await docker('save', '-o', saved, `${registry}/team/app:1.0`)
    await docker('image', 'rm', '-f', `${registry}/team/app:1.0`)

    await shoalImage('load', saved, `${registry}/loaded/app:2.0`)
    await docker('pull', '-q', `${registry}/loaded/app:2.0`)
    await run(`${registry}/loaded/app:2.0`)

    for (const repository of ['team/app:1.0', 'loaded/app:2.0']) {
      const archive = join(place.folder, 'shoal-saved.tar')
      await shoalImage('save', `${registry}/${repository}`, archive)
      await docker('load', '-q', '-i', archive)
      await run(`${registry}/${repository}`)
    }
  } finally {
    await close()
  }
})

test('an index between two registries: whole, the second time nothing; skopeo reads what is saved', async (t) => {
  if (!requires(t, 'docker-registry', 'skopeo', 'busybox')) return
  const place = thisMachine(t)
  const theirs = await startRegistry(t, place.folder, 'docker-registry')
  const ours = await startRegistry(t, place.folder, 'shoal')
  const platforms = ['amd64', 'arm64'].map((architecture) => ({ os: 'linux', architecture }))
  const index = makeIndex(platforms.map((platform) => runnableImage(platform.architecture, LAYERS, { platform })))
  await pushIndex(`http://${theirs}`, 'multi/app', '1.0', index)

  const routes = [
    [`${theirs}/multi/app:1.0`, `${ours}/multi/app:1.0`],
    [`${ours}/multi/app:1.0`, `${theirs}/back/app:1.0`],
  ] as const
  for (const [from, to] of routes) {
    const first = await shoalImage('copy', from, to)
    assert.ok(first.includes(index.digest))
    assert.match(first, /[1-9][0-9]* blobs .* sent.*3 manifests put/)
    assert.match(await shoalImage('copy', from, to), /Everything was there already/)
  }
  assert.match(await shoalImage('copy', `${theirs}/back/app:1.0`, `${theirs}/third/app:1.0`), /0 blobs .* sent/)

  const archive = join(place.folder, 'index.tar')
  await shoalImage('save', `${ours}/multi/app:1.0`, archive)
  const policy = join(place.folder, 'policy.json')
  writeFileSync(policy, '{"default": [{"type": "insecureAcceptAnything"}]}')
  const layout = join(place.folder, 'layout')
  const copy = ['skopeo', '--policy', policy, 'copy', '-q', '--all']
  const read = await execute([...copy, `oci-archive:${archive}`, `oci:${layout}:1.0`])
  assert.equal(read.code, 0, read.stderr)
  await shoalImage('load', layout, `${ours}/again/app:1.0`)
  const again = await fetchAll(`http://${ours}/v2/again/app/manifests/1.0`, { headers: { accept: index.mediaType } })
  assert.equal(again.headers['docker-content-digest'], index.digest)

  const single = join(place.folder, 'docker-archive.tar')
  const name = `docker://${ours}/multi/app:1.0`
  const old = ['skopeo', '--policy', policy, '--override-arch', 'arm64', 'copy', '-q', '--src-tls-verify=false']
  const written = await execute([...old, name, `docker-archive:${single}:multi/app:1.0`])
  assert.equal(written.code, 0, written.stderr)
  await shoalImage('load', single, `${ours}/archived/app:1.0`)
  assert.match(await shoalImage('inspect', `${ours}/archived/app:1.0`), /linux\/arm64/)
  assert.match(await shoalImage('list', ours), /again\/app:1.0\n.*archived\/app:1.0\n.*multi\/app:1.0\n/)
})
