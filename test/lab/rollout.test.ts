// The promise of the whole: everybody asks at once, and the origin gives little more than one copy. With a tracker, and
// with the DHT alone. Limits are ratios to one straight download in the same lab.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MiB } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { withLab } from './lab.ts'
import { describeRollout, rollout } from './rollout.ts'

// All agents share the machine's cores. At 100 Mbit/s sixteen of them want more than two cores have, so there the bytes
// and digests are judged and the time is only told; at 25 Mbit/s the links are the limit, and the time is judged, too.
// Where other work leaves the machine without any idle time, they are not: then the bound is one that only a swarm that
// does not share would miss (16 nodes that pull straight take 16).
const IDLE_SHARE = 0.05
const OVERLOADED_RATIO = 4
const CASES = [
  { name: 'with a tracker', tracker: true, rate: '100mbit', mib: 128, originCopies: 1.05, lastRatio: undefined },
  { name: 'with a tracker', tracker: true, rate: '25mbit', mib: 32, originCopies: 1.05, lastRatio: 1.6 },
  { name: 'through the DHT alone', tracker: false, rate: '100mbit', mib: 128, originCopies: 1.5, lastRatio: undefined },
]

for (const { name, tracker, rate, mib, originCopies, lastRatio } of CASES) {
  test(`16 cold agents are asked for ${mib} MiB within a second at ${rate}, ${name}`, async (t) => {
    if (!requires(t, 'namespaces', 'docker-registry')) return
    await withLab(`rollout ${name} ${rate}`, { agents: 16, rate, tracker }, async (lab) => {
      // Agents of a running cluster have met and have done this before; what is cold is the image.
      await rollout(lab, { image: await lab.pushImage({ name: 'earlier', layers: [16 * MiB] }) })
      const image = await lab.pushImage({ layers: [mib * MiB] })
      const straight = await lab.straightDownload(image)
      const result = await rollout(lab, { image })
      const table = describeRollout(result, straight.durationMs)
      t.diagnostic(`\n${table}`)
      for (const { name: agent, error, verified } of result.outcomes) assert.ok(verified, `${agent}: ${error?.message}`)
      const copies = result.originContentBytes / result.imageBytes
      assert.ok(copies <= originCopies, `${copies.toFixed(3)} images left the origin\n${table}`)
      // The link carries what the count says, and headers: nothing goes by another way.
      const linkCopies = result.originLinkBytes / result.imageBytes
      assert.ok(linkCopies <= originCopies * 1.06, `${linkCopies.toFixed(3)} images over the origin's link\n${table}`)
      if (lastRatio !== undefined) {
        const ratio = result.lastMs / straight.durationMs
        const limit = result.idleShare >= IDLE_SHARE ? lastRatio : OVERLOADED_RATIO
        assert.ok(ratio <= limit, `the last agent took ${ratio.toFixed(2)} straight downloads\n${table}`)
      }
    })
  })
}
