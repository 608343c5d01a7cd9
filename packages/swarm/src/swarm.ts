// The swarm room's front: the downloads of this node, what it serves, and whom it refuses.
import { entryLimit, type Digest } from '@shoal/oci'
import type {
  ControlChannel,
  ControlPlane,
  Lie,
  PreheatCancel,
  PreheatOrder,
  TransferPlane,
  VerifySignature,
} from '@shoal/network'
import type { Store } from '@shoal/store'
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import type { Registry } from 'prom-client'
import { AgentMessages } from './agent-messages.ts'
import { Announcer } from './announcer.ts'
import { BufferPool } from './buffer-pool.ts'
import { DEFAULT_TIMINGS, type OriginSource, type SwarmContext, type SwarmTimings } from './context.ts'
import { Download } from './download.ts'
import { createSwarmMetrics, type SwarmMetrics } from './metrics.ts'
import { OriginSources } from './origin-sources.ts'
import { DEFAULT_PARAMETERS, type SwarmParameters } from './policy/index.ts'
import type { RateLimits } from './rate-limits.ts'
import { RequestBudget } from './request-budget.ts'
import type { SizeAnswer } from './size-questions.ts'
import type { TagMemory } from './tag-questions.ts'
import type { TagFound } from './tracker-client.ts'
import { TrackerClient } from './tracker-client.ts'
import { Uploads } from './uploads.ts'

export interface SwarmOptions {
  store: Store
  control: ControlPlane
  /** Made after the swarm, because it serves through `swarm.uploads`. */
  transfer: TransferPlane
  uploads: Uploads
  verify: VerifySignature
  /** `host:port` or multiaddr of each tracker. */
  trackers: readonly string[]
  parameters?: Partial<SwarmParameters>
  timings?: Partial<SwarmTimings>
  limits: RateLimits
  metrics: SwarmMetrics
  /** Most bytes of chunks in memory, all downloads together. @default 96 MiB */
  bufferBytes?: number
  /** Orders of a tracker that are not about one blob: preheats. */
  onOrder?: (channel: ControlChannel, message: PreheatOrder | PreheatCancel) => void
  /** What this node knows of a tag, for agents that cannot ask the origin. */
  knownTag: (reference: string) => Promise<(TagFound & { ageMs: number }) | undefined>
  logger: Logger
}

export interface DownloadRequest {
  digest: Digest
  sizeBytes: number
  /** Only other nodes say so, neither a manifest nor the origin. @default false */
  sizeIsHearsay?: boolean
  mediaType?: string
  origin: OriginSource | undefined
  /** Whose it is: the repository, and in whose name it is asked. @default the origin's host */
  originKey?: string
  requestId: string
}

/** All swarms that this node takes part in. */
export class Swarm {
  readonly trackers: TrackerClient
  readonly limits: RateLimits
  readonly #options: SwarmOptions
  readonly #context: SwarmContext
  readonly #downloads = new Map<Digest, Download>()
  /** What is about to become a download or a stored blob. */
  readonly #starting = new Map<Digest, Promise<unknown>>()
  readonly #banned: LRUCache<string, string>
  readonly #messages: AgentMessages
  readonly #announcer: Announcer
  #closed = false

