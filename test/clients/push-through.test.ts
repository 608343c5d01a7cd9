// docker pushes through the agent of its node: the registry gets the image, the swarm has it from then on, and what the
// registry refuses is refused.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { execute } from '../lab/node.ts'
import { Daemon } from '../support/daemon.ts'
import { fetchAll } from '../support/http.ts'
import { tarLayer, MiB } from '../support/images.ts'
import { metricSum, parseMetrics } from '../support/metrics.ts'
import { freePorts } from '../support/ports.ts'
import { requires } from '../support/requirements.ts'
import { shoalCommand, writeConfig, writeSwarmKey, type Config } from '../support/shoal.ts'
import { until } from '../support/until.ts'
import { startDockerDaemon, thisMachine } from './runtimes.ts'

const LAYER_BYTES = 3 * MiB

interface Status {
  peersConnected: number
  address: { multiaddrs: string[] }
}

async function startShoal(t: TestContext, kind: string, folder: string, readyUrl: string, config: Config) {
  mkdirSync(folder)
  const file = writeConfig(join(folder, 'config.yaml'), { dataDirectory: join(folder, 'data'), ...config })
  const command = shoalCommand(kind, '--config', file)
  const daemon = new Daemon({ name: folder, command, logFile: join(folder, 'log') })
  t.after(() => daemon.stop())
  await until(async () => !daemon.running || (await fetchAll(readyUrl)).status === 200, { what: `readiness: ${kind}` })
  daemon.assertRunning()
}

/** Everybody may push to `open/`, and nobody but its one account to the rest. */
async function startRegistry(t: TestContext, folder: string): Promise<string> {
  const [port = 0] = await freePorts(1)
  const htpasswdFile = join(folder, 'accounts')
  const add = ['registry', 'user', 'add', 'ann', '--htpasswd-file', htpasswdFile, '--password-stdin']
  const { code, stderr } = await execute(['sh', '-c', 'echo a-password | "$@"', 'sh', ...shoalCommand(...add)])
  assert.equal(code, 0, stderr)
  await startShoal(t, 'registry', join(folder, 'registry'), `http://127.0.0.1:${port}/readyz`, {
    ...{ host: '127.0.0.1', port, htpasswdFile },
    accessRules: [{ repositories: ['open/**'], users: ['anonymous'], actions: ['pull', 'push'] }],
  })
  return `127.0.0.1:${port}`
}

async function startAgent(t: TestContext, folder: string, more: Config) {
  const [mirrorPort = 0, adminPort = 0, p2pPort = 0, transferPort = 0] = await freePorts(4)
  const admin = `http://127.0.0.1:${adminPort}`
  await startShoal(t, 'agent', folder, `${admin}/readyz`, {
    ...{ mirrorPort, adminPort, p2pPort, transferPort, p2pHost: '127.0.0.1', transferHost: '127.0.0.1' },
    ...more,
  })
  return {
    mirror: `127.0.0.1:${mirrorPort}`,
    status: async () => JSON.parse((await fetchAll(`${admin}/api/v1/status`)).body.toString()) as Status,
    received: async (source: string) => {
      const samples = parseMetrics((await fetchAll(`${admin}/metrics`)).body.toString())
      return metricSum(samples, 'shoal_chunk_bytes_received_total', { source })
    },
  }
}

test('docker pushes through one agent and pulls through another, which takes nothing from the registry', async (t) => {
  if (!requires(t, 'root', 'dockerd', 'docker', 'containerd', 'ctr')) return
  const place = thisMachine(t)
  const registry = await startRegistry(t, place.folder)
  const config = {
    swarmKeyFiles: [writeSwarmKey(join(place.folder, 'swarm.key'))],
    registries: { 'registry.test': { endpoint: `http://${registry}`, plainHttp: true } },
  }
  const a = await startAgent(t, join(place.folder, 'a'), config)
  const bootstrapPeers = (await a.status()).address.multiaddrs
  const b = await startAgent(t, join(place.folder, 'b'), { ...config, bootstrapPeers })
  await until(async () => (await b.status()).peersConnected > 0, { what: 'the agents know each other' })

  const { docker, close } = await startDockerDaemon(place)
  try {
    const tar = join(place.folder, 'root.tar')
    const layer = tarLayer([{ path: 'file', content: randomBytes(LAYER_BYTES) }])
    writeFileSync(tar, Buffer.concat([...layer.blob.bytes()]))
    const pushed = `${a.mirror}/registry.test/open/app:2.1`
    const closed = `${a.mirror}/registry.test/team/app:2.1`
    await docker('import', tar, pushed)
    await docker('tag', pushed, closed)
    await docker('push', pushed)
    await assert.rejects(docker('push', closed), /unauthorized|denied|authentication required/i)

    await docker('image', 'rm', '-f', pushed, closed)
    await docker('pull', `${registry}/open/app:2.1`)
    await docker('image', 'rm', '-f', `${registry}/open/app:2.1`)

    await docker('pull', `${b.mirror}/registry.test/open/app:2.1`)
    assert.equal(await b.received('origin'), 0)
    const fromPeers = await b.received('peer')
    assert.ok(fromPeers >= LAYER_BYTES, `${fromPeers} bytes came from the agent that took the push`)
  } finally {
    await close()
  }
})
