// Nothing that Shoal does before the first byte may cost a pull much: a cold pull through an agent that is alone, with
// no tracker, an empty DHT or one whose entry points are dead, side by side with the same pull from the origin.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { KiB, MiB } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { withLab, type PushedImage } from './lab.ts'

const ROUNDS = 7
/** While others have the processors, no round may be short: then it takes more of them. */
const MOST_ROUNDS = 30
const LAYERS = [6 * MiB, 2 * MiB, 4 * KiB]

const CASES = [
  { name: 'an empty DHT', bootstrapPeers: [], rate: undefined },
  { name: 'a DHT whose entry points are dead', bootstrapPeers: ['10.77.9.9:7701', '10.77.9.10:7701'], rate: undefined },
  { name: 'an empty DHT, links of 100 Mbit/s', bootstrapPeers: [], rate: '100mbit' },
]

for (const { name, bootstrapPeers, rate } of CASES) {
  test(`a cold pull of 8 MB through a lone agent, ${name}`, async (t) => {
    if (!requires(t, 'namespaces', 'docker-registry')) return
    const agentConfig = () => ({ bootstrapPeers })
    const options = { agents: 1, tracker: false, agentConfig, ...(rate === undefined ? {} : { rate }) }
    await withLab(`cold pull ${name}`, options, async (lab) => {
      const straight: number[] = []
      const through: number[] = []
      const firstBytes: number[] = []
      const push = (round: number): Promise<PushedImage> =>
        lab.pushImage({ name: `cold${round}`, seed: `${name}${round}`, layers: LAYERS })
      // What others do on the machine comes on top, and of that the shortest round has the least.
      const shortest = () => [Math.min(...straight), Math.min(...through)] as const
      const limitMs = () => Math.max(1.3 * shortest()[0], shortest()[0] + 150)
      // The first of each warms up what is not measured: code, connections, caches of the origin.
      for (let round = 0; round <= MOST_ROUNDS; round++) {
        const image = await push(round)
        const direct = await lab.straightDownload(image)
        const agent = await lab.agent(0).pull(image)
        assert.ok(agent.blobs.every(({ verified }) => verified))
        if (round === 0) continue
        straight.push(direct.durationMs)
        through.push(agent.durationMs)
        firstBytes.push(agent.firstByteMs)
        if (round >= ROUNDS && shortest()[1] <= limitMs()) break
      }
      const [directMs, agentMs] = shortest()
      const figures = `straight ${directMs.toFixed(0)} ms, through the agent ${agentMs.toFixed(0)} ms, ${straight.length} rounds`
      t.diagnostic(`${figures} (first byte ${Math.min(...firstBytes).toFixed(0)} ms), limit ${limitMs().toFixed(0)} ms`)
      assert.ok(agentMs <= limitMs(), `${figures}, limit ${limitMs().toFixed(0)} ms`)
    })
  })
}
