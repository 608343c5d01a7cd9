// `shoal preheat` with real processes: the right nodes get the image, the origin gives it once, and it stays there.
import assert from 'node:assert/strict'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { MiB } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { shoalCommand } from '../support/shoal.ts'
import { withLab } from './lab.ts'

test('a preheat brings an image to one zone, once over the origin, and pins it there', async (t) => {
  if (!requires(t, 'namespaces', 'docker-registry')) return
  const folder = mkdtempSync(join(tmpdir(), 'shoal-preheat-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const tokenFile = join(folder, 'token')
  writeFileSync(tokenFile, 'token-of-the-tracker-in-the-lab\n')
  chmodSync(tokenFile, 0o600)
  const options = {
    agents: 3,
    trackerConfig: { httpTokenFile: tokenFile },
    agentConfig: (index: number) => ({ zone: index < 2 ? 'near' : 'far' }),
  }
  await withLab('preheat', options, async (lab) => {
    const image = await lab.pushImage({ layers: [16 * MiB] })
    const name = `${lab.origin.host}/${image.repository}:${image.tag}`
    const preheat = ['preheat', name, '--zone', 'near', '--pin']
    assert.ok(lab.tracker)
    const refused = await lab.tracker.exec(shoalCommand(...preheat))
    assert.equal(refused.code, 1)
    assert.match(refused.stderr, /401: this needs a token/)

    const done = await lab.tracker.exec(shoalCommand(...preheat, '--token-file', tokenFile))
    assert.equal(done.code, 0, done.stderr)
    assert.match(done.stdout, /is on 2 of 2 nodes/)
    const sent = await lab.origin.contentBytesSent()
    assert.ok(sent <= 1.02 * image.totalBytes, `the origin sent ${sent} bytes of ${image.totalBytes}`)
    assert.equal((await lab.agent(2).received('peer')) + (await lab.agent(2).received('origin')), 0)

    for (const agent of [lab.agent(0), lab.agent(1)]) {
      const listed = await agent.exec(shoalCommand('pins'))
      assert.ok(listed.stdout.includes(name), listed.stdout + listed.stderr)
      const before = (await agent.received('peer')) + (await agent.received('origin'))
      const pulled = await agent.pull(image)
      assert.equal(pulled.bytes, image.totalBytes)
      assert.equal((await agent.received('peer')) + (await agent.received('origin')), before)
    }
  })
})
