// Tag lookups of many nodes, made into two: the first two that ask, ask the origin; the others get what both say alike,
// so that no single node says what a tag is for all. What an origin said last is remembered for the time when it does
// not answer.
import type { ControlChannel, TagAsk, TagResult } from '@shoal/network'
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'
import { TagVoices, type TagWord } from './tag-voices.ts'

/** What so many different nodes say is passed on. */
const VOICES_NEEDED = 2
/** A node that was asked to look up has this long before another one is asked as well. */
const LOOKUP_TIMEOUT_MS = 750
/** Who has waited for the others so long asks the origin itself. Agents wait two seconds, then they do so anyway. */
const WAIT_LIMIT_MS = 1500
/** For so long the answer of a node that was asked to look up is taken, also if another has been asked since. */
const RESULT_TIMEOUT_MS = 60_000
/** Two voices that are further apart than that, and than the time an answer is passed on, were not about the same moment. */
const SAME_MOMENT_MS = 3000
/** Lookups whose answers are awaited. */
const ASKED = 100_000
/** Failures that are an answer about the tag, though perhaps another one for somebody else. */
const ANSWERS = new Set(['NOT_FOUND', 'UNAUTHORIZED', 'DENIED', 'REFUSED_BY_POLICY'])
/** Failures that say nothing about the tag itself: the origin could not be asked. */
const OUTAGES = new Set(['RATE_LIMITED', 'SERVER_ERROR', 'TIMEOUT', 'UNREACHABLE'])

interface Asker {
  readonly channel: ControlChannel
  readonly requestId: number
  /** When it asked, or was asked. */
  readonly sinceMs: number
}

/** All that is under way about one reference. */
interface Round {
  /** Nodes that were asked to look up, by peer id. */
  readonly lookups: Map<string, Asker>
  /** In the order in which they asked. */
  waiting: Asker[]
  /** Nodes that could not ask the origin, and nodes that it refused. */
  readonly outages: Set<string>
  readonly refusals: Set<string>
}

export interface TagTableOptions {
  /** How long an answer is passed on, in milliseconds. */
  ttlMs: number
}

/** What is known of tags, and who is looking up what. */
export class TagTable {
  readonly #ttlMs: number
  readonly #voices = new TagVoices()
  readonly #rounds = new Map<string, Round>()
  /** Who was asked to look up what, and when. What nobody asked for is not believed. */
  readonly #asked = new LRUCache<string, number>({ ...entryLimit(ASKED) })

  constructor(options: TagTableOptions) {
    this.#ttlMs = options.ttlMs
  }

  get size(): number {
    return this.#voices.size
  }

