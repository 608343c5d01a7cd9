// Finding out how large a blob is that was asked for by digest alone: from the tracker, from agents that are connected,
// and from those that the DHT names.
import type { Digest } from '@shoal/oci'
import type { ControlChannel, ControlPlane, SwarmJoin } from '@shoal/network'

const ASKED_AGENTS = 32
/** Time for a channel to an agent that the DHT named. */
const CONNECT_TIMEOUT_MS = 1500

export interface SizeAnswer {
  sizeBytes: number
  /** Empty when the one who answered did not know it. */
  mediaType: string
  /** Peer id of the agent that answered; empty when the tracker did. */
  saidBy: string
}

export interface SizeQuestionsOptions {
  control: Pick<ControlPlane, 'findProviders' | 'channel'>
  /** Agents with an open channel. */
  agents: () => ControlChannel[]
  /** What the tracker knows. */
  askTracker?: (digest: Digest, signal: AbortSignal) => Promise<number | undefined>
}

interface SizeQuestion {
  readonly waiting: Set<string>
  /** Tracker and DHT that may still know. */
  searching: number
  readonly settle: (answer: SizeAnswer | undefined) => void
  readonly answer: Promise<SizeAnswer | undefined>
}

/** Questions about sizes that are under way. */
export class SizeQuestions {
  readonly #options: SizeQuestionsOptions
  readonly #questions = new Map<Digest, SizeQuestion>()

  constructor(options: SizeQuestionsOptions) {
    this.#options = options
  }

  /** The first answer; undefined when nobody knows, or `timeoutMs` is over. */
  async ask(digest: Digest, timeoutMs: number): Promise<SizeAnswer | undefined> {
    const running = this.#questions.get(digest)
    if (running !== undefined) return await running.answer
    const { promise, resolve } = Promise.withResolvers<SizeAnswer | undefined>()
    const question: SizeQuestion = { waiting: new Set(), searching: 2, settle: resolve, answer: promise }
    this.#questions.set(digest, question)
    const over = new AbortController()
    const timer = setTimeout(() => resolve(undefined), timeoutMs)
    try {
      for (const channel of this.#options.agents().slice(0, ASKED_AGENTS)) askOne(question, channel, digest)
      this.#searchDht(question, digest, over.signal).catch(() => undefined)
      this.#askTracker(question, digest, over.signal).catch(() => undefined)
      return await promise
    } finally {
      clearTimeout(timer)
      over.abort()
      this.#questions.delete(digest)
    }
  }

  answered(peerId: string, { digest, sizeBytes, mediaType }: SwarmJoin): void {
    if (sizeBytes <= 0) return
    this.#questions.get(digest)?.settle({ sizeBytes, mediaType, saidBy: peerId })
  }

  refused(peerId: string, digest: Digest): void {
    const question = this.#questions.get(digest)
    if (question?.waiting.delete(peerId) === true) endIfNobodyKnows(question)
  }

  async #askTracker(question: SizeQuestion, digest: Digest, signal: AbortSignal): Promise<void> {
    const sizeBytes = await this.#options.askTracker?.(digest, signal)
    if (sizeBytes !== undefined) question.settle({ sizeBytes, mediaType: '', saidBy: '' })
    question.searching--
    endIfNobodyKnows(question)
  }

  async #searchDht(question: SizeQuestion, digest: Digest, signal: AbortSignal): Promise<void> {
    const { control } = this.#options
    try {
      for await (const provider of control.findProviders(digest, signal)) {
        if (signal.aborted) return
        if (question.waiting.has(provider.peerId)) continue
        const limit = AbortSignal.any([signal, AbortSignal.timeout(CONNECT_TIMEOUT_MS)])
        await control.channel(provider, limit).then(
          (channel) => askOne(question, channel, digest),
          () => undefined,
        )
      }
    } finally {
      question.searching--
      endIfNobodyKnows(question)
    }
  }
}

function askOne(question: SizeQuestion, channel: ControlChannel, digest: Digest): void {
  question.waiting.add(channel.peerId)
  channel.send({
    type: 'swarm-join',
    digest,
    sizeBytes: 0,
    mediaType: '',
    chunks: new Uint8Array(),
    complete: false,
    vouchers: [],
    reply: true,
    freeSlots: 0,
  })
}

function endIfNobodyKnows(question: SizeQuestion): void {
  if (question.searching === 0 && question.waiting.size === 0) question.settle(undefined)
}
