// What other agents say over their control channels, and what they are answered: who takes part in which swarm, sizes of
// blobs, and tags.
import type {
  ChunkVoucher,
  ControlChannel,
  ControlMessage,
  ControlPlane,
  HashQuery,
  NodeAddress,
  PreheatCancel,
  PreheatOrder,
  SwarmJoin,
  TagKnown,
} from '@shoal/network'
import { entryLimit, type Digest } from '@shoal/oci'
import { chunkCountFor, type Store, type StoredBlob } from '@shoal/store'
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import type { Download } from './download.ts'
import { isTellable, sendHave, sendJoin } from './join-message.ts'
import { SizeQuestions } from './size-questions.ts'
import { TagQuestions } from './tag-questions.ts'
import type { TagFound, TrackerClient } from './tracker-client.ts'
import type { Uploads } from './uploads.ts'
import { vouchForBlob } from './voucher-book.ts'

/** Blobs whose interested peers are remembered, and peers for each. */
const INTERESTS = 512
const INTERESTED_PEERS = 32
const INTEREST_TTL_MS = 60_000
/**
 * How often a peer is answered that asks about one blob within ten seconds. An answer can be a thousand times as long as the
 * question; honest nodes ask again only after a reconnect, or when somebody was caught lying. Of hashes they ask for as many
 * chunks at once as they bring into their zone, and know all with the first answer.
 */
const MAX_ANSWERS = 8
const ANSWERS_TTL_MS = 10_000
const ANSWERED = 10_000

export interface AgentMessagesOptions {
  control: ControlPlane
  store: Store
  uploads: Uploads
  trackers: TrackerClient
  /** Those that run at the moment; the map is looked at for each message. */
  downloads: ReadonlyMap<Digest, Download>
  isBanned: (peerId: string) => boolean
  connectTimeoutMs: number
  /** What this node knows of a tag. */
  knownTag: (reference: string) => Promise<(TagFound & { ageMs: number }) | undefined>
  /** Orders of a tracker that are not about one blob. */
  onOrder: ((channel: ControlChannel, message: PreheatOrder | PreheatCancel) => void) | undefined
  logger: Logger
}

