// Who may read what: content that its origin serves to everyone is for every client; what needed credentials is for those
// whose own credentials the origin has accepted for that repository. Where bytes lie (store, peers) opens nothing.
// The rules and the other ways that were considered: docs/decisions/0009-who-may-read.md.
import { createHmac, randomBytes } from 'node:crypto'
import { entryLimit, blobsOf, childrenOf, isForeignLayer, parseRegistry, type Digest, type Manifest } from '@shoal/oci'
import { UpstreamError, type RepositoryTarget } from '@shoal/upstream'
import { LRUCache } from 'lru-cache'
import { imageKey } from './names.ts'
import type { Requester } from './origin-sources.ts'
import type { ResolvedTag, TagResolver } from './tag-resolver.ts'

/** Digests remembered as belonging to a repository. */
const REMEMBERED_MEMBERS = 20_000
/** Repositories remembered as open to everyone, and credentials as accepted for one. */
const REMEMBERED_READERS = 10_000
/** While the origin does not answer, it is asked about one repository again after so long, in milliseconds. */
const OUTAGE_RECHECK_MS = 30_000

/** Said of one manifest or blob that is not there. */
const UNKNOWN_CONTENT = new Set(['MANIFEST_UNKNOWN', 'MANIFEST_BLOB_UNKNOWN', 'BLOB_UNKNOWN'])

export interface AccessOptions {
  tags: TagResolver
  /** Settings of registries, by host. */
  registries: Readonly<Record<string, { access?: 'client' | 'node'; pushAs?: 'client' | 'node' }>>
  /** How long an answer of the origin holds, in milliseconds. */
  ttlMs: number
  /** How long accepted credentials hold while the origin does not answer, in milliseconds. */
  outageTtlMs: number
  /** Limit for one question to the origin, in milliseconds. */
  timeoutMs: number
  /** Told how large a blob is, where that was asked for. */
  sized?: (digest: Digest, sizeBytes: number) => void
  /** Milliseconds of a clock that is never set. @default performance.now */
  now?: () => number
}

/** A reader was let in. */
export interface Admission {
  resolved: ResolvedTag
  /** In whose name the content is fetched. */
  fetcher: Requester
}

/** When the origin was asked, and since when it says yes. */
interface Standing {
  /** The origin itself said yes at this time. */
  confirmedMs: number
  /** No question is due before this time. */
  validUntilMs: number
}

/** What this node knows of who may read which repository. */
export class Access {
  readonly #options: AccessOptions
  readonly #openToNode: Set<string>
  readonly #pushedByNode: Set<string>
  readonly #now: () => number
  /** Credentials are remembered as a hash under a key that nobody else has and that ends with the process. */
  readonly #secret = randomBytes(32)
  /** With the media type that the origin has said of it; empty where that is not known. */
  readonly #members = new LRUCache<string, string>({ ...entryLimit(REMEMBERED_MEMBERS) })
  /** By repository for everyone, by keyed hash of repository and credentials for a client. */
  readonly #readers = new LRUCache<string, Standing>({ ...entryLimit(REMEMBERED_READERS) })
  /** Repositories that the origin refused to everyone lately. */
  readonly #closed: LRUCache<string, true>
  /** The same until it lets everyone in again: an outage must not open what was closed before it. */
  readonly #refused = new LRUCache<string, true>({ ...entryLimit(REMEMBERED_READERS) })
  readonly #checking = new Map<string, Promise<Requester>>()

  constructor(options: AccessOptions) {
    this.#options = options
    this.#now = options.now ?? (() => performance.now())
    this.#closed = new LRUCache({ ...entryLimit(REMEMBERED_READERS), ttl: Math.max(1, options.ttlMs) })
    const entries = Object.entries(options.registries)
    const namesOf = (chosen: typeof entries) => new Set(chosen.map(([registry]) => parseRegistry(registry)))
    this.#openToNode = namesOf(entries.filter(([, { access }]) => access === 'node'))
    this.#pushedByNode = namesOf(entries.filter(([, { pushAs }]) => pushAs === 'node'))
  }

