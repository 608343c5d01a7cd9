// The origin is gone: an agent that has nothing still serves what the swarm has, by digest and by tag, to real runtimes,
// and says which answers are stale. When the origin is back, its word counts again.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { withLab, type PushedImage } from '../lab/lab.ts'
import { KiB, MiB } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { until } from '../support/until.ts'
import { RUNTIMES } from './runtimes.ts'
import { labOptions, measure, nameOf, slug } from './swarm-of-clients.ts'

test('runtimes pull what peers have while the origin is down', async (t) => {
  if (!requires(t, 'namespaces', 'busybox', 'docker-registry')) return
  const options = labOptions(3, 'docker-registry')
  const agentConfig = (index: number, host: string) => ({ ...options.agentConfig?.(index, host), tagCacheTtl: '500ms' })
  await withLab('origin down', { ...options, agentConfig }, async (lab) => {
    const [a, b, c] = [lab.agent(0), lab.agent(1), lab.agent(2)]
    const layerBytes = [6 * KiB, 9 * MiB]
    const images = new Map<string, PushedImage>()
    const through = (agent: typeof a, image: PushedImage, registry: string, reference: string) =>
      agent.probe.pull({
        endpoint: 'http://127.0.0.1:7700',
        namespace: registry,
        repository: image.repository,
        reference,
      })
    for (const kind of RUNTIMES) {
      for (const by of ['tag', 'digest']) {
        const repository = `down/${slug(kind.name)}-${by}`
        const image = await lab.push(repository, '1.0', { kind: 'runnable', seed: repository, layerBytes })
        await through(a, image, kind.registry, image.tag)
        await through(b, image, kind.registry, image.tag)
        images.set(`${kind.name} ${by}`, image)
      }
    }
    await lab.origin.stop()

    for (const kind of RUNTIMES) {
      for (const by of ['digest', 'tag'] as const) {
        await t.test(`${kind.name} by ${by}`, async (part) => {
          if (!requires(part, ...kind.needs)) return
          const image = images.get(`${kind.name} ${by}`)
          assert.ok(image)
          const runtime = await kind.start(c)
          try {
            const { agents } = await measure(lab, () => runtime.pull(nameOf(kind, image), by))
            assert.equal(agents[2]?.fromOrigin, 0)
            assert.ok((agents[2]?.fromPeers ?? 0) >= image.totalBytes - image.content.manifest.length)
            if (runtime.run) assert.match(await runtime.run(), /shoal-runs/)
          } finally {
            await runtime.close()
          }
        })
      }
    }

    await t.test('stale tags are marked, fresh ones are not, and digests never are', async () => {
      const kind = RUNTIMES.find(({ registry }) => registry === 'docker.io')
      const image = images.get(`${kind?.name} tag`)
      assert.ok(image)
      const ask = (reference: string) =>
        c.probe.get(`http://127.0.0.1:7700/v2/${image.repository}/manifests/${reference}?ns=docker.io`)
      const stale = await ask(image.tag)
      assert.equal(stale.status, 200)
      assert.match(stale.headers['warning'] ?? '', /^110 /)
      assert.equal(stale.headers['docker-content-digest'], image.digest)
      const byDigest = await ask(image.digest)
      assert.equal(byDigest.status, 200)
      assert.equal(byDigest.headers['warning'], undefined)
      const unknown = await c.probe.get(`http://127.0.0.1:7700/v2/down/never-seen/manifests/1?ns=docker.io`)
      assert.ok(unknown.status >= 400, `an image nobody has is answered with ${unknown.status}`)
      assert.ok((JSON.parse(unknown.text) as { errors: unknown[] }).errors.length > 0)

      await lab.origin.start()
      const next = await lab.push(image.repository, image.tag, { kind: 'runnable', seed: 'moved', layerBytes })
      const fresh = await until(
        async () => {
          const answer = await ask(image.tag)
          return answer.headers['docker-content-digest'] === next.digest && answer
        },
        { what: 'the new digest of a moved tag' },
      )
      assert.equal(fresh.headers['warning'], undefined)
    })
  })
})
