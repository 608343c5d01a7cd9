// The other nodes in the swarm of one blob: who they are, what they say, and what they are told.
import type {
  ChunkVoucher,
  Claim,
  ControlChannel,
  ControlMessage,
  HashQuery,
  Have,
  Lost,
  NodeAddress,
  SwarmJoin,
  SwarmRefuse,
} from '@shoal/network'
import { ChunkMap, type PartialBlob } from '@shoal/store'
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'
import type { ChunkBoard } from './chunk-board.ts'
import type { SwarmContext } from './context.ts'
import type { Crossings } from './crossings.ts'
import { sendHave, sendJoin } from './join-message.ts'
import { Neighbour } from './neighbour.ts'
import { acceptNeighbour, haveBatchMs } from './policy/index.ts'
import type { VoucherBook } from './voucher-book.ts'

/** A peer that did not deliver is no neighbour again for so long, twice as long each time. */
const GIVEN_UP_MIN_MS = 5000
const GIVEN_UP_MAX_MS = 120_000
/** A claim, and a member, that has brought nothing for so many take-over times is not waited for any more. */
const CLAIM_LIFE_FACTOR = 5
/** A member that has just been met may have had no time for a claim yet. */
const NEW_MEMBER_GRACE_MS = 1000
const EMPTY = new Uint8Array()

export interface NeighbourhoodOptions {
  context: SwarmContext
  partial: PartialBlob
  board: ChunkBoard
  book: VoucherBook
  mediaType: string
  /** Chunks that this node is fetching from the origin without a lease. */
  claimed: () => number[]
  /** A peer has answered the question whether it takes part. */
  answered: (peerId: string) => void
  /** A node of which it is said that it takes part. */
  candidate: (address: NodeAddress) => void
  /** Chunks that are being brought in from other zones. */
  crossings: Pick<Crossings, 'isAsked' | 'heard'>
  /** A peer is no neighbour any more. */
  dropped: (peerId: string) => void
  /** Something has changed that decisions depend on. */
  changed: () => void
}

/** Keeps up the links of one download to its neighbours. */
export class Neighbourhood {
  readonly #options: NeighbourhoodOptions
  readonly #neighbours = new Map<string, Neighbour>()
  readonly #toTell: number[] = []
  /** What peers were told that were asked to become neighbours and have not answered yet. */
  readonly #toldAtJoin = new Map<string, ChunkMap>()
  /** Peers that did not deliver: until when they are left alone, and how often that was. */
  readonly #givenUp = new LRUCache<string, { untilMs: number; times: number }>({ ...entryLimit(1024) })
  #batch: NodeJS.Timeout | undefined
  #closed = false

  constructor(options: NeighbourhoodOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#neighbours.size
  }

