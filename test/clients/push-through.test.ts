// docker pushes through the agent of its node: the registry gets the image, the swarm has it from then on, and what the
// registry refuses is refused.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { tarLayer, MiB } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { writeSwarmKey } from '../support/shoal.ts'
import { startDockerDaemon, thisMachine } from './runtimes.ts'
import { received, startAccountsRegistry, startTwoAgents } from './shoal-daemons.ts'

const LAYER_BYTES = 3 * MiB

test('docker pushes through one agent and pulls through another, which takes nothing from the registry', async (t) => {
  if (!requires(t, 'root', 'dockerd', 'docker', 'containerd', 'ctr')) return
  const place = thisMachine(t)
  // Everybody may push to `open/`, and nobody to the rest.
  const { host: registry } = await startAccountsRegistry(t, join(place.folder, 'registry'), { ann: 'a-password' }, [
    { repositories: ['open/**'], users: ['anonymous'], actions: ['pull', 'push'] },
  ])
  const [a, b] = await startTwoAgents(t, place.folder, {
    swarmKeyFiles: [writeSwarmKey(join(place.folder, 'swarm.key'))],
    registries: { 'registry.test': { endpoint: `http://${registry}`, plainHttp: true } },
  })

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
    assert.equal(await received(b, 'origin'), 0)
    const fromPeers = await received(b, 'peer')
    assert.ok(fromPeers >= LAYER_BYTES, `${fromPeers} bytes came from the agent that took the push`)
  } finally {
    await close()
  }
})
