// The swarm key is replaced as docs/operations.md says, node by node, and the cluster shares content after every single
// restart. At the end the old key opens nothing, on either plane, not even to a node that was a member.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { withLab, type Lab, type LabAgent, type PushedImage } from '../lab/lab.ts'
import type { LabNode } from '../lab/node.ts'
import { KiB, MiB } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { writeSwarmKey } from '../support/shoal.ts'
import { until } from '../support/until.ts'
import type { Knock } from './key-holder.ts'

const MEMBERS = 3
/** The agent that nobody tells of the new key. */
const FORGOTTEN = MEMBERS
const LAYER_BYTES = 2 * MiB
const CHUNK_BYTES = 256 * KiB
/** What leaves the origin for one copy: manifests are asked for by each, and a chunk may be asked for twice. */
const ONE_COPY_BYTES = LAYER_BYTES + CHUNK_BYTES

/** What the nodes have one after the other: the first key is used, all are accepted. */
const PHASES = ['A', 'A B', 'B A', 'B'] as const
type Phase = (typeof PHASES)[number]

/** The keys of every node, which it is told by its environment at each start. */
class NodeKeys {
  readonly #folder = mkdtempSync(join(tmpdir(), 'shoal-rotation-'))
  readonly #phases = new Map<string, Phase>()
  /** Further variables of a node. */
  readonly more = new Map<string, string>()

