// What one agent of eight that lies costs the others in a cold rollout, for each kind of lie: beside the same rollout with
// eight honest ones, and beside one whose eighth node has no part in the swarm. A liar that was left may still pull the image
// from the origin like every other client, over the link that all share; the second tells what that alone costs.
import { LIES, lying, peerIdOf, whoNames, type Lie } from '../chaos/lies.ts'
import { withLab } from '../lab/lab.ts'
import { rollout } from '../lab/rollout.ts'
import { MiB } from '../support/images.ts'
import { median, type SectionResult, type Target } from './figures.ts'

/** As in the bench of rollouts: the links are the limit on two cores, not the processor. */
const RATE = '25mbit'
/** Four times a node's, as in the cluster of the simulator's scenarios. */
const WIDE_RATE = '100mbit'
const LAYER_BYTES = 32 * MiB
const AGENTS = 8
const LIAR = 2
/** Issue: one liar in eight slows a rollout by at most 30 %. */
const SLOWDOWN_LIMIT = 1.3

/** What the eighth does. */
type Eighth = Lie | 'honest' | 'straight'

interface Measured {
  /** Of the honest agents, in milliseconds. */
  lastMs: number
  medianMs: number
  rejected: number
  copies: number
  /** Of them, to honest agents. */
  honestCopies: number
  namedBy: number
}

/** @param origin whether its link has a node's rate, so that what a liar takes for itself the others lack, or four times it */
export async function liars(rounds: number, origin: 'narrow' | 'wide'): Promise<SectionResult> {
  const originRate = origin === 'wide' ? WIDE_RATE : RATE
  const lies = Object.keys(LIES) as Lie[]
  const honest: Measured[] = []
  const straight: Measured[] = []
  const lied = new Map<Lie, Measured[]>(lies.map((lie) => [lie, []]))
  for (let round = 0; round < rounds; round++) {
    honest.push(await measured('honest', originRate))
    straight.push(await measured('straight', originRate))
    for (const lie of lies) lied.get(lie)?.push(await measured(lie, originRate))
  }
  const [base, without] = [middle(honest), middle(straight)]
  const row = (name: string, one: Measured) => rowOf(name, one, base, without)
  const rows = [row('nobody lies', base), row('straight: has no part, and pulls from the origin', without)]
  const targets: Target[] = []
  for (const [lie, runs] of lied) {
    const one = middle(runs)
    rows.push(row(`${lie}: ${LIES[lie]}`, one))
    targets.push({
      what: `${lie}: the last honest agent within ${SLOWDOWN_LIMIT} of the honest rollout`,
      met: one.lastMs <= base.lastMs * SLOWDOWN_LIMIT,
    })
    targets.push({
      what: `${lie}: or of the one whose eighth node pulls straight from the origin`,
      met: one.lastMs <= Math.max(base.lastMs, without.lastMs) * SLOWDOWN_LIMIT,
    })
    targets.push({ what: `${lie}: the liar is named`, met: runs.every(({ namedBy }) => namedBy > 0) })
  }
  return {
    title: origin === 'wide' ? 'One liar in eight, and a wide origin' : 'One liar in eight',
    method:
      `${AGENTS} agents, one layer of ${LAYER_BYTES / MiB} MiB, everybody at ${RATE} each way and the origin at ${originRate}, all asked within a second, the eighth first. ` +
      `Times are of the seven honest agents, to those of the same seven when the eighth is honest, too; ` +
      `medians of ${rounds} ${rounds === 1 ? 'round' : 'rounds'} in turns. “Named by” counts the daemons (seven agents and the tracker) that name the liar ` +
      'in log and metrics.',
    columns: [
      'the eighth agent',
      'last',
      'last, to “straight”',
      'median',
      'chunks rejected',
      'images from the origin',
      'to the honest',
      'named by',
    ],
    rows,
    targets,
  }
}

function rowOf(name: string, one: Measured, base: Measured, without: Measured): string[] {
  return [
    name,
    (one.lastMs / base.lastMs).toFixed(2),
    (one.lastMs / without.lastMs).toFixed(2),
    (one.medianMs / base.medianMs).toFixed(2),
    String(one.rejected),
    one.copies.toFixed(3),
    one.honestCopies.toFixed(3),
    String(one.namedBy),
  ]
}

function middle(runs: readonly Measured[]): Measured {
  const of = (figure: (run: Measured) => number): number => median(runs.map(figure))
  return {
    lastMs: of(({ lastMs }) => lastMs),
    medianMs: of(({ medianMs }) => medianMs),
    rejected: of(({ rejected }) => rejected),
    copies: of(({ copies }) => copies),
    honestCopies: of(({ honestCopies }) => honestCopies),
    namedBy: of(({ namedBy }) => namedBy),
  }
}

async function measured(eighth: Eighth, originRate: string): Promise<Measured> {
  const lie = eighth === 'honest' || eighth === 'straight' ? undefined : eighth
  const agentPreload = (index: number) => (index === LIAR && lie !== undefined ? lying(lie) : undefined)
  const options = { agents: AGENTS, rate: RATE, originRate, agentPreload }
  return await withLab(`bench liars ${eighth}`, options, async (lab) => {
    const others = lab.agents.filter(({ index }) => index !== LIAR)
    const liar = await peerIdOf(lab.agent(LIAR))
    // Agents of a running cluster have met; what is cold is the image. The liar has had no occasion to lie.
    await rollout(lab, { image: await lab.pushImage({ name: 'earlier', layers: [16 * MiB] }), agents: others })
    const image = await lab.pushImage({ layers: [LAYER_BYTES] })
    // The liar may well not get it.
    const straight = { endpoint: `http://${lab.origin.host}`, repository: image.repository, reference: image.tag }
    const itself = eighth === 'straight' ? lab.agent(LIAR).probe.pull(straight) : lab.agent(LIAR).pull(image)
    itself.catch(() => undefined)
    const result = await rollout(lab, { image, agents: others, retries: 2 })
    const { outcomes } = result
    const failed = outcomes.filter(({ verified }) => !verified)
    if (failed.length > 0) throw new Error(`${failed.length} honest pulls failed: ${failed[0]?.error?.message}`)
    const rejected = await Promise.all(others.map((agent) => agent.metric('shoal_chunks_rejected_total')))
    return {
      lastMs: Math.max(...outcomes.map(({ endedMs }) => endedMs)),
      medianMs: median(outcomes.map(({ durationMs }) => durationMs)),
      rejected: rejected.reduce((sum, count) => sum + count, 0),
      copies: result.originContentBytes / result.imageBytes,
      honestCopies: result.fromOriginBytes / result.imageBytes,
      namedBy: lie === undefined ? 0 : (await whoNames(liar, [...others, lab.tracker!])).length,
    }
  })
}