/** The conversations of this node with other agents. */
export class AgentMessages {
  readonly sizes: SizeQuestions
  readonly tags: TagQuestions
  readonly #options: AgentMessagesOptions
  readonly #interest = new LRUCache<Digest, Map<string, NodeAddress>>({
    ...entryLimit(INTERESTS),
    ttl: INTEREST_TTL_MS,
  })

  /** By peer, blob and kind of question. */
  readonly #answers = new LRUCache<string, number>({ max: ANSWERED, ttl: ANSWERS_TTL_MS, noUpdateTTL: true })

  constructor(options: AgentMessagesOptions) {
    const { control, trackers } = options
    this.#options = options
    const agents = () => this.channels()
    this.tags = new TagQuestions(agents)
    this.sizes = new SizeQuestions({
      control,
      agents,
      askTracker: (digest, signal) => trackers.askSize(digest, signal),
    })
  }

  /** Peers that asked for a blob lately, before this node wanted it. */
  interestedPeers(digest: Digest): NodeAddress[] {
    return [...(this.#interest.get(digest)?.values() ?? [])]
  }

  /** Open channels to other agents. */
  channels(): ControlChannel[] {
    const { control, trackers } = this.#options
    return control.channels().filter(({ peerId, isOpen }) => isOpen && !trackers.isTracker(peerId))
  }

  /** Agents that are connected anyway (the DHT keeps some twenty) get a control channel: they are asked first. */
  greet(peerId: string): void {
    const { control, isBanned, connectTimeoutMs, logger } = this.#options
    if (isBanned(peerId)) return
    control.channel({ peerId, multiaddrs: [] }, AbortSignal.timeout(connectTimeoutMs)).then(
      () => undefined,
      (error: unknown) => logger.debug({ err: error, peer: peerId }, 'no control channel to a connected peer'),
    )
  }

  /** Listens to a channel from its first message on. */
  opened(channel: ControlChannel): void {
    const { control, downloads, isBanned, logger } = this.#options
    if (isBanned(channel.peerId)) {
      channel.close().catch(() => undefined)
      return
    }
    channel.onMessage = (message) => this.#receive(channel, message)
    for (const download of downloads.values()) download.neighbourhood.reconnected(channel)
    channel.closed
      .then(() => {
        // A newer channel to the same peer may have taken its place.
        if (control.openChannel(channel.peerId) !== undefined) return
        for (const download of downloads.values()) download.neighbourhood.drop(channel.peerId)
      })
      .catch((error: unknown) => logger.error({ err: error }, 'a channel was not cleared away'))
  }

  #receive(channel: ControlChannel, message: ControlMessage): void {
    const { downloads, trackers, onOrder } = this.#options
    switch (message.type) {
      case 'swarm-join':
        this.#onJoin(channel, message)
        break
      case 'swarm-refuse':
        this.sizes.refused(channel.peerId, message.digest)
        downloads.get(message.digest)?.neighbourhood.onRefuse(channel, message)
        break
      case 'swarm-leave':
        this.#interest.get(message.digest)?.delete(channel.peerId)
        downloads.get(message.digest)?.neighbourhood.drop(channel.peerId)
        break
      case 'have':
        downloads.get(message.digest)?.neighbourhood.onHave(channel, message)
        break
      case 'lost':
        downloads.get(message.digest)?.neighbourhood.onLost(channel, message)
        break
      case 'claim':
        downloads.get(message.digest)?.neighbourhood.onClaim(channel, message)
        break
      case 'hash-query':
        this.#onHashQuery(channel, message)
        break
      case 'tag-query':
        this.#answerTag(channel, message.requestId, message.reference)
        break
      case 'tag-known':
        this.tags.answered(channel.peerId, message)
        break
      case 'preheat-order':
      case 'preheat-cancel':
        if (trackers.isTracker(channel.peerId)) onOrder?.(channel, message)
        break
      default:
        // Leases, peers and tags are for trackers to tell: any other member would give itself out as one.
        if (trackers.isTracker(channel.peerId)) trackers.receive(message)
    }
  }

  #onJoin(channel: ControlChannel, said: SwarmJoin): void {
    const { digest } = said
    const message = said.reply && !this.#mayAnswer(channel.peerId, digest, 'join') ? { ...said, reply: false } : said
    if (message.complete || message.chunks.length > 0) this.sizes.answered(channel.peerId, message)
    const download = this.#options.downloads.get(digest)
    if (download !== undefined && !download.isOver) {
      download.neighbourhood.onJoin(channel, message)
      return
    }
    if (!message.reply) return
    if (this.#options.store.has(digest)) {
      this.#answerAsSeed(channel, digest).catch((error: unknown) => {
        this.#options.logger.warn({ err: error, digest }, 'a stored blob could not be offered')
      })
      return
    }
    if (!message.complete && message.sizeBytes !== 0) this.#noteInterest(channel, digest)
    channel.send({ type: 'swarm-refuse', digest, reason: 'unknown', others: [] })
  }

  #mayAnswer(peerId: string, digest: Digest, kind: 'join' | 'hashes'): boolean {
    const key = `${peerId} ${digest} ${kind}`
    const answers = (this.#answers.get(key) ?? 0) + 1
    this.#answers.set(key, answers)
    return answers <= MAX_ANSWERS
  }

  #onHashQuery(channel: ControlChannel, message: HashQuery): void {
    const { digest, indices } = message
    const download = this.#options.downloads.get(digest)
    if (download !== undefined && !download.isOver) {
      download.neighbourhood.onHashQuery(channel, message)
    } else if (this.#options.store.has(digest)) {
      if (!this.#mayAnswer(channel.peerId, digest, 'hashes')) {
        // That they are here is still told, for it is no longer than the question; the hashes were.
        const { freeSlots } = this.#options.uploads
        channel.send({ type: 'have', digest, indices, vouchers: [], complete: true, freeSlots })
        return
      }
      this.#vouchAsSeed(channel, digest, indices).catch((error: unknown) => {
        this.#options.logger.warn({ err: error, digest }, 'the hashes of a stored blob could not be told')
      })
    } else channel.send({ type: 'lost', digest, indices })
  }

  #noteInterest(channel: ControlChannel, digest: Digest): void {
    let peers = this.#interest.get(digest)
    if (peers === undefined) {
      peers = new Map()
      this.#interest.set(digest, peers)
    }
    if (peers.size < INTERESTED_PEERS) peers.set(channel.peerId, channel.hello.node)
  }

  /** This node has the whole blob: it says so and vouches for all its chunks. Nothing has to be remembered for it. */
  async #answerAsSeed(channel: ControlChannel, digest: Digest): Promise<void> {
    const blob = await this.#options.store.open(digest)
    if (blob === undefined) {
      channel.send({ type: 'swarm-refuse', digest, reason: 'unknown', others: [] })
      return
    }
    try {
      const { sizeBytes, mediaType = '' } = blob
      const { freeSlots } = this.#options.uploads
      const whole = { chunks: new Uint8Array(), complete: true, reply: false }
      sendJoin(channel, { digest, sizeBytes, mediaType, ...whole, freeSlots }, this.#vouchersOf(blob))
    } finally {
      blob.release()
    }
  }

  async #vouchAsSeed(channel: ControlChannel, digest: Digest, asked: number[]): Promise<void> {
    const blob = await this.#options.store.open(digest)
    if (blob === undefined) {
      channel.send({ type: 'lost', digest, indices: asked })
      return
    }
    try {
      const { freeSlots } = this.#options.uploads
      const chunkCount = chunkCountFor(blob.sizeBytes)
      const indices = [...new Set(asked)].filter((chunk) => chunk < chunkCount)
      sendHave(channel, { digest, indices, vouchers: this.#vouchersOf(blob), complete: true, freeSlots })
    } finally {
      blob.release()
    }
  }

  #vouchersOf({ digest, sizeBytes, chunkHashes }: StoredBlob): ChunkVoucher[] {
    const { control } = this.#options
    if (chunkCountFor(sizeBytes) === 0) return []
    return vouchForBlob(digest, chunkHashes, control.peerId, (bytes) => control.sign(bytes))
  }

  #answerTag(channel: ControlChannel, requestId: number, reference: string): void {
    const answer = (found: (TagFound & { ageMs: number }) | undefined): void => {
      const known = found !== undefined && isTellable(found.mediaType) ? found : undefined
      const message: TagKnown = {
        type: 'tag-known',
        requestId,
        digest: known?.digest ?? '',
        mediaType: known?.mediaType ?? '',
        sizeBytes: known?.sizeBytes ?? 0,
        ageMs: Math.round(known?.ageMs ?? 0),
      }
      channel.send(message)
    }
    this.#options
      .knownTag(reference)
      .then(answer, () => answer(undefined))
      .catch((error: unknown) => this.#options.logger.warn({ err: error, reference }, 'a tag could not be told'))
  }
}
