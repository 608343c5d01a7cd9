// Tag lookups of many nodes, made into one: who asks first asks the origin, the others get its answer. What an origin
// said last is remembered for the time when it does not answer.
import type { ControlChannel, TagAnswer, TagAsk, TagResult } from '@shoal/network'
import { LRUCache } from 'lru-cache'

/** References that are remembered. */
const KNOWN_TAGS = 100_000
/** A node that was asked to look up has this long before the next one is asked. */
const LOOKUP_TIMEOUT_MS = 3000
/** For so long the answer of a node that was asked to look up is taken, also if another has been asked since. */
const RESULT_TIMEOUT_MS = 60_000
/** Lookups whose answers are awaited. */
const ASKED = 100_000
/** Failures that are an answer about the tag, though perhaps another one for somebody else. */
const ANSWERS = new Set(['NOT_FOUND', 'UNAUTHORIZED', 'DENIED', 'REFUSED_BY_POLICY'])
/** Failures that say nothing about the tag itself: the origin could not be asked. */
const OUTAGES = new Set(['RATE_LIMITED', 'SERVER_ERROR', 'TIMEOUT', 'UNREACHABLE'])

interface Asker {
  readonly channel: ControlChannel
  readonly requestId: number
}

interface Lookup {
  by: Asker
  startedMs: number
  readonly waiting: Asker[]
}

type Known = Pick<TagAnswer, 'digest' | 'mediaType' | 'sizeBytes'> & { atMs: number }

export interface TagTableOptions {
  /** How long an answer is passed on, in milliseconds. */
  ttlMs: number
}

/** What is known of tags, and who is looking up what. */
export class TagTable {
  readonly #options: TagTableOptions
  readonly #known = new LRUCache<string, Known>({ max: KNOWN_TAGS })
  readonly #lookups = new Map<string, Lookup>()
  /** Who was asked to look up what, and when. What nobody asked for is not believed: it would be what all get. */
  readonly #asked = new LRUCache<string, number>({ max: ASKED })

  constructor(options: TagTableOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#known.size
  }

  ask(channel: ControlChannel, message: TagAsk, nowMs: number): void {
    const { reference, requestId } = message
    const asker = { channel, requestId }
    const known = this.#known.get(reference)
    if (known !== undefined && nowMs - known.atMs <= this.#options.ttlMs) {
      answer(asker, reference, known, false, '')
      return
    }
    const lookup = this.#lookups.get(reference)
    if (lookup === undefined) {
      this.#lookups.set(reference, { by: asker, startedMs: nowMs, waiting: [] })
      this.#sendLookup(asker, reference, nowMs)
    } else lookup.waiting.push(asker)
  }

  result(channel: ControlChannel, message: TagResult, nowMs: number): void {
    const { reference, digest, mediaType, sizeBytes, errorCode } = message
    const lookup = this.#lookups.get(reference)
    if (nowMs - (this.#asked.get(askedKey(channel, reference)) ?? -Infinity) > RESULT_TIMEOUT_MS) return
    if (digest !== '') {
      const known = { digest, mediaType, sizeBytes, atMs: nowMs }
      this.#known.set(reference, known)
      // Asked for by its digest, it is to be known as well: while the origin is down, that is all that a pull may have.
      this.#known.set(byDigest(reference, digest), known)
      this.#lookups.delete(reference)
      for (const asker of lookup?.waiting ?? []) answer(asker, reference, known, false, '')
      return
    }
    const isOutage = OUTAGES.has(errorCode)
    // Whoever asked the origin in vain gets what it said last, too.
    if (isOutage)
      answer({ channel, requestId: message.requestId }, reference, this.#known.get(reference), true, errorCode)
    // A failure counts only for the lookup it belongs to: an old one must not end a new one.
    if (lookup?.by.channel !== channel || lookup.by.requestId !== message.requestId) return
    // The fault may be that node's own (its client has gone, say): another one is asked.
    if (!isOutage && !ANSWERS.has(errorCode)) {
      this.#passOn(reference, lookup, nowMs)
      return
    }
    this.#lookups.delete(reference)
    if (isOutage) {
      const known = this.#known.get(reference)
      for (const asker of lookup.waiting) answer(asker, reference, known, true, errorCode)
      return
    }
    // Not found or not allowed may depend on who asks: the others ask for themselves.
    for (const asker of lookup.waiting) this.#sendLookup(asker, reference, nowMs)
  }

  /** Passes lookups on whose node is gone or slow. */
  expire(nowMs: number): void {
    for (const [reference, lookup] of this.#lookups) {
      if (lookup.by.channel.isOpen && nowMs - lookup.startedMs <= LOOKUP_TIMEOUT_MS) continue
      this.#passOn(reference, lookup, nowMs)
    }
  }

  #passOn(reference: string, lookup: Lookup, nowMs: number): void {
    let next = lookup.waiting.shift()
    while (next !== undefined && !next.channel.isOpen) next = lookup.waiting.shift()
    if (next === undefined) {
      this.#lookups.delete(reference)
      return
    }
    lookup.by = next
    lookup.startedMs = nowMs
    this.#sendLookup(next, reference, nowMs)
  }

  #sendLookup({ channel, requestId }: Asker, reference: string, nowMs: number): void {
    this.#asked.set(askedKey(channel, reference), nowMs)
    channel.send({ type: 'tag-lookup', requestId, reference })
  }
}

function askedKey(channel: ControlChannel, reference: string): string {
  return `${channel.peerId} ${reference}`
}

/** `registry/repository:tag` → `registry/repository@digest`, as agents name what is asked for by digest. */
function byDigest(reference: string, digest: string): string {
  return reference.includes('@') ? reference : `${reference.slice(0, reference.lastIndexOf(':'))}@${digest}`
}

function answer(asker: Asker, reference: string, known: Known | undefined, stale: boolean, errorCode: string): void {
  asker.channel.send({
    type: 'tag-answer',
    requestId: asker.requestId,
    reference,
    digest: known?.digest ?? '',
    mediaType: known?.mediaType ?? '',
    sizeBytes: known?.sizeBytes ?? 0,
    stale,
    errorCode,
  })
}
