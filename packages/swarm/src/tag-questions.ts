// Asking connected agents what they know of a tag, when neither the origin nor a tracker can be asked.
import type { ControlChannel, TagKnown } from '@shoal/network'
import type { TagFound } from './tracker-client.ts'

/** Agents that are asked about one tag. */
const ASKED_AGENTS = 16

type Known = TagFound & { ageMs: number }

/** Questions about tags that are under way at other agents. */
export class TagQuestions {
  readonly #agents: () => ControlChannel[]
  readonly #questions = new Map<number, { waiting: Set<string>; best: Known | undefined; settle: () => void }>()
  #nextId = 1

  constructor(agents: () => ControlChannel[]) {
    this.#agents = agents
  }

  /** The youngest answer of all agents that answer within `timeoutMs`; undefined when nobody knows the tag. */
  async ask(reference: string, timeoutMs: number): Promise<Known | undefined> {
    const agents = this.#agents().slice(0, ASKED_AGENTS)
    if (agents.length === 0) return undefined
    const requestId = this.#nextId++
    const { promise, resolve } = Promise.withResolvers<void>()
    const question = { waiting: new Set(agents.map(({ peerId }) => peerId)), best: undefined, settle: resolve }
    this.#questions.set(requestId, question)
    const timer = setTimeout(resolve, timeoutMs)
    try {
      for (const channel of agents) channel.send({ type: 'tag-query', requestId, reference })
      await promise
      return question.best
    } finally {
      clearTimeout(timer)
      this.#questions.delete(requestId)
    }
  }

  answered(peerId: string, message: TagKnown): void {
    const question = this.#questions.get(message.requestId)
    if (question?.waiting.delete(peerId) !== true) return
    const { digest, mediaType, sizeBytes, ageMs } = message
    if (digest !== '' && (question.best === undefined || ageMs < question.best.ageMs)) {
      question.best = { digest, mediaType, sizeBytes, ageMs }
    }
    if (question.waiting.size === 0) question.settle()
  }
}