  ask(channel: ControlChannel, message: TagAsk, nowMs: number): void {
    const { reference, requestId } = message
    const asker = { channel, requestId, sinceMs: nowMs }
    // A node's own word needs nobody else's: it is told to itself only.
    for (const word of [this.#voices.confirmed(reference), this.#voices.of(reference, channel.peerId)]) {
      if (word === undefined || nowMs - word.atMs > this.#ttlMs) continue
      answer(asker, reference, word)
      return
    }
    let round = this.#rounds.get(reference)
    if (round === undefined) {
      round = { lookups: new Map(), waiting: [], outages: new Set(), refusals: new Set() }
      this.#rounds.set(reference, round)
    }
    round.waiting.push(asker)
    this.#goOn(reference, round, nowMs)
  }

  result(channel: ControlChannel, message: TagResult, nowMs: number): void {
    const { reference, requestId, digest, mediaType, sizeBytes, errorCode } = message
    const { peerId } = channel
    if (nowMs - (this.#asked.get(askedKey(channel, reference)) ?? -Infinity) > RESULT_TIMEOUT_MS) return
    if (digest !== '') {
      const word = { digest, mediaType, sizeBytes, atMs: nowMs }
      // Asked for by its digest, it is to be known as well: while the origin is down, that is all that a pull may have.
      for (const each of new Set([reference, byDigest(reference, digest)])) this.#said(each, peerId, word, nowMs)
      return
    }
    const isOutage = OUTAGES.has(errorCode)
    // Whoever asked the origin in vain gets what it said last, too.
    if (isOutage) this.#answerStale({ channel, requestId, sinceMs: nowMs }, reference, errorCode)
    // A failure counts only for the lookup it belongs to: an old one must not end a new one.
    const round = this.#rounds.get(reference)
    const lookup = round?.lookups.get(peerId)
    if (round === undefined || lookup?.channel !== channel || lookup.requestId !== requestId) return
    round.lookups.delete(peerId)
    if (isOutage) round.outages.add(peerId)
    if (ANSWERS.has(errorCode)) round.refusals.add(peerId)
    if (round.outages.size >= VOICES_NEEDED) {
      this.#rounds.delete(reference)
      for (const asker of round.waiting) this.#answerStale(asker, reference, errorCode)
    } else if (round.refusals.size >= VOICES_NEEDED) {
      this.#rounds.delete(reference)
      // Not found or not allowed may depend on who asks: the others ask for themselves.
      for (const asker of round.waiting) this.#sendLookup(asker, reference, nowMs)
    } else this.#goOn(reference, round, nowMs)
  }

  /** Asks others where nodes are gone or slow, and keeps nobody waiting beyond the limit. */
  expire(nowMs: number): void {
    for (const [reference, round] of this.#rounds) {
      for (const [peerId, { channel }] of round.lookups) if (!channel.isOpen) round.lookups.delete(peerId)
      const patient = round.waiting.findIndex(({ sinceMs }) => nowMs - sinceMs <= WAIT_LIMIT_MS)
      const over = round.waiting.splice(0, patient < 0 ? round.waiting.length : patient)
      for (const asker of over) this.#sendLookup(asker, reference, nowMs)
      this.#goOn(reference, round, nowMs)
    }
  }

  /** A node has said what a reference is; with another one that said the same, all who wait are told. */
  #said(reference: string, peerId: string, word: TagWord, nowMs: number): void {
    const confirmed = this.#voices.say(reference, peerId, word)
    const round = this.#rounds.get(reference)
    if (round === undefined) return
    round.lookups.delete(peerId)
    if (confirmed !== undefined && nowMs - confirmed.atMs <= this.#momentMs) {
      this.#rounds.delete(reference)
      for (const asker of round.waiting) answer(asker, reference, confirmed)
      return
    }
    const isItsOwn = ({ channel }: Asker) => channel.peerId === peerId
    for (const asker of round.waiting.filter(isItsOwn)) answer(asker, reference, word)
    round.waiting = round.waiting.filter((asker) => !isItsOwn(asker))
    this.#goOn(reference, round, nowMs)
  }

  /** Has as many look up as it takes to know, and ends the round when nobody waits and nobody is asked. */
  #goOn(reference: string, round: Round, nowMs: number): void {
    const { lookups, waiting } = round
    const isSlow = ({ sinceMs }: Asker) => nowMs - sinceMs > LOOKUP_TIMEOUT_MS
    if (waiting.length === 0) {
      if ([...lookups.values()].every(isSlow)) this.#rounds.delete(reference)
      return
    }
    const heardOne =
      round.outages.size > 0 ||
      round.refusals.size > 0 ||
      this.#voices.hasVoice(reference, nowMs - this.#momentMs, lookups)
    let wanted = VOICES_NEEDED - (heardOne ? 1 : 0)
    for (const lookup of lookups.values()) if (!isSlow(lookup)) wanted--
    while (wanted > 0) {
      const at = waiting.findIndex(({ channel }) => !lookups.has(channel.peerId))
      if (at < 0) return
      const [asker] = waiting.splice(at, 1)
      if (asker?.channel.isOpen !== true) continue
      lookups.set(asker.channel.peerId, { ...asker, sinceMs: nowMs })
      this.#sendLookup(asker, reference, nowMs)
      wanted--
    }
  }

  /** Voices that are no further apart than that may confirm each other for those that wait. */
  get #momentMs(): number {
    return Math.max(this.#ttlMs, SAME_MOMENT_MS)
  }

  #sendLookup({ channel, requestId }: Asker, reference: string, nowMs: number): void {
    this.#asked.set(askedKey(channel, reference), nowMs)
    channel.send({ type: 'tag-lookup', requestId, reference })
  }

  #answerStale(asker: Asker, reference: string, errorCode: string): void {
    answer(asker, reference, this.#voices.lastWord(reference, asker.channel.peerId), errorCode)
  }
}

function askedKey(channel: ControlChannel, reference: string): string {
  return `${channel.peerId} ${reference}`
}

/** `registry/repository:tag` → `registry/repository@digest`, as agents name what is asked for by digest. */
function byDigest(reference: string, digest: string): string {
  return reference.includes('@') ? reference : `${reference.slice(0, reference.lastIndexOf(':'))}@${digest}`
}

/** @param errorCode why the origin could not be asked: then the answer is stale */
function answer({ channel, requestId }: Asker, reference: string, word: TagWord | undefined, errorCode = ''): void {
  channel.send({
    type: 'tag-answer',
    requestId,
    reference,
    digest: word?.digest ?? '',
    mediaType: word?.mediaType ?? '',
    sizeBytes: word?.sizeBytes ?? 0,
    stale: errorCode !== '',
    errorCode,
  })
}
