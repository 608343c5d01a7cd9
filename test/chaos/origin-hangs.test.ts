// The origin takes connections and never answers: what peers have still flows, and what nobody has fails clearly and in
// bounded time, because no container runtime would ever give up by itself.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { withLab } from '../lab/lab.ts'
import { ProbeError } from '../lab/probe-client.ts'
import { KiB, MiB } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { within } from '../support/until.ts'

test('a hanging origin holds up nothing that peers have, and nothing for ever', async (t) => {
  if (!requires(t, 'namespaces')) return
  const agentConfig = () => ({ manifestTimeout: '3s', blobTimeout: '5s' })
  // The tracker passes no answer on, however young: what is said of a tag is checked, or marked as stale.
  const trackerConfig = { tagTtl: 0 }
  await withLab(
    'origin hangs',
    { agents: 4, originKind: 'faulty', rate: '200mbit', agentConfig, trackerConfig },
    async (lab) => {
      const known = await lab.pushImage({ name: 'known', layers: [24 * MiB, 5 * KiB] })
      const unknown = await lab.pushImage({ name: 'unknown', layers: [24 * MiB] })
      await lab.agent(0).pull(known)
      await lab.faulty.misbehave({ kind: 'hang' })

      const byDigest = await lab.agent(1).pull(known, { byDigest: true })
      assert.ok(byDigest.blobs.every(({ verified }) => verified))
      assert.equal(await lab.agent(1).received('origin'), 0)
      const byTag = await lab.agent(2).pull(known)
      assert.equal(byTag.manifestDigest, known.digest)
      assert.match(byTag.warning ?? '', /^110 /, 'the answer to the tag is not marked as stale')

      // Nobody has it: an answer in the words of the specification, long before the client would be bored.
      const started = performance.now()
      const failing = lab.agent(1).pull(unknown, { idleLimitMs: 120_000 })
      const error = await within(
        failing.then(
          () => assert.fail('an image nobody has was pulled'),
          (why: unknown) => why,
        ),
        60_000,
        'error about an image nobody has',
      )
      t.diagnostic(`refused after ${Math.round(performance.now() - started)} ms`)
      assert.ok(error instanceof ProbeError)
      assert.ok(error.status !== undefined && error.status >= 400, `no HTTP error: ${error.message}`)
      assert.match(error.message, /"errors":\[\{"code":"[A-Z_]+","message":"[^"]+/)
    },
  )
})

test('the origin hangs in the middle of a blob: the pull ends in bounded time, and later starts where it was', async (t) => {
  if (!requires(t, 'namespaces')) return
  const agentConfig = () => ({ manifestTimeout: '3s', blobTimeout: '5s' })
  await withLab(
    'origin hangs midway',
    { agents: 2, originKind: 'faulty', rate: '100mbit', agentConfig },
    async (lab) => {
      const image = await lab.pushImage({ layers: [48 * MiB] })
      let moving = (): void => {}
      const halfway = new Promise<void>((resolve) => (moving = resolve))
      const pulling = lab.agent(0).pull(image, {
        idleLimitMs: 120_000,
        onProgress: (bytes) => bytes > 16 * MiB && moving(),
      })
      const outcome = pulling.then(
        () => 'pulled',
        (error: unknown) => error,
      )
      await Promise.race([halfway, outcome])
      lab.origin.freeze()
      const error = await within(outcome, 60_000, 'end of a pull whose origin hangs')
      assert.ok(error instanceof ProbeError, `the pull ended with ${String(error)}`)
      const had = await lab.agent(0).received('origin')
      lab.origin.thaw()
      const again = await lab.agent(0).pull(image)
      assert.ok(again.blobs.every(({ verified }) => verified))
      const fetched = (await lab.agent(0).received('origin')) - had
      assert.ok(fetched <= 48 * MiB - had + 10 * MiB, `fetched ${fetched} bytes though it had ${had}`)
    },
  )
})
