// From tag to digest: the origin's word while it answers, asked once for the whole cluster; the last known one, marked
// as stale, while it does not. What the origin tells everyone and what it tells only to a login are kept apart, here and
// in what agents and trackers tell each other (docs/decisions/0009-who-may-read.md).
import { entryLimit, isDigest, type Digest } from '@shoal/oci'
import type { StoreRecords } from '@shoal/store'
import { mostNamed, type Swarm, type TagFound, type TagMemory } from '@shoal/swarm'
import { UpstreamError, type RepositoryTarget, type Upstream } from '@shoal/upstream'
import type { Logger } from 'pino'
import { LRUCache } from 'lru-cache'
import { imageKey } from './names.ts'
import type { Requester } from './origin-sources.ts'

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
/** An origin that did not answer is not asked again for so long where the last digest of the tag is known. */
const OUTAGE_MEMORY_MS = 5000

/** Begins the key of what the origin does not tell to everyone. */
const NOT_FOR_EVERYONE = 'login '
/** Begins the key of what is there as a blob: registries do not look into blobs, so it is no manifest by that. */
const AS_BLOB = 'blob '

/** What the store remembers of a tag. */
export interface TagRecord {
  digest: Digest
  mediaType: string
  sizeBytes: number
  /** When the origin said so, milliseconds since the epoch. */
  seenMs: number
}

export interface ResolvedTag extends TagFound {
  /** The origin did not answer: this is what it said last, as far as anyone knows. */
  stale: boolean
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
  records: StoreRecords<TagRecord>
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

  /** A tag was pushed through this node: what it was before is not to be told any more. */
  changed(target: RepositoryTarget, tag: string): void {
    const everyones = imageKey(target, tag)
    this.#cache.delete(everyones)
    this.#cache.delete(NOT_FOR_EVERYONE + everyones)
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
    if (fallback && this.#outages.has(target.registry)) {
      const last = await this.#lastKnown(question)
      if (last !== undefined) return { ...last, stale: true }
    }
    let failure: unknown
    try {
      // With credentials of the client's own the answer is not for everyone: then the origin is asked directly.
      const outcome = forAll ? await swarm.trackers.askTag(key, lookup, trackerTimeoutMs) : undefined
      const isOther = outcome?.kind === 'told' && !isOfKind(question, outcome.found)
      if (outcome === undefined || isOther) return await this.#remember(key, await lookup(), forAll)
      if (outcome.kind === 'own') return await this.#remember(key, outcome.found, forAll)
      if (outcome.kind === 'told' && !outcome.stale) return await this.#remember(key, outcome.found, forAll)
      if (outcome.kind === 'told') return { ...outcome.found, stale: true }
      failure = new UpstreamError(
        'UNREACHABLE',
        target.registry,
        `${target.registry} does not answer (${outcome.errorCode})`,
      )
    } catch (error) {
      failure = error
    }
    // The end of the time for an answer is no answer of the origin, but what is known is better than nothing then. A client
    // that goes away says nothing about the origin.
    const outage = failure instanceof UpstreamError ? failure.isOutage : isTimeout(signal)
    if (!outage) {
      if (isRefusal(failure)) await this.#forget(question)
      throw failure
    }
    this.#outages.set(target.registry, true)
    const last = fallback ? await this.#lastKnown(question) : undefined
    if (last === undefined) throw failure
    this.#options.logger.warn(
      { err: failure, reference: key, digest: last.digest },
      'tag could not be checked: last known digest is used',
    )
    return { ...last, stale: true }
  }

  /** Leaves time for the answer that is known already, should the origin hang. */
  async #askOrigin(question: Question, signal: AbortSignal): Promise<TagFound> {
    const { target, reference, requester, kind } = question
    const limitMs = Math.min(ORIGIN_LIMIT_MS, this.#options.manifestTimeoutMs * ORIGIN_PART)
    const limit = AbortSignal.timeout(limitMs)
    const options = { ...requester, signal: AbortSignal.any([signal, limit]) }
    const { upstream } = this.#options
    try {
      if (kind !== 'blob' || !isDigest(reference)) return await upstream.headManifest(target, reference, options)
      const { sizeBytes } = await upstream.headBlob(target, reference, options)
      return { digest: reference, mediaType: '', sizeBytes }
    } catch (error) {
      if (!limit.aborted || signal.aborted) throw error
      const message = `${target.registry} did not say within ${Math.round(limitMs)} ms what ${reference} is`
      throw new UpstreamError('TIMEOUT', target.registry, message, { cause: error })
    }
  }

  /** @param forAll whether others may be given this answer without asking: not when it was given to credentials */
  async #remember(key: string, found: TagFound, forAll: boolean): Promise<ResolvedTag> {
    const { digest, mediaType, sizeBytes } = found
    const resolved = { digest, mediaType, sizeBytes, stale: false }
    if (forAll) this.#cache.set(key, resolved)
    const record = { digest, mediaType, sizeBytes, seenMs: Date.now() }
    // Asked for by its digest, it is to be known as well.
    await Promise.all(
      [...new Set([key, this.#keyOfDigest(key, digest)])].map((at) => this.#options.records.put(at, record)),
    ).catch((error: unknown) => {
      // A full disk must not stop a pull.
      this.#options.logger.warn({ err: error, reference: key }, 'a tag could not be remembered')
    })
    return resolved
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

  /** The origin refuses it to everyone: an outage later on must not bring it back. */
  async #forget({ key, requester }: Question): Promise<void> {
    if (requester.anonymous !== true) return
    const { records, logger } = this.#options
    try {
      const record = await records.get(key)
      if (record === undefined) return
      await Promise.all([...new Set([key, this.#keyOfDigest(key, record.digest)])].map((at) => records.delete(at)))
    } catch (error) {
      logger.warn({ err: error, reference: key }, 'a tag could not be forgotten')
    }
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

function isTimeout({ aborted, reason }: AbortSignal): boolean {
  return aborted && reason instanceof DOMException && reason.name === 'TimeoutError'
}

function isRefusal(error: unknown): boolean {
  return error instanceof UpstreamError && ['UNAUTHORIZED', 'DENIED', 'NOT_FOUND'].includes(error.code)
}