  constructor(options: SwarmOptions) {
    const { control, logger, store } = options
    const parameters = { ...DEFAULT_PARAMETERS, ...options.parameters }
    const timings = { ...DEFAULT_TIMINGS, ...options.timings }
    this.#options = options
    this.limits = options.limits
    this.#banned = new LRUCache({ ...entryLimit(10_000), ttl: timings.banMs })
    const holdings = () =>
      [...store.list()].filter(({ complete }) => complete).sort((a, b) => b.lastUsedMs - a.lastUsedMs)
    this.trackers = new TrackerClient({ control, addresses: options.trackers, holdings, logger })
    const idle = (signal: AbortSignal) => this.idle(signal)
    this.#announcer = new Announcer({ control, store, trackers: this.trackers, idle, logger })
    this.#context = {
      store,
      control,
      transfer: options.transfer,
      trackers: this.trackers,
      verify: options.verify,
      parameters,
      timings,
      metrics: options.metrics,
      logger,
      pool: new BufferPool(options.bufferBytes ?? 96 * 1024 * 1024),
      budget: new RequestBudget(parameters.pipeline),
      limits: this.limits,
      freeSlots: () => options.uploads.freeSlots,
      isBanned: (peerId) => this.#banned.has(peerId),
      blame: (peerId, digest, lie) => this.blame(peerId, digest, lie),
      announce: (digest) => this.#announcer.announce(digest),
      knownAgents: () => this.#messages.channels().map(({ hello }) => hello.node),
      interestedPeers: (digest) => this.#messages.interestedPeers(digest),
    }
    this.#messages = new AgentMessages({
      control,
      store,
      uploads: options.uploads,
      trackers: this.trackers,
      downloads: this.#downloads,
      isBanned: (peerId) => this.#banned.has(peerId),
      connectTimeoutMs: timings.connectTimeoutMs,
      knownTag: options.knownTag,
      onOrder: options.onOrder,
      logger,
    })
    control.onChannel = (channel) => this.#messages.opened(channel)
    control.onPeerConnected = (peerId) => this.#greet(peerId)
    control.onBan = (peerId, reason) => this.#cutOff(peerId, reason)
    store.onRemoved = (digest) => this.#withdraw(digest)
  }

  /** Starts what runs by itself. The control plane must have been started. */
  start(): void {
    this.trackers.start()
    this.#announcer.start()
    for (const peerId of this.#options.control.connectedPeers()) this.#greet(peerId)
  }

  async stop(): Promise<void> {
    this.#closed = true
    this.#announcer.stop()
    const reason = new Error('the agent is shutting down')
    await Promise.allSettled([...this.#downloads.values()].map((download) => download.close(reason)))
    await this.trackers.stop()
    this.#options.uploads.close()
  }

  /**
   * The download of a blob: the one that runs, be it of another size, or a new one. Undefined when the blob is whole in the
   * store by now.
   */
  async download(request: DownloadRequest): Promise<Download | undefined> {
    const { digest } = request
    for (;;) {
      const running = this.#downloads.get(digest)
      if (running !== undefined && !running.isOver) {
        const isCertain = request.sizeIsHearsay !== true
        const isSame = running.partial.sizeBytes === request.sizeBytes
        if (isCertain && isSame) running.sizeIsHearsay = false
        if (isSame || !isCertain) this.#join(running, request)
        // Of two sizes that are both certain one is wrong: the caller has to look.
        if (isSame || !isCertain || !running.sizeIsHearsay) return running
        await running.close(new Error('the blob has another size than other nodes had said'))
      }
      if (this.#options.store.has(digest)) return undefined
      const starting = this.#starting.get(digest)
      if (starting === undefined) break
      await starting
    }
    if (this.#closed) throw new Error('the agent is shutting down')
    const starting = this.#begin(request)
    this.#starting.set(digest, starting)
    try {
      return await starting
    } finally {
      this.#starting.delete(digest)
    }
  }

  downloads(): Download[] {
    return [...this.#downloads.values()]
  }

  /** Waits until no download is active, or the signal ends it. */
  async idle(signal: AbortSignal): Promise<void> {
    const aborted = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
    while (this.#downloads.size > 0 && !signal.aborted) {
      await Promise.race([Promise.allSettled([...this.#downloads.values()].map(({ done }) => done)), aborted])
    }
  }

  /** Agents with an open control channel. */
  get connectedAgents(): number {
    return this.#messages.channels().length
  }

  /** Size and content type of a blob that some agent has; undefined when none is found in time. */
  async askSize(digest: Digest, timeoutMs: number): Promise<SizeAnswer | undefined> {
    return await this.#messages.sizes.ask(digest, timeoutMs)
  }

  /** What connected agents know of a tag. */
  async askTag(reference: string, timeoutMs: number): Promise<TagMemory[]> {
    return await this.#messages.tags.ask(reference, timeoutMs)
  }

  /**
   * Takes in a blob that this node has by another way than a download, and lets others know. `fill` brings it into the
   * store; downloads of it wait meanwhile. Where one runs already, there is nothing to do.
   */
  async adopt(digest: Digest, sizeBytes: number, fill: () => Promise<void>): Promise<void> {
    const running = this.#downloads.get(digest)
    if (this.#closed || this.#starting.has(digest) || running?.isOver === false) return
    if (!this.#options.store.has(digest)) {
      const filling = fill()
      // Whoever waits goes on by itself when this fails.
      const settled = filling.catch(() => undefined)
      this.#starting.set(digest, settled)
      try {
        await filling
      } finally {
        this.#starting.delete(digest)
      }
    }
    this.trackers.tellHolding(digest, sizeBytes)
    this.#announcer.announce(digest)
  }

  /** Peers that were caught lying, with the reason. */
  banned(): [string, string][] {
    return [...this.#banned.entries()]
  }

  /** A peer was caught lying about a blob: this node has nothing to do with it for a while. */
  blame(peerId: string, digest: Digest, lie: Lie): void {
    const { control, logger } = this.#options
    if (peerId === control.peerId || this.#banned.has(peerId)) return
    logger.warn({ peer: peerId, digest, lie }, 'peer was caught and is refused')
    this.trackers.send(digest, { type: 'peer-report', digest, peerId, reason: lie })
    control.ban(peerId, this.#context.timings.banMs, lie)
  }

  /** Who comes later gets nothing of what the first one's repository has refused: it has a source of its own. */
  #join(running: Download, { origin, originKey = origin?.host ?? '' }: DownloadRequest): void {
    if (running.origins.add(origin, originKey)) running.wake()
  }

  async #begin(request: DownloadRequest): Promise<Download> {
    const partial = await this.#options.store.openPartial(request.digest, request.sizeBytes)
    if (this.#closed) {
      await partial.close()
      throw new Error('the agent is shutting down')
    }
    const origins = new OriginSources()
    origins.add(request.origin, request.originKey ?? request.origin?.host ?? '')
    const download = new Download(this.#context, {
      partial,
      mediaType: request.mediaType ?? '',
      origins,
      sizeIsHearsay: request.sizeIsHearsay ?? false,
      requestId: request.requestId,
    })
    this.#downloads.set(request.digest, download)
    const over = () => {
      if (this.#downloads.get(request.digest) === download) this.#downloads.delete(request.digest)
      if (this.#downloads.size === 0) this.#context.pool.trim()
    }
    download.done.then(over, over)
    return download
  }

  #greet(peerId: string): void {
    if (!this.#closed) this.#messages.greet(peerId)
  }

  /** A blob is not here any more: who counted on it would wait for it, and a tracker would grant nobody a lease. */
  #withdraw(digest: Digest): void {
    // A download of it has told what it has by itself.
    if (this.#downloads.has(digest) || this.#starting.has(digest)) return
    this.trackers.tellGone(digest)
    this.#announcer.withdraw(digest)
  }

  /**
   * A peer was banned, by this room or by the network room. Nothing comes from it any more, and a tracker that counts on its
   * chunks would let all wait for them.
   */
  #cutOff(peerId: string, reason: string): void {
    this.#banned.set(peerId, reason)
    for (const { digest, neighbourhood } of this.#downloads.values()) {
      if (!neighbourhood.has(peerId)) continue
      neighbourhood.drop(peerId)
      this.trackers.send(digest, { type: 'peer-report', digest, peerId, reason: 'undelivered' })
    }
    this.#options.transfer.disconnect(peerId)
  }
}

/** Everything that has to exist before the transfer plane, which in turn has to exist before the swarm. */
export function createUploads(
  store: Store,
  registry: Registry,
  parameters: Partial<SwarmParameters>,
  limits: RateLimits,
): { uploads: Uploads; metrics: SwarmMetrics } {
  const metrics = createSwarmMetrics(registry)
  return {
    metrics,
    uploads: new Uploads({ store, parameters: { ...DEFAULT_PARAMETERS, ...parameters }, metrics, limits }),
  }
}
