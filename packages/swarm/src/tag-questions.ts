// Asking connected agents what they know of a tag, when neither the origin nor a tracker can be asked.
import type { ControlChannel, TagKnown } from '@shoal/network'
import type { TagFound } from './tracker-client.ts'

/** Agents that are asked about one tag. */
const ASKED_AGENTS = 16

/** What a node remembers of a tag. */
export interface TagMemory extends TagFound {
  /** How long ago the origin said so. */
  ageMs: number
  /** Who remembers it. */
  peerId: string
}

/** Questions about tags that are under way at other agents. */
export class TagQuestions {
  readonly #agents: () => ControlChannel[]
  readonly #questions = new Map<number, { waiting: Set<string>; answers: TagMemory[]; settle: () => void }>()
  #nextId = 1

  constructor(agents: () => ControlChannel[]) {
    this.#agents = agents
  }

  /** What those agents know that answer within `timeoutMs`; nothing of those that do not know the tag. */
  async ask(reference: string, timeoutMs: number): Promise<TagMemory[]> {
    const agents = this.#agents().slice(0, ASKED_AGENTS)
    if (agents.length === 0) return []
    const requestId = this.#nextId++
    const { promise, resolve } = Promise.withResolvers<void>()
    const question = { waiting: new Set(agents.map(({ peerId }) => peerId)), answers: [], settle: resolve }
    this.#questions.set(requestId, question)
    const timer = setTimeout(resolve, timeoutMs)
    try {
      for (const channel of agents) channel.send({ type: 'tag-query', requestId, reference })
      await promise
      return question.answers
    } finally {
      clearTimeout(timer)
      this.#questions.delete(requestId)
    }
  }

  answered(peerId: string, message: TagKnown): void {
    const question = this.#questions.get(message.requestId)
    if (question?.waiting.delete(peerId) !== true) return
    const { digest, mediaType, sizeBytes, ageMs } = message
    if (digest !== '') question.answers.push({ digest, mediaType, sizeBytes, ageMs, peerId })
    if (question.waiting.size === 0) question.settle()
  }
}

/**
 * What most nodes remember alike; of as many the youngest. A liar can be as young as it likes, but it is one node: of
 * several answers of one node the youngest counts. Undefined when nobody remembers anything.
 */
export function mostNamed(answers: readonly TagMemory[]): TagFound | undefined {
  const youngestFirst = answers.toSorted((one, other) => one.ageMs - other.ageMs)
  const heard = new Set<string>()
  // A map keeps the order of its first entries: of as many voices the youngest comes first.
  const votes = new Map<string, { found: TagFound; count: number }>()
  for (const { digest, mediaType, sizeBytes, peerId } of youngestFirst) {
    if (heard.has(peerId)) continue
    heard.add(peerId)
    const key = `${digest} ${sizeBytes} ${mediaType}`
    const vote = votes.get(key) ?? { found: { digest, mediaType, sizeBytes }, count: 0 }
    votes.set(key, { ...vote, count: vote.count + 1 })
  }
  let best: { found: TagFound; count: number } | undefined
  for (const vote of votes.values()) if (best === undefined || vote.count > best.count) best = vote
  return best?.found
}
