// What `shoal configure` writes, read by the programs it is written for.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { execute } from '../lab/node.ts'
import { requires } from '../support/requirements.ts'
import { shoalCommand } from '../support/shoal.ts'
import { startDockerDaemon, type Place } from './runtimes.ts'

async function configured(t: TestContext, ...names: string[]): Promise<string> {
  const root = mkdtempSync(join(tmpdir(), 'sc'))
  t.after(() => rmSync(root, { recursive: true, force: true }))
  const { code, stderr } = await execute(shoalCommand('configure', ...names, '--root', root))
  assert.equal(code, 0, stderr)
  return root
}

function podmanIn(root: string, ...words: string[]): string[] {
  return ['podman', '--root', join(root, 'root'), '--runroot', join(root, 'run'), '--storage-driver', 'vfs', ...words]
}

function withRegistries(root: string): NodeJS.ProcessEnv {
  const file = join(root, 'etc/containers/registries.conf.d/50-shoal.conf')
  return { ...process.env, CONTAINERS_REGISTRIES_CONF: file }
}

test('docker asks the agent first for Docker Hub', async (t) => {
  if (!requires(t, 'root', 'dockerd', 'docker', 'containerd', 'ctr')) return
  const root = await configured(t, 'docker')
  const place: Place = { name: 'this machine', folder: root, exec: execute, link: { command: (words) => [...words] } }
  const { docker, close } = await startDockerDaemon(place, ['--config-file', join(root, 'etc/docker/daemon.json')])
  try {
    const { stdout } = await docker('info', '--format', '{{json .RegistryConfig.Mirrors}}')
    assert.deepEqual(JSON.parse(stdout), ['http://127.0.0.1:7700/'])
  } finally {
    await close()
  }
})

test('podman asks the agent first for every registry named', async (t) => {
  if (!requires(t, 'podman')) return
  const root = await configured(t, 'podman', '--registry', 'ghcr.io', '--registry', 'registry.example:5000')
  const { code, stdout, stderr } = await execute(podmanIn(root, 'info', '--format', 'json'), {
    env: withRegistries(root),
  })
  assert.equal(code, 0, stderr)
  const { registries } = JSON.parse(stdout) as {
    registries: Record<string, { Mirrors: { Location: string; Insecure: boolean }[] }>
  }
  // No client of containers/image takes a colon behind the first slash.
  for (const [name, segment] of Object.entries({
    'ghcr.io': 'ghcr.io',
    'registry.example:5000': 'registry.example__5000',
  })) {
    const [mirror] = registries[name]?.Mirrors ?? []
    assert.deepEqual([mirror?.Location, mirror?.Insecure], [`127.0.0.1:7700/${segment}`, true])
  }
})

test('podman asks the agent for an image of a registry with a port', async (t) => {
  if (!requires(t, 'podman')) return
  const asked: string[] = []
  const agent = createServer((request, response) => {
    asked.push(request.url ?? '')
    response.writeHead(request.url === '/v2/' ? 200 : 404).end()
  }).listen(0, '127.0.0.1')
  t.after(() => agent.close())
  await once(agent, 'listening')
  const mirror = `http://127.0.0.1:${(agent.address() as AddressInfo).port}`
  const root = await configured(t, 'podman', '--registry', 'registry.invalid:5000', '--mirror', mirror)
  // The registry does not exist, so that only what the agent was asked counts.
  await execute(podmanIn(root, 'pull', 'registry.invalid:5000/team/app:1'), { env: withRegistries(root) })
  assert.ok(asked.includes('/v2/registry.invalid__5000/team/app/manifests/1'), asked.join(', '))
})
