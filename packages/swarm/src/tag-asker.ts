// Questions about tags that are under way at a tracker, and the lookups that it asks of this node in turn.
import type { ControlChannel, TagAnswer, TagLookup } from '@shoal/network'
import { UpstreamError } from '@shoal/upstream'
import type { TagFound, TagOutcome } from './tracker-client.ts'

interface Question {
  channel: ControlChannel
  reference: string
  lookup: () => Promise<TagFound>
  settle: (outcome: TagOutcome<TagFound> | undefined) => void
  fail: (error: unknown) => void
  lookingUp: boolean
  /** Why the own lookup failed; what the tracker knows may still come. */
  failure: unknown
}

/** After a lookup in vain, the tracker has this long to tell what the origin said last, in milliseconds. */
const LAST_WORD_MS = 500

/** Keeps the questions of this node apart by their number. */
export class TagAsker {
  readonly #questions = new Map<number, Question>()
  #nextId = 1

  /** Undefined when there was no answer within `timeoutMs`. Errors of the own lookup are thrown as they are. */
  async ask<T extends TagFound>(
    channel: ControlChannel,
    reference: string,
    lookup: () => Promise<T>,
    timeoutMs: number,
  ): Promise<TagOutcome<T> | undefined> {
    const requestId = this.#nextId++
    const { promise, resolve, reject } = Promise.withResolvers<TagOutcome<TagFound> | undefined>()
    this.#questions.set(requestId, {
      channel,
      reference,
      lookup,
      settle: resolve,
      fail: reject,
      lookingUp: false,
      failure: undefined,
    })
    // The clock stops while this node itself asks the origin: that has its own deadlines.
    const timer = setTimeout(() => {
      if (this.#questions.get(requestId)?.lookingUp === false) resolve(undefined)
    }, timeoutMs)
    channel.send({ type: 'tag-ask', requestId, reference })
    try {
      return (await promise) as TagOutcome<T> | undefined
    } finally {
      clearTimeout(timer)
      this.#questions.delete(requestId)
    }
  }

  receive(message: TagLookup | TagAnswer): void {
    const question = this.#questions.get(message.requestId)
    if (question === undefined) return
    if (message.type === 'tag-lookup') {
      if (!question.lookingUp) this.#lookUp(message.requestId, question)
      return
    }
    if (question.lookingUp && question.failure === undefined) return
    const { digest, mediaType, sizeBytes, stale, errorCode } = message
    if (digest === '' && question.failure !== undefined) question.fail(question.failure)
    else if (digest === '') question.settle({ kind: 'failed', errorCode })
    else question.settle({ kind: 'told', found: { digest, mediaType, sizeBytes }, stale })
  }

  /** A tracker is lost: who asked it goes its own way. */
  failAll(lost: ControlChannel): void {
    for (const question of this.#questions.values()) {
      if (question.channel !== lost) continue
      if (question.failure !== undefined) question.fail(question.failure)
      else if (!question.lookingUp) question.settle(undefined)
    }
  }

  #lookUp(requestId: number, question: Question): void {
    question.lookingUp = true
    const { channel, reference } = question
    question
      .lookup()
      .then(
        (found) => {
          const { digest, mediaType, sizeBytes } = found
          question.settle({ kind: 'own', found })
          channel.send({ type: 'tag-result', requestId, reference, digest, mediaType, sizeBytes, errorCode: '' })
        },
        (error: unknown) => {
          const isOutage = error instanceof UpstreamError && error.isOutage
          const errorCode = error instanceof Error && 'code' in error ? String(error.code) : 'UNKNOWN'
          if (isOutage && channel.isOpen) {
            question.failure = error
            setTimeout(() => question.fail(error), LAST_WORD_MS)
          } else question.fail(error)
          channel.send({
            type: 'tag-result',
            requestId,
            reference,
            digest: '',
            mediaType: '',
            sizeBytes: 0,
            errorCode,
          })
        },
      )
      .catch((error: unknown) => question.fail(error))
  }
}