  /** In whose name a client's questions are asked: this node's, its own, or everyone's. */
  readerOf({ registry }: RepositoryTarget, authorization: string | undefined, requestId: string): Requester {
    if (this.#openToNode.has(registry)) return { requestId }
    return authorization === undefined ? { requestId, anonymous: true } : { requestId, authorization }
  }

  /** In whose name a client's pushes are passed on. That everyone may read in this node's name opens no push. */
  pusherOf({ registry }: RepositoryTarget, authorization: string | undefined, requestId: string): Requester {
    if (this.#pushedByNode.has(registry)) return { requestId }
    return authorization === undefined ? { requestId, anonymous: true } : { requestId, authorization }
  }

  /**
   * What a tag is, for this reader, and in whose name the content behind it is to be fetched.
   * @throws UpstreamError also when the origin does not answer and never let this reader in
   */
  async resolve(target: RepositoryTarget, tag: string, reader: Requester, signal: AbortSignal): Promise<Admission> {
    const admission = await this.#askInTurn(target, tag, 'manifest', reader, signal)
    const { digest, mediaType } = admission.resolved
    this.#members.set(memberKey(target, digest, 'manifest'), mediaType)
    return admission
  }

  /**
   * Lets a reader have content by digest, or not; returns in whose name it is to be fetched. The digest must belong to
   * the repository as what it is asked for, and the repository be open to the reader.
   * @throws UpstreamError what the origin says to the reader
   */
  async admit(
    target: RepositoryTarget,
    digest: Digest,
    kind: 'manifest' | 'blob',
    reader: Requester,
  ): Promise<Requester> {
    const { requestId = '' } = reader
    const member = this.#members.has(memberKey(target, digest, kind))
    // What this node may read at one registry is not what it may read at another.
    if (isNode(reader) && member) return reader
    // Public content is for clients with credentials too, whatever these are.
    if (member && this.#isValid(repositoryKey(target))) return fetcherOf({ requestId, anonymous: true })
    if (!(member && this.#isValid(this.#keyOf(target, reader)))) {
      return await this.#check(target, digest, kind, reader, member)
    }
    return fetcherOf(reader)
  }

  /**
   * Notes that a manifest of the repository names others: registries take a manifest only when the repository has what
   * it names. Layers that are fetched elsewhere (foreign ones, or with URLs) are not looked at by registries, and not
   * noted here.
   */
  named(target: RepositoryTarget, digest: Digest, manifest: Manifest | undefined): void {
    // What is not understood names nothing: each of its parts will be asked for at the origin.
    if (manifest === undefined) return
    // A registry that took the bytes for something else has not looked for what they name here.
    const said = this.#members.get(memberKey(target, digest, 'manifest')) ?? ''
    if (said !== '' && said !== manifest.mediaType) return
    for (const child of childrenOf(manifest)) this.#note(memberKey(target, child.digest, 'manifest'))
    const blobs = blobsOf(manifest).filter((layer) => !isForeignLayer(layer) && layer.urls === undefined)
    for (const blob of blobs) this.#note(memberKey(target, blob.digest, 'blob'))
  }

  #note(member: string): void {
    this.#members.set(member, this.#members.get(member) ?? '')
  }

  /** Coalesced by repository and reader where only the reader is in question, else by digest. */
  async #check(
    target: RepositoryTarget,
    digest: Digest,
    kind: 'manifest' | 'blob',
    reader: Requester,
    member: boolean,
  ): Promise<Requester> {
    const key = `${this.#keyOf(target, reader)} ${member ? '' : `${kind} ${digest}`}`
    const running = this.#checking.get(key)
    // What was asked about may be gone, and this be there: a refusal counts only for its own digest.
    const answered = await running?.catch(() => undefined)
    if (answered !== undefined) return answered
    const checking = this.#askAbout(target, digest, kind, reader, member)
    this.#checking.set(key, checking)
    try {
      return await checking
    } finally {
      if (this.#checking.get(key) === checking) this.#checking.delete(key)
    }
  }

  async #askAbout(
    target: RepositoryTarget,
    digest: Digest,
    kind: 'manifest' | 'blob',
    reader: Requester,
    member: boolean,
  ): Promise<Requester> {
    let fetcher = fetcherOf(reader)
    const key = memberKey(target, digest, kind)
    try {
      // Others wait for it, too: it does not end with the client that came first.
      const signal = AbortSignal.timeout(this.#options.timeoutMs)
      const admission = await this.#askInTurn(target, digest, kind, reader, signal)
      fetcher = admission.fetcher
      this.#members.set(key, admission.resolved.mediaType)
      if (kind === 'blob') this.#options.sized?.(digest, admission.resolved.sizeBytes)
    } catch (error) {
      const isOutage = error instanceof UpstreamError && error.isOutage
      if (!(isOutage && member && this.#mayGoOn(target, reader))) throw error
      this.#postpone(this.#keyOf(target, reader))
    }
    this.#note(key)
    return fetcher
  }

  /**
   * A client with credentials may read what everyone may, though the origin takes its credentials no more or cannot be
   * asked about them. What may be public is asked as such, so that the cluster asks once.
   */
  async #askInTurn(
    target: RepositoryTarget,
    reference: string,
    kind: 'manifest' | 'blob',
    reader: Requester,
    signal: AbortSignal,
  ): Promise<Admission> {
    let failure: unknown
    let stale: Admission | undefined
    for (const asking of this.#orderOf(target, reader)) {
      try {
        const resolved = await this.#ask(target, reference, kind, asking, signal)
        const admission = { resolved, fetcher: fetcherOf(asking) }
        // What everyone may ask at the origin may be used up, and not what this client may.
        if (resolved.isAnswered !== true) return admission
        stale ??= admission
      } catch (error) {
        if (!(error instanceof UpstreamError)) throw error
        if (asking === reader) failure = error
      }
    }
    if (stale !== undefined) return stale
    throw failure
  }

  /**
   * What the origin lists of a repository, which is not kept: asked for in the same order.
   * @throws UpstreamError what the origin says to the reader
   */
  async list<T>(target: RepositoryTarget, reader: Requester, ask: (asking: Requester) => Promise<T>): Promise<T> {
    let failure: unknown
    for (const asking of this.#orderOf(target, reader)) {
      try {
        return await ask(asking)
      } catch (error) {
        if (!(error instanceof UpstreamError)) throw error
        if (asking === reader) failure = error
      }
    }
    throw failure
  }

  /** In whose names a question of a reader is asked, one after the other. */
  #orderOf(target: RepositoryTarget, reader: Requester): Requester[] {
    const { requestId = '', authorization } = reader
    if (authorization === undefined) return [reader]
    const everyone: Requester = { requestId, anonymous: true }
    return this.#closed.has(repositoryKey(target)) ? [reader, everyone] : [everyone, reader]
  }

  async #ask(
    target: RepositoryTarget,
    reference: string,
    kind: 'manifest' | 'blob',
    reader: Requester,
    signal: AbortSignal,
  ): Promise<ResolvedTag> {
    const key = this.#keyOf(target, reader)
    const wasRefused = reader.anonymous === true && this.#refused.has(key)
    const fallback = !wasRefused && (reader.authorization === undefined || this.#mayGoOn(target, reader))
    try {
      const resolved = await this.#options.tags.resolve(target, reference, reader, signal, { kind, fallback })
      if (isNode(reader)) return resolved
      if (resolved.stale) this.#postpone(key)
      else {
        this.#confirm(key)
        if (reader.anonymous === true) this.#refused.delete(key)
      }
      return resolved
    } catch (error) {
      if (!(error instanceof UpstreamError)) throw error
      const { code, challenge } = error
      if (code === 'UNAUTHORIZED' || code === 'DENIED' || isHidden(error)) {
        this.#readers.delete(key)
        if (reader.anonymous === true) {
          this.#closed.set(key, true)
          this.#refused.set(key, true)
        }
      }
      if (code === 'DENIED' && reader.anonymous === true && challenge !== undefined) {
        // The token service has nothing for who does not say who it is: a client that can say so is to be asked.
        throw new UpstreamError('UNAUTHORIZED', target.registry, error.message, { challenge, cause: error })
      }
      throw error
    }
  }

  #isValid(key: string): boolean {
    return this.#now() < (this.#readers.get(key)?.validUntilMs ?? -Infinity)
  }

  #confirm(key: string): void {
    const confirmedMs = this.#now()
    this.#readers.set(key, { confirmedMs, validUntilMs: confirmedMs + this.#options.ttlMs })
  }

  /** The origin could not be asked: an old answer holds a little longer, and does not get younger. */
  #postpone(key: string): void {
    const confirmedMs = this.#readers.get(key)?.confirmedMs ?? this.#now()
    const recheckMs = Math.min(OUTAGE_RECHECK_MS, this.#options.ttlMs)
    this.#readers.set(key, { confirmedMs, validUntilMs: this.#now() + recheckMs })
  }

  /** Whether a reader that was let in before stays in while the origin does not answer. */
  #mayGoOn(target: RepositoryTarget, reader: Requester): boolean {
    const standing = this.#readers.get(this.#keyOf(target, reader))
    if (standing === undefined) return false
    return reader.anonymous === true || this.#now() - standing.confirmedMs < this.#options.outageTtlMs
  }

