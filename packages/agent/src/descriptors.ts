// How large content is that is asked for by digest. What a manifest or the origin says is certain; what other nodes say
// may be a lie, so it is remembered who said it, and it is forgotten when the content cannot be got with it. A manifest may
// name a wrong size for a layer of other images: where two differ the origin is asked, and its word stays.
import { setTimeout as delay } from 'node:timers/promises'
import { entryLimit, isDigestOfNothing, type Digest } from '@shoal/oci'
import type { Swarm } from '@shoal/swarm'
import { UpstreamError } from '@shoal/upstream'
import { LRUCache } from 'lru-cache'

/**
 * Descriptors remembered from manifests, so that a blob's size is known when it is asked for. The cache takes its memory
 * at once, so it is no larger than needed: some thousand images.
 */
const KNOWN_DESCRIPTORS = 20_000
/** Digests of which a size turned out wrong, or may have. */
const DOUBTED = 1000
/** How long connected agents have to tell the size of something that was asked for by digest alone. */
const SIZE_QUESTION_MS = 150
/** How long everybody has, the DHT included, while the origin does not answer. */
const SIZE_LIMIT_MS = 2500

export interface Descriptor {
  sizeBytes: number
  /** Empty where nobody has said it. */
  mediaType: string
  /** Only other nodes say so. */
  sizeIsHearsay: boolean
  /** The origin itself has said so, not a manifest. */
  isOrigins: boolean
}

/** What the origin says of a digest. @throws UpstreamError */
export type AskOrigin = () => Promise<{ sizeBytes: number; mediaType: string }>

interface Known extends Descriptor {
  /** The agent that said it; empty where a tracker did, or it is certain. */
  saidBy: string
  /** Manifests name different sizes. */
  isContested: boolean
}

const HEARSAY = { sizeIsHearsay: true, isOrigins: false, isContested: false } as const

/** The descriptors that this node knows. */
export class Descriptors {
  readonly #swarm: Pick<Swarm, 'askSize' | 'blame' | 'connectedAgents'>
  readonly #known = new LRUCache<Digest, Known>({ ...entryLimit(KNOWN_DESCRIPTORS) })
  /** What was said before, for naming who said it once the right size is proven. */
  readonly #doubted = new LRUCache<Digest, Known>({ ...entryLimit(DOUBTED) })

  readonly #limitMs: number

  /** @param limitMs how long an origin may take, and other nodes may, where the word of both would do */
  constructor(swarm: Pick<Swarm, 'askSize' | 'blame' | 'connectedAgents'>, limitMs = SIZE_LIMIT_MS) {
    this.#swarm = swarm
    this.#limitMs = limitMs
  }

  /** Notes what a manifest said of some content, unless the origin has said otherwise. */
  know(digest: Digest, sizeBytes: number, mediaType: string): void {
    if (!isPossible(digest, sizeBytes)) return
    const known = this.#known.get(digest)
    const refuted = this.#doubted.get(digest)
    if (refuted?.sizeIsHearsay === false && refuted.sizeBytes === sizeBytes) return
    const isOther = known?.sizeIsHearsay === false && known.sizeBytes !== sizeBytes
    if (known?.isOrigins === true && isOther) return
    const isContested = known?.isContested === true || isOther
    const isOrigins = known?.isOrigins === true
    this.#known.set(digest, { sizeBytes, mediaType, sizeIsHearsay: false, isOrigins, saidBy: '', isContested })
  }

  /** Another size was named for it: where only manifests have named one, the origin is asked for it. */
  contest(digest: Digest, sizeBytes: number): void {
    const known = this.#known.get(digest)
    if (known === undefined || known.sizeIsHearsay || known.isOrigins || known.sizeBytes === sizeBytes) return
    this.#known.set(digest, { ...known, isContested: true })
  }

