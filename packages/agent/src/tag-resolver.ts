// From tag to digest: the origin's word while it answers, asked once for the whole cluster; the last known one, marked
// as stale, while it does not. What the origin tells everyone and what it tells only to a login are kept apart, here and
// in what agents and trackers tell each other (docs/decisions/0009-who-may-read.md).
import { createHash } from 'node:crypto'
import { entryLimit, isDigest, type Digest } from '@shoal/oci'
import { mostNamed, type Swarm, type TagFound, type TagMemory } from '@shoal/swarm'
import { UpstreamError, type RepositoryTarget, type Upstream } from '@shoal/upstream'
import type { Logger } from 'pino'
import { LRUCache } from 'lru-cache'
import { imageKey } from './names.ts'
import type { Requester } from './origin-sources.ts'
import type { TagRecords } from './tag-records.ts'

/** Tags whose last digest is remembered in memory for `tagCacheTtl`. */
const CACHED_TAGS = 4_000
/** How the time for a manifest is shared out, at most in milliseconds and as a part of it: the tracker's answer, … */
const TRACKER_LIMIT_MS = 2000
const TRACKER_PART = 0.25
/** … the origin's, … */
const ORIGIN_LIMIT_MS = 4000
const ORIGIN_PART = 0.35
/** … and what other agents know. The rest is for the manifest itself. */
const AGENTS_LIMIT_MS = 1000
const AGENTS_PART = 0.1
/** The origin's, where nobody knows what the tag was: then there is nothing to leave time for. */
const ORIGIN_ALONE_PART = 0.6
/** An origin that did not answer is not asked again for so long where the last digest of the tag is known. */
const OUTAGE_MEMORY_MS = 5000

/** Begins the key of what the origin does not tell to everyone. */
const NOT_FOR_EVERYONE = 'login '
/** Begins the key of what is there as a blob: registries do not look into blobs, so it is no manifest by that. */
const AS_BLOB = 'blob '

export interface ResolvedTag extends TagFound {
  /** The origin did not answer: this is what it said last, as far as anyone knows. */
  stale: boolean
  /** Though stale: the origin did answer, with trouble of its own (429, 5xx). Another reader may be told more. */
  isAnswered?: true
}

/** How a question is meant. */
export interface ResolveOptions {
  /** What the digest is of, when it is a digest whose place is asked for. @default manifest */
  kind?: 'manifest' | 'blob'
  /** Whether what was known before may be used while the origin does not answer. @default true */
  fallback?: boolean
}

export interface TagResolverOptions {
  upstream: Upstream
  swarm: Swarm
  records: TagRecords
  /** How long an answer is used again without asking, in milliseconds. */
  ttlMs: number
  /** Time within which a manifest has to be answered, the resolving of its tag included. */
  manifestTimeoutMs: number
  logger: Logger
}

/** Resolves tags for one agent. */
export class TagResolver {
  readonly #options: TagResolverOptions
  readonly #cache: LRUCache<string, ResolvedTag>
  readonly #running = new Map<string, Promise<ResolvedTag>>()
  /** Registries that did not answer lately. */
  readonly #outages = new LRUCache<string, true>({ ...entryLimit(1000), ttl: OUTAGE_MEMORY_MS })
  /**
   * Questions that the origin answered with trouble lately (429, 5xx): these may be about one repository, or one client, so
   * no other question is taken for hopeless.
   */
  readonly #troubles = new LRUCache<string, true>({ ...entryLimit(1000), ttl: OUTAGE_MEMORY_MS })

  constructor(options: TagResolverOptions) {
    this.#options = options
    this.#cache = new LRUCache({ ...entryLimit(CACHED_TAGS), ttl: Math.max(1, options.ttlMs) })
  }

  /**
   * What a tag is, or a digest at a repository: that it is there, and how large. `requester` is everyone (anonymous), a
   * client by its credentials, or else this node.
   * @throws UpstreamError what the origin said (401, 403, 404 are passed on), or that it could not be asked and nobody
   *   knows the tag
   */
  async resolve(
    target: RepositoryTarget,
    tag: string,
    requester: Requester,
    signal: AbortSignal,
    options: ResolveOptions = {},
  ): Promise<ResolvedTag> {
    const everyones = (options.kind === 'blob' && isDigest(tag) ? AS_BLOB : '') + imageKey(target, tag)
    const key = requester.anonymous === true ? everyones : NOT_FOR_EVERYONE + everyones
    const question = { target, reference: tag, key, everyones, requester, ...options }
    // Whoever brings credentials of its own gets the origin's answer to these, not one that others were given.
    if (requester.authorization !== undefined) return await this.#ask(question, signal)
    const cached = this.#cache.get(key)
    if (cached !== undefined) return cached
    // Who may not be given what was known before does not join those who may.
    const running = `${options.fallback === false ? 'anew ' : ''}${key}`
    const sooner = this.#running.get(running)
    if (sooner !== undefined) return await sooner
    // Many wait for this one answer: it must not end with the patience of the first.
    const asking = this.#ask(question, AbortSignal.timeout(this.#options.manifestTimeoutMs))
    this.#running.set(running, asking)
    try {
      return await asking
    } finally {
      this.#running.delete(running)
    }
  }