  #keyOf(target: RepositoryTarget, { authorization }: Requester): string {
    const repository = repositoryKey(target)
    if (authorization === undefined) return repository
    return createHmac('sha256', this.#secret).update(`${repository}\n${authorization}`).digest('base64url')
  }
}

/** In whose name content is fetched that a reader may have: what is for everyone, with this node's own login if that is taken. */
function fetcherOf(reader: Requester): Requester {
  return reader.anonymous === true ? { requestId: reader.requestId ?? '', forEveryone: true } : reader
}

/** Some registries say that they do not have a repository which somebody may not see. */
function isHidden({ code, saidCode }: UpstreamError): boolean {
  return code === 'NOT_FOUND' && saidCode !== undefined && !UNKNOWN_CONTENT.has(saidCode)
}

function isNode({ anonymous, authorization }: Requester): boolean {
  return anonymous !== true && authorization === undefined
}

/**
 * A blob may hold the text of a manifest that names what its repository does not have: registries look into manifests, not into
 * blobs. So what is there as a blob is not there as a manifest.
 */
function memberKey(target: RepositoryTarget, digest: Digest, kind: 'manifest' | 'blob'): string {
  return `${kind} ${imageKey(target, digest)}`
}

function repositoryKey({ registry, repository }: RepositoryTarget): string {
  return `${registry}/${repository}`
}
