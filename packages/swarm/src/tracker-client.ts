// The agent's side of the trackers: keeps a channel to each, spreads digests over them by rendezvous hashing, and moves
// to the next when one is lost. What a tracker knows is soft: after every reconnect the sessions join again.
import { setTimeout as delay } from 'node:timers/promises'
import type { Digest } from '@shoal/oci'
import { HOLDINGS_VERSION, type ControlChannel, type ControlMessage, type ControlPlane } from '@shoal/network'
import type { Holding, LeaseGrant, TrackerPeers } from '@shoal/network'
import type { Logger } from 'pino'
import { rendezvousWeight, textHash } from './policy/index.ts'
import { TagAsker } from './tag-asker.ts'

/** What a download needs of a tracker. */
export interface TrackerSession {
  /** Join message of this moment; sent at the start and after every reconnect. */
  describe(): ControlMessage
  onPeers(message: TrackerPeers): void
  onLease(message: LeaseGrant): void
  /** The tracker in charge has been lost, or is back. Leases it gave are void when it is lost. */
  onTracker(connected: boolean): void
}

export interface TrackerClientOptions {
  control: ControlPlane
  /** `host:port` or multiaddr of each tracker. */
  addresses: readonly string[]
  /** Whole blobs of this node, the most recently used first: trackers are told of them after every connect. */
  holdings: () => Iterable<Holding>
  logger: Logger
}

const DIAL_TIMEOUT_MS = 3000
const RETRY_MIN_MS = 200
const RETRY_MAX_MS = 5000
/** Whole blobs that a tracker is told of, in one message; older ones are found through the DHT. */
const TOLD_HOLDINGS = 1000

interface TrackerLink {
  readonly address: string
  readonly hash: number
  channel: ControlChannel | undefined
}

/** Channels to all trackers that are configured. */
export class TrackerClient {
  readonly #options: TrackerClientOptions
  readonly #links: TrackerLink[]
  readonly #sessions = new Map<Digest, { session: TrackerSession; link: TrackerLink | undefined }>()
  readonly #stop = new AbortController()
  readonly #tags = new TagAsker()
  /** Questions for sizes that are under way. */
  readonly #sizeWaiters = new Map<Digest, Set<(sizeBytes: number | undefined) => void>>()
  #loops: Promise<void>[] = []

  constructor(options: TrackerClientOptions) {
    this.#options = options
    this.#links = options.addresses.map((address) => ({ address, hash: textHash(address), channel: undefined }))
  }

  start(): void {
    this.#loops = this.#links.map((link) => this.#keepConnected(link))
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    for (const { channel } of this.#links) if (channel !== undefined) this.#tags.failAll(channel)
    // The channels first: each loop waits for the end of its own.
    await Promise.allSettled(this.#links.map(async ({ channel }) => await channel?.close()))
    await Promise.allSettled(this.#loops)
  }

  get configured(): boolean {
    return this.#links.length > 0
  }

  /** For the status page. */
  status(): { address: string; connected: boolean; peerId: string | undefined }[] {
    return this.#links.map(({ address, channel }) => ({
      address,
      connected: channel !== undefined,
      peerId: channel?.peerId,
    }))
  }

  isTracker(peerId: string): boolean {
    return this.#links.some((link) => link.channel?.peerId === peerId)
  }

  /** Registers a download. Returns whether a tracker is in charge of it right now. */
  join(digest: Digest, session: TrackerSession): boolean {
    const link = this.#linkFor(digest)
    this.#sessions.set(digest, { session, link })
    link?.channel?.send(session.describe())
    return link !== undefined
  }

  /** Ends a download's part; a blob that is complete stays known to the tracker until the agent leaves it. */
  leave(digest: Digest): void {
    this.#sessions.delete(digest)
  }

  /** Tells the tracker in charge of a blob that this node has it whole. */
  tellHolding(digest: Digest, sizeBytes: number): void {
    this.send(digest, holding(digest, sizeBytes))
  }

  /**
   * Tells all trackers that this node does not have a blob any more: those that were in charge of it before may still count on this
   * node, and will be in charge again.
   */
  tellGone(digest: Digest): void {
    for (const { channel } of this.#links) channel?.send({ type: 'tracker-leave', digest })
  }

  /** Size of a blob in bytes, as far as its tracker knows; undefined when it does not, or the signal fires. */
  async askSize(digest: Digest, signal: AbortSignal): Promise<number | undefined> {
    const link = this.#linkFor(digest)
    if (link?.channel === undefined || signal.aborted) return undefined
    const { promise, resolve } = Promise.withResolvers<number | undefined>()
    const waiting = this.#sizeWaiters.get(digest) ?? new Set()
    waiting.add(resolve)
    this.#sizeWaiters.set(digest, waiting)
    const onAbort = () => resolve(undefined)
    signal.addEventListener('abort', onAbort, { once: true })
    link.channel.send({
      type: 'tracker-join',
      digest,
      sizeBytes: 0,
      originHost: '',
      chunks: new Uint8Array(),
      complete: false,
      leaseCredit: 0,
    })
    try {
      return await promise
    } finally {
      signal.removeEventListener('abort', onAbort)
      waiting.delete(resolve)
      if (waiting.size === 0) this.#sizeWaiters.delete(digest)
    }
  }

  /** Sends a message about a digest to its tracker; false when there is none. */
  send(digest: Digest, message: ControlMessage): boolean {
    const link = this.#sessions.get(digest)?.link ?? this.#linkFor(digest)
    if (link?.channel === undefined) return false
    link.channel.send(message)
    return true
  }

  /**
   * Asks the trackers what a tag is. `lookup` is called when this node is the one that has to ask the origin.
   * Undefined when no tracker answers in time.
   */
  async askTag<T extends TagFound>(
    reference: string,
    lookup: () => Promise<T>,
    timeoutMs: number,
  ): Promise<TagOutcome<T> | undefined> {
    const link = this.#linkFor(reference)
    if (link?.channel === undefined) return undefined
    return await this.#tags.ask(link.channel, reference, lookup, timeoutMs)
  }

  #linkFor(key: string): TrackerLink | undefined {
    let best: TrackerLink | undefined
    let bestWeight = -1
    for (const link of this.#links) {
      if (link.channel === undefined) continue
      const weight = rendezvousWeight(link.hash, textHash(key), 0)
      if (weight > bestWeight) [best, bestWeight] = [link, weight]
    }
    return best
  }

