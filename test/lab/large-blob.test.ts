// A blob far bigger than memory may be: it passes through an agent from the origin, and through another from the first,
// both in bounded memory.
import assert from 'node:assert/strict'
import { readFileSync, statfsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { test, type TestContext } from 'node:test'
import { GiB, MiB } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { withLab, type LabAgent } from './lab.ts'
import { GeneratedOrigin } from './origins.ts'

const LAYER_BYTES = 8 * GiB
const LIMIT_BYTES = 350e6

function hasRoom(t: TestContext): boolean {
  const { bavail, bsize } = statfsSync(tmpdir())
  const needed = 2 * LAYER_BYTES + 4 * GiB
  if (bavail * bsize > needed) return true
  const message = `missing: ${Math.round(needed / GiB)} GiB free in ${tmpdir()}`
  if (process.env['CI'] === 'true') throw new Error(message)
  t.skip(message)
  return false
}

/** Most memory the process has ever had in use, from the kernel. */
function peakResidentBytes(agent: LabAgent): number {
  const status = readFileSync(`/proc/${agent.pid}/status`, 'utf8')
  return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024
}

test('8 GiB pass through two agents, each below 350 MB of memory', { timeout: 600_000 }, async (t) => {
  if (!requires(t, 'namespaces') || !hasRoom(t)) return
  const options = { agents: 2, originKind: 'generated', generatedLayerBytes: LAYER_BYTES, clients: 0 } as const
  await withLab('large blob', options, async (lab) => {
    const { origin } = lab
    assert.ok(origin instanceof GeneratedOrigin)
    const started = performance.now()
    const results = await Promise.all(
      lab.agents.map((agent) =>
        agent.probe.pull({
          endpoint: 'http://127.0.0.1:7700',
          namespace: origin.host,
          repository: 'big/app',
          reference: origin.digest,
        }),
      ),
    )
    const seconds = (performance.now() - started) / 1000
    for (const [i, result] of results.entries()) {
      assert.ok(result.blobs.every(({ verified }) => verified))
      assert.ok(result.bytes > LAYER_BYTES)
      const peak = peakResidentBytes(lab.agent(i))
      t.diagnostic(`${lab.agent(i).name}: ${(peak / 1e6).toFixed(0)} MB at most, ${seconds.toFixed(0)} s`)
      assert.ok(peak > 20 * MiB, 'the memory was not read')
      assert.ok(peak < LIMIT_BYTES, `${lab.agent(i).name} had ${(peak / 1e6).toFixed(0)} MB in use`)
    }
  })
})
