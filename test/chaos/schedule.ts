// What happens when in a chaos run, decided by the seed alone: the same seed gives the same episodes on any machine. Only
// how many of them fit into the time depends on the machine.
import { createHash } from 'node:crypto'
import { FAULT_KINDS, FAULT_NAMES, type FaultKind, type FaultName } from './fault-kinds.ts'

export interface ScheduledFault {
  name: FaultName
  /** Number of the agent that it befalls; of no meaning for others. */
  agent: number
  /** From the beginning of the episode. */
  atMs: number
  durationMs: number
  /** What else the fault decides by chance follows from this. */
  seed: string
}

export interface Episode {
  /** From 0. */
  number: number
  seed: string
  /** In the order in which they begin. */
  faults: ScheduledFault[]
  /** When each agent's client begins to pull, in ms from the beginning of the episode. */
  pullsAtMs: number[]
}

export interface ScheduleOptions {
  seed: string
  agents: number
  /** @default all */
  faults?: readonly FaultName[]
  /** Faults that overlap in one episode. @default 4 */
  together?: number
  /** Short faults, for a run that is to see each once. @default false */
  brief?: boolean
}

/** Numbers from 0 to 1 that follow from the seed alone (mulberry32). */
export function randomOf(seed: string): () => number {
  let state = createHash('sha256').update(seed).digest().readUInt32LE(0)
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

export function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const order = [...items]
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1))
    ;[order[i], order[j]] = [order[j] as T, order[i] as T]
  }
  return order
}

/**
 * Episodes without end. The faults are dealt like cards from a shuffled deck: each comes once before any comes again. No
 * agent is befallen twice in one episode, so that one fault does not make another impossible.
 */
export function* schedule(options: ScheduleOptions): Generator<Episode> {
  const { seed, agents, faults = FAULT_NAMES, together = 4, brief = false } = options
  let deck: FaultName[] = []
  for (let number = 0; ; number++) {
    const episodeSeed = `${seed}/${number}`
    const random = randomOf(episodeSeed)
    if (deck.length === 0) deck = shuffled(faults, random)
    const victims = shuffled(
      Array.from({ length: agents }, (_, i) => i),
      random,
    )
    const dealt: ScheduledFault[] = []
    const left: FaultName[] = []
    for (const name of deck) {
      const kind: FaultKind = FAULT_KINDS[name]
      const agent = kind.on === 'agent' && dealt.length < together ? victims.pop() : 0
      if (dealt.length >= together || agent === undefined) {
        left.push(name)
        continue
      }
      const atMs = Math.round(random() * (brief ? 2000 : 6000))
      const durationMs = Math.round(durationOf(kind, brief, random))
      dealt.push({ name, agent, atMs, durationMs, seed: `${episodeSeed}/${name}` })
    }
    deck = left
    dealt.sort((a, b) => a.atMs - b.atMs)
    const pullsAtMs = Array.from({ length: agents }, () => Math.round(random() * (brief ? 1500 : 5000)))
    yield { number, seed: episodeSeed, faults: dealt, pullsAtMs }
  }
}

/** Long silence is rarer than short: a run is to see many faults. */
function durationOf({ lasting }: FaultKind, brief: boolean, random: () => number): number {
  if (brief) return 2000 + random() * 2500
  return lasting ? 5000 + random() ** 3 * 55_000 : 3000 + random() * 12_000
}

/** Episodes until every fault has been dealt once. */
export function fullRound(options: ScheduleOptions): Episode[] {
  const wanted = new Set<FaultName>(options.faults ?? FAULT_NAMES)
  const episodes: Episode[] = []
  for (const episode of schedule(options)) {
    episodes.push(episode)
    for (const { name } of episode.faults) wanted.delete(name)
    if (wanted.size === 0) break
  }
  return episodes
}