  #wins(link: TrackerLink, other: TrackerLink, key: string): boolean {
    const keyHash = textHash(key)
    return rendezvousWeight(link.hash, keyHash, 0) > rendezvousWeight(other.hash, keyHash, 0)
  }

  #tellHoldings(link: TrackerLink, isItsOwn: (digest: Digest) => boolean): void {
    const { channel } = link
    if (channel === undefined) return
    const told: Holding[] = []
    for (const { digest, sizeBytes } of this.#options.holdings()) {
      if (told.length >= TOLD_HOLDINGS) break
      if (isItsOwn(digest)) told.push({ digest, sizeBytes })
    }
    if (channel.hello.version < HOLDINGS_VERSION)
      for (const { digest, sizeBytes } of told) channel.send(holding(digest, sizeBytes))
    else if (told.length > 0) channel.send({ type: 'tracker-holdings', blobs: told })
  }

  async #keepConnected(link: TrackerLink): Promise<void> {
    const { control, logger } = this.#options
    let retryMs = RETRY_MIN_MS
    while (!this.#stop.signal.aborted) {
      try {
        const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(DIAL_TIMEOUT_MS)])
        const channel = await control.channelTo(link.address, signal)

        link.channel = channel
        retryMs = RETRY_MIN_MS
        logger.info({ tracker: link.address, peer: channel.peerId }, 'connected to tracker')
        this.#assign()
        this.#tellHoldings(link, (digest) => this.#linkFor(digest) === link)
        await channel.closed
        if (!this.#stop.signal.aborted) logger.warn({ tracker: link.address }, 'lost tracker')
      } catch (error) {
        if (!this.#stop.signal.aborted) logger.debug({ tracker: link.address, err: error }, 'tracker not reached')
      }
      const lost = link.channel
      link.channel = undefined
      if (lost !== undefined) {
        this.#tags.failAll(lost)
        this.#assign()
        // What this tracker was in charge of goes to the next in order.
        for (const other of this.#links) {
          const inherits = (digest: Digest) => this.#linkFor(digest) === other && this.#wins(link, other, digest)
          if (other.channel !== undefined) this.#tellHoldings(other, inherits)
        }
      }
      await delay(retryMs * (0.5 + Math.random()), undefined, { signal: this.#stop.signal }).catch(() => undefined)
      retryMs = Math.min(RETRY_MAX_MS, retryMs * 2)
    }
  }

  /** After a change in the set of trackers: each session goes to the tracker that is in charge of it now. */
  #assign(): void {
    for (const [digest, entry] of this.#sessions) {
      const link = this.#linkFor(digest)
      if (link === entry.link && link?.channel !== undefined) continue
      // Two trackers in charge of one node would both give it leases.
      entry.link?.channel?.send({ type: 'tracker-leave', digest })
      entry.link = link
      entry.session.onTracker(link !== undefined)
      link?.channel?.send(entry.session.describe())
    }
  }

  receive(message: ControlMessage): void {
    switch (message.type) {
      case 'tracker-peers':
        for (const answer of this.#sizeWaiters.get(message.digest) ?? []) {
          answer(message.sizeBytes > 0 ? message.sizeBytes : undefined)
        }
        this.#sessions.get(message.digest)?.session.onPeers(message)
        break
      case 'lease-grant':
        this.#sessions.get(message.digest)?.session.onLease(message)
        break
      case 'tag-lookup':
      case 'tag-answer':
        this.#tags.receive(message)
        break
      default:
        break
    }
  }
}

/** What a tag is. */
export interface TagFound {
  digest: Digest
  mediaType: string
  sizeBytes: number
}

/** What a tracker said about a tag: what this node found out itself, or what another has. */
export type TagOutcome<T> =
  { kind: 'own'; found: T } | { kind: 'told'; found: TagFound; stale: boolean } | { kind: 'failed'; errorCode: string }

function holding(digest: Digest, sizeBytes: number): ControlMessage {
  const chunks = new Uint8Array()
  return { type: 'tracker-join', digest, sizeBytes, originHost: '', chunks, complete: true, leaseCredit: 0 }
}