  /** A tag was pushed through this node: what it was before is not to be told any more, in an outage neither. */
  async changed(target: RepositoryTarget, tag: string, pushed: TagFound): Promise<void> {
    const everyones = imageKey(target, tag)
    const keys = [everyones, NOT_FOR_EVERYONE + everyones]
    for (const key of keys) this.#cache.delete(key)
    // The push does not say whether everyone may read it: whoever could may still.
    const before = await this.#options.records.get(everyones).catch(() => undefined)
    for (const key of before === undefined ? keys.slice(1) : keys) await this.#record(key, pushed)
  }

  /** What this node knows of a tag without asking. */
  async known(key: string): Promise<(TagFound & { ageMs: number }) | undefined> {
    const record = await this.#options.records.get(key)
    if (record === undefined) return undefined
    const { digest, mediaType, sizeBytes, seenMs } = record
    return { digest, mediaType, sizeBytes, ageMs: Math.max(0, Date.now() - seenMs) }
  }

  async #ask(question: Question, signal: AbortSignal): Promise<ResolvedTag> {
    const { target, key, requester, fallback = true } = question
    const { swarm, manifestTimeoutMs } = this.#options
    const forAll = requester.authorization === undefined
    const lookup = () => this.#askOrigin(question, signal)
    const trackerTimeoutMs = Math.min(TRACKER_LIMIT_MS, manifestTimeoutMs * TRACKER_PART)
    const isTrouble = this.#troubles.has(troubleKey(question))
    if (fallback && (isTrouble || this.#outages.has(target.registry))) {
      const last = await this.#lastKnown(question)
      if (last !== undefined) return staleAnswer(last, isTrouble)
    }
    let failure: unknown
    try {
      // With credentials of the client's own the answer is not for everyone: then the origin is asked directly.
      const outcome = forAll ? await swarm.trackers.askTag(key, lookup, trackerTimeoutMs) : undefined
      const isOther = outcome?.kind === 'told' && !isOfKind(question, outcome.found)
      if (outcome === undefined || isOther) return await this.#remember(question, await lookup())
      if (outcome.kind === 'own') return await this.#remember(question, outcome.found)
      if (outcome.kind === 'told' && !outcome.stale) return await this.#remember(question, outcome.found)
      // Whom the origin did not answer, and how, is not told along with it.
      if (outcome.kind === 'told') return staleAnswer(outcome.found, true)
      const code =
        outcome.errorCode === 'RATE_LIMITED' || outcome.errorCode === 'SERVER_ERROR' ? outcome.errorCode : 'UNREACHABLE'
      failure = new UpstreamError(code, target.registry, `${target.registry} does not answer (${outcome.errorCode})`)
    } catch (error) {
      failure = error
    }
    // The end of the time for an answer is no answer of the origin, but what is known is better than nothing then. A client
    // that goes away says nothing about the origin.
    const outage = failure instanceof UpstreamError ? failure.isOutage : isTimeout(signal)
    if (!outage) {
      throw isRefusal(failure) ? await this.#forget(question, failure, signal) : failure
    }
    const isAnswered = failure instanceof UpstreamError && ['RATE_LIMITED', 'SERVER_ERROR'].includes(failure.code)
    if (isAnswered) this.#troubles.set(troubleKey(question), true)
    else this.#outages.set(target.registry, true)
    const last = fallback ? await this.#lastKnown(question) : undefined
    if (last === undefined) throw failure
    this.#options.logger.warn(
      { err: failure, reference: key, digest: last.digest },
      'tag could not be checked: last known digest is used',
    )
    return staleAnswer(last, isAnswered)
  }

  async #askOrigin(question: Question, signal: AbortSignal): Promise<TagFound> {
    const { target, reference, requester, kind } = question
    const { upstream, manifestTimeoutMs } = this.#options
    const beganMs = performance.now()
    const patience = this.#patience(question)
    const limit = AbortSignal.any([patience.signal, AbortSignal.timeout(manifestTimeoutMs * ORIGIN_ALONE_PART)])
    const options = { ...requester, signal: AbortSignal.any([signal, limit]) }
    try {
      if (kind !== 'blob' || !isDigest(reference)) return await upstream.headManifest(target, reference, options)
      const { sizeBytes } = await upstream.headBlob(target, reference, options)
      return { digest: reference, mediaType: '', sizeBytes }
    } catch (error) {
      if (error instanceof UpstreamError || !limit.aborted || signal.aborted) throw error
      const waited = `within ${Math.round(performance.now() - beganMs)} ms`
      const message = `${target.registry} did not say ${waited} what ${reference} is`
      throw new UpstreamError('TIMEOUT', target.registry, message, { cause: error })
    } finally {
      patience.end()
    }
  }

  /** Leaves time for the answer that is known already, should the origin hang: where there is one. */
  #patience(question: Question): { signal: AbortSignal; end: () => void } {
    const over = new AbortController()
    const endIfKnown = async () => {
      if ((await this.#lastKnown(question)) !== undefined) over.abort(new DOMException('over', 'TimeoutError'))
    }
    const { fallback = true } = question
    const limitMs = Math.min(ORIGIN_LIMIT_MS, this.#options.manifestTimeoutMs * ORIGIN_PART)
    // Whether it is known is found out again afterwards, and then its failure is told.
    const timer = fallback ? setTimeout(() => void endIfKnown().catch(() => undefined), limitMs) : undefined
    return { signal: over.signal, end: () => clearTimeout(timer) }
  }

  async #remember({ key, requester, kind }: Question, found: TagFound): Promise<ResolvedTag> {
    const { digest, mediaType, sizeBytes } = found
    const resolved = { digest, mediaType, sizeBytes, stale: false }
    // Others are not given without asking what was given to credentials.
    const forAll = requester.authorization === undefined
    if (forAll) this.#cache.set(key, resolved)
    // What a client was let into as a blob, it is let into again without it: see `Access`.
    if (forAll || kind !== 'blob') await this.#record(key, resolved)
    return resolved
  }

  async #record(key: string, { digest, mediaType, sizeBytes }: TagFound): Promise<void> {
    const record = { digest, mediaType, sizeBytes, seenMs: Date.now() }
    // Asked for by its digest, it is to be known as well.
    const keys = [...new Set([key, this.#keyOfDigest(key, digest)])]
    await Promise.all(keys.map((at) => this.#options.records.put(at, record))).catch((error: unknown) => {
      // A full disk must not stop a pull.
      this.#options.logger.warn({ err: error, reference: key }, 'a tag could not be remembered')
    })
  }

  #keyOfDigest(key: string, digest: Digest): string {
    return key.includes('@') ? key : `${key.slice(0, key.lastIndexOf(':'))}@${digest}`
  }

  /** What everyone may read, a login may read too; the other way round it may not be. */
  async #lastKnown(question: Question): Promise<TagFound | undefined> {
    const { key, everyones } = question
    const limitMs = Math.min(AGENTS_LIMIT_MS, this.#options.manifestTimeoutMs * AGENTS_PART)
    const answers = await Promise.all(
      [...new Set([key, everyones])].flatMap((asked) => [
        this.#remembered(asked),
        this.#options.swarm.askTag(asked, limitMs),
      ]),
    )
    return mostNamed(answers.flat().filter((answer) => isOfKind(question, answer)))
  }

  /** This node's own memory: one among others, so that it does not stay behind them for ever. */
  async #remembered(key: string): Promise<TagMemory[]> {
    const known = await this.known(key)
    return known === undefined ? [] : [{ ...known, peerId: '' }]
  }

  /** The origin refuses it to everyone: an outage later on must not bring it back. Returns what is to be told of it. */
  async #forget(question: Question, failure: UpstreamError, signal: AbortSignal): Promise<UpstreamError> {
    const { key, requester } = question
    if (requester.anonymous !== true) return failure
    const { records, logger } = this.#options
    try {
      const record = await records.get(key)
      if (record === undefined) return failure
      await Promise.all([...new Set([key, this.#keyOfDigest(key, record.digest)])].map((at) => records.delete(at)))
    } catch (error) {
      logger.warn({ err: error, reference: key }, 'a tag could not be forgotten')
    }
    return await this.#explained(question, failure, signal)
  }

  /** What was there and is not found: a GET tells whether that is so of the whole repository, as a HEAD has no body. */
  async #explained(question: Question, failure: UpstreamError, signal: AbortSignal): Promise<UpstreamError> {
    const { target, reference, requester, kind } = question
    if (failure.code !== 'NOT_FOUND' || failure.saidCode !== undefined || kind === 'blob') return failure
    try {
      await this.#options.upstream.getManifest(target, reference, { ...requester, signal })
    } catch (error) {
      if (isRefusal(error)) return error
    }
    return failure
  }
}

interface Question extends ResolveOptions {
  target: RepositoryTarget
  reference: string
  key: string
  /** The key of what everyone may know about it. */
  everyones: string
  requester: Requester
}

/** Nodes noted blobs as if they were manifests once: only a manifest has a media type. */
function isOfKind({ kind }: Question, { mediaType }: TagFound): boolean {
  return kind === 'blob' || mediaType !== ''
}

function staleAnswer(found: TagFound, isAnswered: boolean): ResolvedTag {
  return { ...found, stale: true, ...(isAnswered ? { isAnswered } : {}) }
}

/** Tells clients apart by a hash, so that no credentials are kept. */
function troubleKey({ key, requester: { authorization } }: Question): string {
  return authorization === undefined ? key : createHash('sha256').update(`${key}\n${authorization}`).digest('base64url')
}

function isTimeout({ aborted, reason }: AbortSignal): boolean {
  return aborted && reason instanceof DOMException && reason.name === 'TimeoutError'
}

function isRefusal(error: unknown): error is UpstreamError {
  return error instanceof UpstreamError && ['UNAUTHORIZED', 'DENIED', 'NOT_FOUND'].includes(error.code)
}
