// What `shoal configure` writes, read by the programs it is written for.
import assert from 'node:assert/strict'
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
  const file = join(root, 'etc/containers/registries.conf.d/50-shoal.conf')
  const storage = ['--root', join(root, 'root'), '--runroot', join(root, 'run'), '--storage-driver', 'vfs']
  const env = { ...process.env, CONTAINERS_REGISTRIES_CONF: file }
  const { code, stdout, stderr } = await execute(['podman', ...storage, 'info', '--format', 'json'], { env })
  assert.equal(code, 0, stderr)
  const { registries } = JSON.parse(stdout) as {
    registries: Record<string, { Mirrors: { Location: string; Insecure: boolean }[] }>
  }
  for (const name of ['ghcr.io', 'registry.example:5000']) {
    const [mirror] = registries[name]?.Mirrors ?? []
    assert.deepEqual([mirror?.Location, mirror?.Insecure], [`127.0.0.1:7700/${name}`, true])
  }
})