  all(): Neighbour[] {
    return [...this.#neighbours.values()]
  }

  has(peerId: string): boolean {
    return this.#neighbours.has(peerId)
  }

  get(peerId: string): Neighbour | undefined {
    return this.#neighbours.get(peerId)
  }

  /** Whether a node of a zone would be taken as one more neighbour. */
  hasRoomFor(zone: string): boolean {
    const { control, parameters } = this.#options.context
    let remote = 0
    for (const neighbour of this.#neighbours.values()) if (neighbour.remote) remote++
    return acceptNeighbour({ all: this.#neighbours.size, remote }, zone !== control.zone, parameters)
  }

  peerIds(): string[] {
    return [...this.#neighbours.keys()]
  }

  get hasIncomplete(): boolean {
    return this.all().some(({ complete }) => !complete)
  }

  // ---- what they say --------------------------------------------------------------------------------------------

  /** A peer takes part in the swarm. */
  onJoin(channel: ControlChannel, message: SwarmJoin): void {
    const { context, partial } = this.#options
    if (this.#closed) return
    this.#options.answered(channel.peerId)
    let neighbour = this.#neighbours.get(channel.peerId)
    if (neighbour === undefined) {
      if (this.isGivenUp(channel.peerId, performance.now())) {
        if (message.reply) this.#refuse(channel)
        return
      }
      if (message.sizeBytes !== 0 && message.sizeBytes !== partial.sizeBytes) {
        context.logger.warn({ peer: channel.peerId, digest: partial.digest }, 'peer names another size for the blob')
        return
      }
      if (!this.hasRoomFor(channel.hello.node.zone)) {
        if (message.reply) this.#refuse(channel)
        return
      }
      const { board, book } = this.#options
      neighbour = new Neighbour(channel, board, book, performance.now(), context.control.zone)
      this.#neighbours.set(channel.peerId, neighbour)
      // What has come since this node's own join went out, the peer has not heard of: it was no neighbour then.
      if (!message.reply) this.#catchUp(neighbour)
    }
    neighbour.channel = channel
    neighbour.freeSlots = message.freeSlots
    this.#learn(channel.peerId, message.vouchers)
    try {
      if (message.complete) neighbour.offersExactly(ChunkMap.full(partial.chunkCount))
      else if (message.chunks.length > 0)
        neighbour.offersExactly(ChunkMap.fromBytes(partial.chunkCount, message.chunks))
    } catch (error) {
      context.logger.warn({ err: error, peer: channel.peerId }, 'peer sent a chunk map that does not fit')
    }
    neighbour.complete = message.complete
    if (message.reply) this.joinTo(channel, false)
    this.#options.changed()
  }

  onRefuse(channel: ControlChannel, message: SwarmRefuse): void {
    this.#toldAtJoin.delete(channel.peerId)
    this.#options.answered(channel.peerId)
    // As many as an honest node names: a list of dead addresses would keep this node busy.
    const others = message.others.slice(0, this.#options.context.parameters.introducedNeighbours)
    for (const other of others) this.#options.candidate(other)
  }

  onHave(channel: ControlChannel, message: Have): void {
    const neighbour = this.#neighbours.get(channel.peerId)
    if (neighbour === undefined) {
      // A member of another zone that was asked for hashes.
      if (this.#options.crossings.isAsked(channel.peerId)) this.#learn(channel.peerId, message.vouchers)
      this.#options.crossings.heard(channel.peerId, message.indices)
      return
    }
    neighbour.lastNewsMs = performance.now()
    neighbour.freeSlots = message.freeSlots
    this.#learn(channel.peerId, message.vouchers)
    this.#options.crossings.heard(channel.peerId, message.indices)
    if (message.complete) {
      neighbour.complete = true
      neighbour.offers(ChunkMap.full(this.#options.partial.chunkCount).indices())
    } else neighbour.offers(message.indices)
    this.#options.changed()
  }

  /** A member of another zone asks for hashes of chunks that it is to bring into its zone. */
  onHashQuery(channel: ControlChannel, message: HashQuery): void {
    const { book, context, partial } = this.#options
    const { digest } = partial
    const isHere = (chunk: number) => partial.chunks.has(chunk) && book.hash(chunk) !== undefined
    const indices: number[] = []
    const missing: number[] = []
    // Each once: a question may name one chunk thousands of times.
    for (const chunk of new Set(message.indices)) {
      if (chunk < partial.chunkCount) (isHere(chunk) ? indices : missing).push(chunk)
    }
    if (missing.length > 0) channel.send({ type: 'lost', digest, indices: missing })
    if (indices.length === 0) return
    const vouchers = book.vouchersFor(indices)
    sendHave(channel, { digest, indices, vouchers, complete: false, freeSlots: context.freeSlots() })
  }

  onLost(channel: ControlChannel, message: Lost): void {
    this.#options.crossings.heard(channel.peerId, message.indices)
    for (const chunk of message.indices) this.#neighbours.get(channel.peerId)?.withdraws(chunk)
  }

  onClaim(channel: ControlChannel, message: Claim): void {
    const neighbour = this.#neighbours.get(channel.peerId)
    if (neighbour === undefined) return
    const now = performance.now()
    neighbour.lastNewsMs = now
    for (const chunk of message.indices) {
      if (chunk >= this.#options.partial.chunkCount) continue
      if (message.active) neighbour.claim(chunk, now)
      else neighbour.claims.delete(chunk)
    }
    if (!message.active) this.#options.changed()
  }

  /** A peer has a new channel: what went over the old one last may not have arrived. */
  reconnected(channel: ControlChannel): void {
    const neighbour = this.#neighbours.get(channel.peerId)
    if (neighbour === undefined || neighbour.channel === channel) return
    neighbour.channel = channel
    this.joinTo(channel, true)
  }

  /** A peer has left, is banned, or its channel is over. */
  drop(peerId: string): void {
    this.#toldAtJoin.delete(peerId)
    const neighbour = this.#neighbours.get(peerId)
    if (neighbour === undefined) return
    neighbour.leave()
    this.#neighbours.delete(peerId)
    this.#options.dropped(peerId)
    this.#options.changed()
  }

  /** A peer did not deliver: it is left alone for a while, longer each time. */
  giveUp(peerId: string, nowMs: number): void {
    const times = (this.#givenUp.get(peerId)?.times ?? 0) + 1
    const untilMs = nowMs + Math.min(GIVEN_UP_MAX_MS, GIVEN_UP_MIN_MS * 2 ** (times - 1))
    this.#givenUp.set(peerId, { untilMs, times })
    this.drop(peerId)
  }

  isGivenUp(peerId: string, nowMs: number): boolean {
    return nowMs < (this.#givenUp.get(peerId)?.untilMs ?? 0)
  }

  /** Hashes were forgotten: the neighbours have told theirs already, and have to be asked for them. */
  askAgain(exceptPeerId: string): void {
    for (const { channel, peerId } of this.#neighbours.values()) if (peerId !== exceptPeerId) this.joinTo(channel, true)
  }

  // ---- what they are told ---------------------------------------------------------------------------------------

  /** Tells a peer of the part that this node takes. */
  joinTo(channel: ControlChannel, reply: boolean): void {
    const { context, partial, book, mediaType } = this.#options
    const { chunks, digest, sizeBytes } = partial
    const known = book.vouchersFor(chunks.indices())
    const neighbour = this.#neighbours.get(channel.peerId)
    if (neighbour === undefined) this.#toldAtJoin.set(channel.peerId, chunks.clone())
    else neighbour.toldHashes(known)
    const map = chunks.count === 0 ? EMPTY : chunks.toBytes()
    const freeSlots = context.freeSlots()
    this.#say(channel.peerId, () => {
      sendJoin(channel, { digest, sizeBytes, mediaType, chunks: map, complete: false, reply, freeSlots }, known)
      const claimed = this.#options.claimed()
      if (claimed.length > 0) channel.send({ type: 'claim', digest, indices: claimed, active: true })
    })
  }

  /** The same message to all. */
  tell(message: ControlMessage): void {
    for (const { channel, peerId } of this.#neighbours.values()) this.#say(peerId, () => channel.send(message))
  }

  /** A chunk is here and vouched for: all are told of it, together with others that come within a few milliseconds. */
  tellSoon(chunk: number): void {
    if (this.#closed) return
    this.#toTell.push(chunk)
    const { board, context } = this.#options
    this.#batch ??= setTimeout(() => this.#tellHaves(false), haveBatchMs(context.timings.haveBatchMs, board.usualMs))
  }

  /** The blob is whole here. */
  tellComplete(): void {
    this.#tellHaves(true)
  }

  #tellHaves(complete: boolean): void {
    clearTimeout(this.#batch)
    this.#batch = undefined
    const indices = this.#toTell.splice(0)
    for (const neighbour of this.#neighbours.values()) this.#tellHave(neighbour, indices, complete)
  }

  #tellHave(neighbour: Neighbour, indices: readonly number[], complete: boolean): void {
    const { context, partial } = this.#options
    this.#say(neighbour.peerId, () => neighbour.tellHave(partial.digest, indices, complete, context.freeSlots()))
  }

  /** Says something in a timer, or amid other work: a message that cannot be sent must end neither that nor the process. */
  #say(peerId: string, send: () => void): void {
    try {
      send()
    } catch (error) {
      const { context, partial } = this.#options
      context.logger.error({ err: error, peer: peerId, digest: partial.digest }, 'a message could not be sent')
    }
  }

  #catchUp(neighbour: Neighbour): void {
    const { partial } = this.#options
    const told = this.#toldAtJoin.get(neighbour.peerId)
    this.#toldAtJoin.delete(neighbour.peerId)
    const missed = [...partial.chunks.indices()].filter((chunk) => told?.has(chunk) !== true)
    if (missed.length > 0) this.#tellHave(neighbour, missed, false)
  }

  #refuse(channel: ControlChannel): void {
    const others = this.all().slice(0, this.#options.context.parameters.introducedNeighbours)
    channel.send({
      type: 'swarm-refuse',
      digest: this.#options.partial.digest,
      reason: 'full',
      others: others.map(({ address }) => address),
    })
  }

  // ---- what is known of hashes ----------------------------------------------------------------------------------

  hashKnown(chunk: number): void {
    for (const neighbour of this.#neighbours.values()) neighbour.hashKnown(chunk)
  }

  hashesForgotten(chunks: readonly number[]): void {
    for (const neighbour of this.#neighbours.values()) for (const chunk of chunks) neighbour.hashForgotten(chunk)
  }

  #learn(peerId: string, vouchers: readonly ChunkVoucher[]): void {
    const { book, context, partial } = this.#options
    for (const voucher of vouchers) {
      const { learned, invalid } = book.add(voucher)
      if (invalid) {
        context.metrics.rejected.inc({ reason: 'voucher' })
        context.blame(peerId, partial.digest, 'forged_voucher')
        return
      }
      this.#neighbours.get(peerId)?.toldHashes([voucher])
      for (const chunk of learned) this.hashKnown(chunk)
    }
  }

  // ---- who may be counted on ------------------------------------------------------------------------------------

  /** Rendezvous hashes of the members that show signs of fetching their share. */
  activeMembers(nowMs: number): number[] {
    const patienceMs = Math.max(this.#options.context.timings.takeoverMs, NEW_MEMBER_GRACE_MS)
    // A claim is news, too.
    // News alone is no sign of work: who claims for ever and has nothing in the end is not waited for.
    const active = this.all().filter(
      ({ complete, lastNewsMs, lastGainMs }) =>
        !complete && nowMs - lastNewsMs < patienceMs && nowMs - lastGainMs < this.#claimLifeMs,
    )
    return active.map(({ hash }) => hash)
  }

  /** However often it is repeated, a claim is a reason to wait only as long as a chunk could take. */
  get #claimLifeMs(): number {
    const { board, context } = this.#options
    return Math.max(context.timings.takeoverMs, board.usualMs) * CLAIM_LIFE_FACTOR
  }

  isClaimed(chunk: number, nowMs: number): boolean {
    const { takeoverMs } = this.#options.context.timings
    for (const { claims, claimedSinceMs } of this.#neighbours.values()) {
      const atMs = claims.get(chunk)
      if (atMs === undefined || nowMs - atMs >= takeoverMs) continue
      if (nowMs - (claimedSinceMs.get(chunk) ?? atMs) < this.#claimLifeMs) return true
    }
    return false
  }

  /** Peers that have said for a while that they have chunks, and nobody has told the hashes: they cannot be asked for. */
  unvouched(nowMs: number): string[] {
    const { stallTimeoutMs } = this.#options.context.timings
    return this.all().flatMap(({ peerId, unvouchedSinceMs }) =>
      nowMs - (unvouchedSinceMs ?? nowMs) > stallTimeoutMs ? [peerId] : [],
    )
  }

  /** Takes those into account again that have been left alone long enough after a failure. */
  resume(nowMs: number): void {
    for (const neighbour of this.#neighbours.values()) neighbour.resume(nowMs)
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#batch)
    for (const neighbour of this.#neighbours.values()) neighbour.leave()
    this.#neighbours.clear()
  }
}