  constructor(t: TestContext) {
    t.after(() => rmSync(this.#folder, { recursive: true, force: true }))
    for (const key of ['A', 'B']) writeSwarmKey(this.file(key))
    for (const phase of PHASES.slice(1, 3)) {
      const lines = phase.split(' ').map((key) => readFileSync(this.file(key), 'utf8'))
      writeFileSync(this.file(phase), lines.join(''), { mode: 0o600 })
    }
  }

  file(name: string): string {
    return join(this.#folder, name)
  }

  readonly wrap = (name: string): string[] => {
    const phase = this.#phases.get(name) ?? 'A'
    // Half of the nodes have several keys as lines of one file, the others as several files.
    const files = ['tracker', 'a2'].includes(name) ? [phase] : phase.split(' ')
    const variable = `SHOAL_SWARM_KEY_FILES=${files.map((file) => this.file(file)).join(',')}`
    return ['env', variable, ...(this.more.has(name) ? [this.more.get(name) as string] : [])]
  }

  async restart(node: LabNode, phase: Phase): Promise<void> {
    assert.equal(await node.stop(), 0)
    this.#phases.set(node.name, phase)
    await node.start()
  }
}

async function statusOf(agent: LabAgent): Promise<{ peerId: string; trackers: { connected: boolean }[] }> {
  const { text } = await agent.probe.get('http://127.0.0.1:7703/api/v1/status')
  return JSON.parse(text) as { peerId: string; trackers: { connected: boolean }[] }
}

async function isAtTracker(agent: LabAgent): Promise<boolean> {
  return (await statusOf(agent)).trackers.every(({ connected }) => connected)
}

async function areAtTracker(agents: readonly LabAgent[]): Promise<void> {
  const all = async (): Promise<boolean> => (await Promise.all(agents.map(isAtTracker))).every((is) => is)
  await until(all, { what: 'connection of the agents with the tracker' })
}

/** All pull it at once. */
async function pull(agents: readonly LabAgent[], image: PushedImage): Promise<void> {
  for (const { bytes, blobs } of await Promise.all(agents.map((agent) => agent.pull(image)))) {
    assert.equal(bytes, image.totalBytes)
    assert.ok(blobs.every(({ verified }) => verified))
  }
}

async function sum(agents: readonly LabAgent[], figure: (agent: LabAgent) => Promise<number>): Promise<number> {
  return (await Promise.all(agents.map(figure))).reduce((all, one) => all + one, 0)
}

/** Bytes of chunks that these agents get from peers meanwhile, and of content that leave the origin. */
async function moved(
  lab: Lab,
  agents: readonly LabAgent[],
  work: () => Promise<void>,
): Promise<{ fromPeers: number; leftOrigin: number }> {
  const fromPeers = (): Promise<number> => sum(agents, (agent) => agent.received('peer'))
  const [peersBefore, originBefore] = [await fromPeers(), await lab.origin.contentBytesSent()]
  await work()
  return {
    fromPeers: (await fromPeers()) - peersBefore,
    leftOrigin: (await lab.origin.contentBytesSent()) - originBefore,
  }
}

/** What the holder of a key gets at the agents, when it asks for the image's first chunk. */
async function knock(lab: Lab, keyFile: string, agents: readonly LabAgent[], layer: string): Promise<Knock[]> {
  const targets = await Promise.all(agents.map(async (agent) => `${agent.address}/${(await statusOf(agent)).peerId}`))
  const node = [process.execPath, '--disable-warning=ExperimentalWarning']
  const program = join(import.meta.dirname, 'key-holder.ts')
  const { stdout, stderr } = await lab
    .client()
    .exec([...node, program, keyFile, layer, String(CHUNK_BYTES), ...targets])
  assert.notEqual(stdout, '', stderr)
  return JSON.parse(stdout) as Knock[]
}

test('the swarm key is replaced node by node while the cluster goes on sharing', async (t) => {
  if (!requires(t, 'namespaces', 'docker-registry')) return
  const keys = new NodeKeys(t)
  const options = { agents: MEMBERS + 1, wrap: keys.wrap, agentConfig: () => ({ manifestTimeout: '3s' }) }
  await withLab('key rotation', options, async (lab) => {
    const { tracker } = lab
    assert.ok(tracker)
    const members = lab.agents.slice(0, MEMBERS)
    const nodes: LabNode[] = [tracker, ...members]
    const forgotten = lab.agent(FORGOTTEN)
    let images = 0
    const push = (): Promise<PushedImage> => lab.pushImage({ name: `app-${++images}`, layers: [LAYER_BYTES] })

    await areAtTracker(lab.agents)
    await pull(lab.agents, await push())

    for (const phase of PHASES.slice(1)) {
      for (const node of nodes) {
        const [restarted, others] = [members.filter((one) => one === node), members.filter((one) => one !== node)]
        const [meanwhile, after] = [await push(), await push()]
        const during = await moved(lab, others, async () => {
          await Promise.all([keys.restart(node, phase), pull(others, meanwhile)])
        })
        await areAtTracker(members)
        // The restarted agent has the one image from the others, and they have the other one from it.
        const toIt = await moved(lab, restarted, () => pull(restarted, meanwhile))
        const toAll = await moved(lab, members, async () => {
          await pull(restarted, after)
          await pull(others, after)
        })
        const step = JSON.stringify({ step: `${node.name} has ${phase}`, during, toIt, toAll })
        t.diagnostic(step)
        // Without the tracker, that is while it restarts, one copy is an aim only.
        if (node !== tracker) assert.ok(during.leftOrigin <= ONE_COPY_BYTES, step)
        assert.ok(toIt.leftOrigin < CHUNK_BYTES, step)
        assert.ok(toIt.fromPeers >= restarted.length * LAYER_BYTES, step)
        assert.ok(toAll.leftOrigin <= ONE_COPY_BYTES, step)
        assert.ok(toAll.fromPeers >= (MEMBERS - 1) * LAYER_BYTES - CHUNK_BYTES, step)
      }
    }

    const image = await push()
    await pull(members, image)
    await lab.origin.stop()
    assert.ok('blobs' in image.content)
    const layer = image.content.blobs[1]
    assert.ok(layer)
    const chunk = createHash('sha256')
      .update(Buffer.concat([...layer.bytes()]).subarray(0, CHUNK_BYTES))
      .digest('hex')
    // Who has stolen the old key proves with it and takes any proof of others.
    const [old, current] = await Promise.all(
      ['A B', 'B'].map((file) => knock(lab, keys.file(file), members, layer.digest)),
    )
    assert.deepEqual(old, Array(MEMBERS).fill({ control: 'UNREACHABLE', transfer: 'HANDSHAKE_FAILED', chunk: '' }))
    assert.deepEqual(current, Array(MEMBERS).fill({ control: 'open', transfer: 'open', chunk }))

    // It was never restarted, so it had connections to all of them.
    assert.equal(await forgotten.metric('shoal_peers_connected'), 0)
    assert.equal(await isAtTracker(forgotten), false)
    // Told where everybody is, it tries, and is refused.
    const peers = members.map(({ address }) => `${address}:7701`).join(',')
    keys.more.set(forgotten.name, `SHOAL_BOOTSTRAP_PEERS=${peers}`)
    const refused = (): Promise<number[]> =>
      Promise.all(nodes.map((node) => node.metric('shoal_membership_failures_total')))
    const before = await refused()
    await keys.restart(forgotten, 'A')
    const triedAll = async (): Promise<boolean> => (await refused()).every((count, at) => count > (before[at] ?? 0))
    await until(triedAll, { what: 'attempts of the forgotten agent at every node' })
    await assert.rejects(forgotten.pull(image, { byDigest: true }))
    await assert.rejects(forgotten.pull(image))
    assert.equal(await forgotten.received('peer'), 0)
    assert.equal(await forgotten.metric('shoal_peers_connected'), 0)
    assert.equal(await isAtTracker(forgotten), false)

    // The key was all that it lacked.
    await keys.restart(forgotten, 'B')
    await areAtTracker([forgotten])
    await pull([forgotten], image)
    assert.ok((await forgotten.received('peer')) >= LAYER_BYTES)
  })
})
