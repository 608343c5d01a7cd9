// Real runtimes pull a real image through one agent, then through another, which must take it from the first.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { withLab, type Lab } from '../lab/lab.ts'
import type { OriginKind } from '../lab/origins.ts'
import { MiB } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { RUNTIMES, type RuntimeKind } from './runtimes.ts'
import { labOptions, measure, nameOf, slug, THREE_LAYERS } from './swarm-of-clients.ts'

async function pullThroughTwo(lab: Lab, kind: RuntimeKind, docker: boolean): Promise<void> {
  const repository = `team/${slug(kind.name)}`
  const spec = { kind: 'runnable' as const, seed: repository, layerBytes: THREE_LAYERS, docker }
  const image = await lab.push(repository, '1.0', spec)
  const blobBytes = image.totalBytes - image.content.manifest.length
  const name = nameOf(kind, image)

  const pullAt = async (index: number): Promise<void> => {
    const runtime = await kind.start(lab.agent(index))
    try {
      await runtime.pull(name, 'tag')
      if (runtime.run) assert.match(await runtime.run(), /shoal-runs/)
      await runtime.pull(name, 'digest')
      if (runtime.run) assert.match(await runtime.run(), /shoal-runs/)
    } finally {
      await runtime.close()
    }
  }

  const first = await measure(lab, () => pullAt(0))
  assert.ok(first.origin >= blobBytes, `only ${first.origin} bytes left the origin`)
  assert.ok(first.origin <= 1.02 * image.totalBytes, `${first.origin} of ${image.totalBytes} bytes left the origin`)

  const second = await measure(lab, () => pullAt(1))
  const [a, b] = second.agents
  assert.equal(b?.fromOrigin, 0, 'the second agent took chunks from the origin')
  assert.ok((b?.fromPeers ?? 0) >= blobBytes, `${b?.fromPeers} of ${blobBytes} bytes came from peers`)
  assert.equal(a?.sent, b?.fromPeers, 'the first agent sent what the second received')
  assert.equal(second.origin < MiB, true, `${second.origin} bytes left the origin for the second agent`)
}

async function pullIndex(lab: Lab, kind: RuntimeKind, docker: boolean): Promise<void> {
  const repository = `multi/${slug(kind.name)}`
  const [mine, other] = process.arch === 'x64' ? ['amd64', 'arm64'] : ['arm64', 'amd64']
  const image = await lab.push(repository, '1.0', {
    kind: 'index',
    docker,
    images: [
      { kind: 'runnable', seed: `${repository}/other`, layerBytes: [16 * MiB], docker, architecture: other ?? '' },
      { kind: 'runnable', seed: `${repository}/mine`, layerBytes: [2 * MiB], docker, architecture: mine ?? '' },
    ],
  })
  const name = nameOf(kind, image)
  const { origin } = await measure(lab, async () => {
    const runtime = await kind.start(lab.agent(0))
    try {
      for (const by of ['tag', 'digest'] as const) {
        await runtime.pull(name, by)
        if (runtime.run) assert.match(await runtime.run(), /shoal-runs/)
      }
    } finally {
      await runtime.close()
    }
  })
  assert.ok(origin < 8 * MiB, `${origin} bytes left the origin: the other platform's layers are not wanted`)
}

for (const originKind of ['docker-registry', 'shoal'] satisfies OriginKind[]) {
  test(`runtimes pull through the swarm, origin: ${originKind}`, async (t) => {
    if (!requires(t, 'namespaces', 'busybox', ...(originKind === 'docker-registry' ? ['docker-registry'] : []))) return
    await withLab(`clients ${originKind}`, labOptions(2, originKind), async (lab) => {
      for (const [i, kind] of RUNTIMES.entries()) {
        // Both kinds of manifest meet every runtime: one with each origin.
        const docker = (i % 2 === 0) === (originKind === 'docker-registry')
        await t.test(`${kind.name}: three layers by tag and by digest, through two agents`, async (part) => {
          if (requires(part, ...kind.needs)) await pullThroughTwo(lab, kind, docker)
        })
        await t.test(`${kind.name}: an index of two architectures`, async (part) => {
          if (requires(part, ...kind.needs)) await pullIndex(lab, kind, docker)
        })
      }
    })
  })
}