  /** Notes what other nodes said, unless it is known better. */
  hear(digest: Digest, sizeBytes: number, mediaType: string): void {
    if (!isPossible(digest, sizeBytes)) return
    if (this.#known.get(digest)?.sizeIsHearsay === false || this.#doubted.has(digest)) return
    this.#known.set(digest, { ...HEARSAY, sizeBytes, mediaType, saidBy: '' })
  }

  /** The content type that belongs to a digest, where somebody has said it. */
  mediaType(digest: Digest): string | undefined {
    return this.#known.get(digest)?.mediaType
  }

  /**
   * The descriptor of a digest: from what is known, else from peers or the origin.
   * @param certain whether other nodes' word is good enough only while the origin cannot be asked
   * @throws UpstreamError when nobody knows it
   */
  async find(digest: Digest, askOrigin: AskOrigin, certain = false): Promise<Descriptor> {
    const known = this.#known.get(digest)
    if (known !== undefined && !known.isContested && !(known.sizeIsHearsay && certain)) return known
    if (certain || known !== undefined || this.#doubted.has(digest))
      return await this.#askOriginFirst(digest, askOrigin, known)
    return await this.#askPeersAndOrigin(digest, askOrigin)
  }

  /**
   * With this descriptor, of which the origin has not said it, the content could not be got. The origin is asked. Returns what
   * it says when that is another size; undefined when there is nothing to try again with.
   */
  async correct(digest: Digest, tried: Descriptor, askOrigin: AskOrigin): Promise<Descriptor | undefined> {
    this.doubt(digest)
    try {
      const said = this.#fromOrigin(digest, await askOrigin())
      return said.sizeBytes === tried.sizeBytes ? undefined : said
    } catch {
      // What the attempt failed with tells more.
      return undefined
    }
  }

  /** Forgets what others said of a digest. The next time the origin is asked before them. */
  doubt(digest: Digest): void {
    const known = this.#known.get(digest)
    if (known?.sizeIsHearsay !== true) return
    this.#known.delete(digest)
    this.#doubted.set(digest, known)
  }

  /** The origin itself has named another size. The next time it is asked, whatever manifests say. */
  refute(digest: Digest, sizeBytes: number): void {
    const known = this.#known.get(digest)
    if (known?.sizeBytes !== sizeBytes) return
    this.#known.delete(digest)
    this.#doubted.set(digest, known)
  }

  /** The content is here with this size, and its digest matches: whoever said another one has lied. */
  prove(digest: Digest, sizeBytes: number): void {
    const doubted = this.#doubted.get(digest)
    this.#doubted.delete(digest)
    if (doubted === undefined || doubted.sizeBytes === sizeBytes || doubted.saidBy === '') return
    this.#swarm.blame(doubted.saidBy, digest, 'wrong_size')
  }

  /** The origin's word, unless it cannot be asked, or takes longer than others may to say what they know. */
  async #askOriginFirst(digest: Digest, askOrigin: AskOrigin, known: Known | undefined): Promise<Descriptor> {
    const asking = askOrigin()
    try {
      const said = await Promise.race([asking, delay(this.#limitMs, undefined, { ref: false })])
      if (said !== undefined) return this.#fromOrigin(digest, said)
    } catch (error) {
      if (!(error instanceof UpstreamError) || !error.isOutage) throw error
    }
    return known ?? (await this.#askPeers(digest)) ?? this.#fromOrigin(digest, await asking)
  }

  /**
   * Peers have a moment to answer before the origin is asked; where the origin cannot be asked, whatever peers say in
   * the end counts.
   */
  async #askPeersAndOrigin(digest: Digest, askOrigin: AskOrigin): Promise<Descriptor> {
    const asking = this.#askPeers(digest)
    const patienceMs = this.#swarm.connectedAgents > 0 ? SIZE_QUESTION_MS : 0
    const early = await Promise.race([asking, delay(patienceMs, undefined)])
    if (early !== undefined) return early
    try {
      const first = await Promise.race([askOrigin(), answered(asking)])
      return 'sizeIsHearsay' in first ? first : this.#fromOrigin(digest, first)
    } catch (error) {
      if (!(error instanceof UpstreamError) || !error.isOutage) throw error
      const late = await asking
      if (late === undefined) throw error
      return late
    }
  }

  #fromOrigin(digest: Digest, { sizeBytes, mediaType }: { sizeBytes: number; mediaType: string }): Descriptor {
    // Of a blob it says no media type.
    const before = this.#known.get(digest)
    const named = mediaType || (before?.mediaType ?? '')
    // Who said otherwise is blamed once the content has shown who is right, however the origin came to be asked.
    if (before?.sizeIsHearsay === true && before.sizeBytes !== sizeBytes) this.#doubted.set(digest, before)
    const said = { sizeBytes, mediaType: named, sizeIsHearsay: false, isOrigins: true, saidBy: '', isContested: false }
    this.#known.set(digest, said)
    return said
  }

  async #askPeers(digest: Digest): Promise<Known | undefined> {
    const answer = await this.#swarm.askSize(digest, this.#limitMs)
    if (answer === undefined || !isPossible(digest, answer.sizeBytes)) return undefined
    const { sizeBytes, mediaType, saidBy } = answer
    const known = { ...HEARSAY, sizeBytes, mediaType, saidBy }
    // The origin, or a manifest, may have said it while peers were asked.
    if (this.#known.get(digest)?.sizeIsHearsay !== false) this.#known.set(digest, known)
    return known
  }
}

/** Nothing has a digest of its own: whatever has another one has bytes, and a blob of 0 bytes is complete at once, unchecked. */
function isPossible(digest: Digest, sizeBytes: number): boolean {
  return sizeBytes > 0 || isDigestOfNothing(digest)
}

/** Only an answer counts: that nobody knows is no reason to stop asking elsewhere. */
function answered<T>(asking: Promise<T | undefined>): Promise<T> {
  return new Promise((resolve, reject) => {
    asking.then((answer) => (answer === undefined ? undefined : resolve(answer)), reject)
  })
}
