// How a download finds its swarm: from the tracker, from the agents that are connected anyway, and from the DHT. The
// tracker's answer takes a round trip; where it does not come, the others are asked within 300 ms, and where it names
// nobody who can be reached, after a second. All at once would be no faster, and lookups in the DHT cost more CPU than
// all else in a rollout
// (docs/decisions/0006-asking-connected-agents.md).
import { setTimeout as delay } from 'node:timers/promises'
import type { ControlMessage, LeaseGrant, NodeAddress, TrackerPeers } from '@shoal/network'
import type { Crossings } from './crossings.ts'
import type { Download } from './download.ts'
import type { OriginRuns } from './origin-runs.ts'
import { isForsaken, progressIntervalMs } from './policy/index.ts'
import type { TrackerSession } from './tracker-client.ts'

/** How long connected agents have to say that they take part, before this node acts as if it were alone. */
const ALONE_GRACE_MS = 300
/** A starved download asks for more neighbours at most this often. */
const MORE_PEERS_INTERVAL_MS = 500
/** With fewer neighbours than this a starved download asks the DHT again, and this often. */
const FEW_NEIGHBOURS = 4
const DHT_INTERVAL_MS = 2000
/**
 * A tracker that answers knows more than the DHT, and its members need a moment to connect: at a cold start, when all
 * nodes are short of processor time, lookups that come sooner make each other late.
 */
const DHT_AFTER_TRACKER_MS = 1000
const DHT_TIMEOUT_MS = 10_000
/** A peer that could not be reached is tried again after so long. */
const RETRY_PEER_MS = 5000
/** Connections that are being made at a time. */
const MAX_CONNECTING = 8
/** Candidates that are remembered. */
const MAX_CANDIDATES = 256

/** The ways in which one download learns of other nodes. */
export class Discovery implements TrackerSession {
  readonly #download: Download
  readonly #origin: OriginRuns
  readonly #crossings: Crossings
  readonly #originHost: string
  readonly #candidates = new Map<string, NodeAddress>()
  readonly #connecting = new Set<string>()
  /** Peers that were asked and have not answered yet. */
  readonly #asked = new Set<string>()
  /** Peers that could not be reached, and when: they are not tried again at once. */
  readonly #failedMs = new Map<string, number>()
  readonly #startedMs = performance.now()
  /** How long this node waits for a tracker that gives it nothing: not as long as others, so that not all go to the origin at once. */
  readonly #patienceMs: number
  /** Bytes that peers had given when it went to the origin by itself. */
  #forsakenBytes: number | undefined
  #tracked = false
  #trackerNewsMs = 0
  #toldMs = 0
  #toldCredit = 0
  /** Members of the swarm, by the tracker's last word. */
  #members = 0
  #morePeersMs = 0
  #dhtMs = -Infinity
  #dhtRunning = false
  #broadcast = false
  #closed = false
  #grace: NodeJS.Timeout | undefined

  constructor(download: Download, origin: OriginRuns, crossings: Crossings, originHost: string) {
    this.#download = download
    this.#origin = origin
    this.#crossings = crossings
    this.#originHost = originHost
    this.#patienceMs = download.context.timings.forsakenMs * (1 + Math.random() / 2)
  }

  /** Connections and questions that are still open. */
  get connecting(): number {
    return this.#connecting.size + this.#asked.size
  }

  start(): void {
    const { context, digest } = this.#download
    this.#tracked = context.trackers.join(digest, this)
    for (const address of context.interestedPeers(digest)) this.candidate(address)
    if (!this.#tracked) this.#askConnectedAgents()
    if (!this.#tracked) this.#askDht()
    this.#grace = setTimeout(() => {
      const now = performance.now()
      if (this.#download.neighbourhood.size === 0 && this.#dhtIsDue(now)) this.#askDht()
      this.#download.wake()
    }, ALONE_GRACE_MS + 1)
  }

  /** A node that is said to take part. */
  candidate(address: NodeAddress): void {
    const { context, neighbourhood } = this.#download
    const { peerId } = address
    if (this.#closed || peerId === context.control.peerId || context.isBanned(peerId)) return
    if (performance.now() - (this.#failedMs.get(peerId) ?? -Infinity) < RETRY_PEER_MS) return
    if (neighbourhood.isGivenUp(peerId, performance.now())) return
    if (neighbourhood.has(peerId) || this.#connecting.has(peerId) || this.#asked.has(peerId)) return
    if (this.#candidates.size >= MAX_CANDIDATES && !this.#candidates.has(peerId)) return
    this.#candidates.set(peerId, address)
    this.#connect()
  }

  /** A peer has answered the question whether it takes part. */
  answered(peerId: string): void {
    if (!this.#asked.delete(peerId)) return
    this.#connect()
    // It may have been the last one that was waited for.
    this.#download.wake()
  }

  /** Whether the download has to decide by itself what to take from the origin. */
  alone(nowMs: number): boolean {
    const { context } = this.#download
    const sinceStartMs = nowMs - this.#startedMs
    if (this.#tracked) {
      const silentMs = nowMs - Math.max(this.#trackerNewsMs, this.#startedMs)
      const { trackerGraceMs, trackerSilenceMs } = context.timings
      return silentMs > (this.#trackerNewsMs === 0 ? trackerGraceMs : trackerSilenceMs)
    }
    return this.connecting === 0 || sinceStartMs > ALONE_GRACE_MS
  }

  /** Whether a tracker says who fetches what, from the origin and from other zones. */
  isTracked(nowMs: number): boolean {
    return this.#tracked && !this.alone(nowMs)
  }

  /** Whether a tracker is in charge and gives this node nothing, nor does anybody else: until a lease or a peer's chunk comes. */
  isForsaken(nowMs: number): boolean {
    const { board, fromPeersBytes, neighbourhood } = this.#download
    if (this.#forsakenBytes !== undefined && this.#forsakenBytes !== fromPeersBytes) this.#forsakenBytes = undefined
    const silentMs = this.#download.silentMs(nowMs)
    if (silentMs < this.#patienceMs) return this.#forsakenBytes !== undefined
    const gains = neighbourhood.all().map(({ lastGainMs }) => lastGainMs)
    const neighboursSilentMs = nowMs - Math.max(-Infinity, ...gains)
    const waiting = { silentMs, neighboursSilentMs, usualChunkMs: board.usualMs }
    if (isForsaken(waiting, this.#patienceMs)) this.#forsakenBytes = fromPeersBytes
    return this.#forsakenBytes !== undefined
  }

  /** Regular look: tells the tracker what has come, and asks for more neighbours when there is nothing to do. */
  look(nowMs: number): void {
    const { context, digest, neighbourhood } = this.#download
    this.#tellTracker(nowMs)
    if (this.alone(nowMs)) this.#askConnectedAgents()
    if (this.#isStarved()) {
      // Also with all the neighbours that there is room for: the tracker takes it for a cry for help, too.
      if (this.#tracked && nowMs - this.#morePeersMs > MORE_PEERS_INTERVAL_MS) {
        this.#morePeersMs = nowMs
        context.trackers.send(digest, { type: 'tracker-peers-wanted', digest, exclude: neighbourhood.peerIds() })
      }
      if (neighbourhood.size < context.parameters.acceptedNeighbours && this.#dhtIsDue(nowMs)) this.#askDht()
    }
    this.#connect()
  }

  /** What this node has is less than the tracker believes: others may have to fetch it. */
  tellNow(): void {
    this.#toldMs = -Infinity
  }

  /** The blob is whole: the tracker and, in time, the DHT are told. */
  completed(): void {
    const { context, digest } = this.#download
    context.trackers.send(digest, {
      type: 'tracker-progress',
      digest,
      chunks: new Uint8Array(),
      complete: true,
      leaseCredit: 0,
    })
    context.announce(digest)
    this.#close()
  }

  /** The download has failed: this node is no member any more. */
  left(): void {
    const { context, digest } = this.#download
    context.trackers.send(digest, { type: 'tracker-leave', digest })
    this.#close()
  }

  // ---- TrackerSession -------------------------------------------------------------------------------------------

  describe(): ControlMessage {
    const { digest, partial } = this.#download
    this.#toldMs = performance.now()
    this.#toldCredit = this.#origin.credit(this.#toldMs)
    return {
      type: 'tracker-join',
      digest,
      sizeBytes: partial.sizeBytes,
      originHost: this.#originHost,
      chunks: partial.chunks.count === 0 ? new Uint8Array() : partial.chunks.toBytes(),
      complete: false,
      leaseCredit: this.#toldCredit,
    }
  }

  onPeers(message: TrackerPeers): void {
    this.#trackerNewsMs = performance.now()
    this.#members = message.members
    for (const address of message.peers) this.candidate(address)
    this.#download.wake()
  }

  onLease(message: LeaseGrant): void {
    this.#trackerNewsMs = performance.now()
    this.#forsakenBytes = undefined
    if (message.source !== undefined) {
      this.#crossings.onLease(message, message.source)
      return
    }
    // A lease is a reason to wait, as long as leases bring something.
    if (this.#origin.hopeful) this.#download.progressed()
    this.#origin.onLease(message)
  }

  onTracker(connected: boolean): void {
    this.#tracked = connected
    this.#trackerNewsMs = connected ? performance.now() : 0
    if (!connected) {
      this.#origin.trackerLost()
      this.#askConnectedAgents()
      this.#askDht()
    }
    this.#download.wake()
  }

  // ---- private --------------------------------------------------------------------------------------------------

  #close(): void {
    this.#closed = true
    clearTimeout(this.#grace)
    this.#candidates.clear()
    this.#download.context.trackers.leave(this.#download.digest)
  }

  #isStarved(): boolean {
    const { board } = this.#download
    // What has come and is not written yet counts, too: it waits for this node's own rate or disk.
    for (const { peerId } of board.pending()) if (peerId !== undefined) return false
    return board.open.count > 0
  }

  #dhtIsDue(nowMs: number): boolean {
    const { size } = this.#download.neighbourhood
    if (nowMs - this.#dhtMs < DHT_INTERVAL_MS) return false
    const trackerAnswers = this.#tracked && this.#trackerNewsMs > 0
    if (!trackerAnswers || !this.#origin.usable) return size < FEW_NEIGHBOURS
    return size === 0 && this.connecting === 0 && nowMs - this.#startedMs > DHT_AFTER_TRACKER_MS
  }

  #tellTracker(nowMs: number): void {
    const { context, digest, partial } = this.#download
    const leaseCredit = this.#origin.credit(nowMs)
    const isDue = nowMs - this.#toldMs >= progressIntervalMs(this.#members) || leaseCredit !== this.#toldCredit
    if (!this.#tracked || !isDue) return
    this.#toldMs = nowMs
    this.#toldCredit = leaseCredit
    context.trackers.send(digest, {
      type: 'tracker-progress',
      digest,
      chunks: partial.chunks.count === 0 ? new Uint8Array() : partial.chunks.toBytes(),
      complete: false,
      leaseCredit,
    })
  }

  #askConnectedAgents(): void {
    if (this.#broadcast) return
    this.#broadcast = true
    for (const address of this.#download.context.knownAgents()) this.candidate(address)
  }

  #connect(): void {
    const { context, neighbourhood } = this.#download
    const room = () => neighbourhood.size + this.#connecting.size + this.#asked.size < context.parameters.neighbours
    for (const [peerId, address] of this.#candidates) {
      if (this.#connecting.size >= MAX_CONNECTING || !room()) return
      this.#candidates.delete(peerId)
      if (neighbourhood.has(peerId) || !neighbourhood.hasRoomFor(address.zone)) continue
      this.#connecting.add(peerId)
      this.#ask(address).catch((error: unknown) => {
        this.#failedMs.set(peerId, performance.now())
        context.logger.debug({ err: error, peer: peerId }, 'a member of the swarm was not reached')
      })
    }
  }

  async #ask(address: NodeAddress): Promise<void> {
    const { context, signal } = this.#download
    const { peerId } = address
    try {
      const deadline = AbortSignal.timeout(context.timings.connectTimeoutMs)
      const channel = await context.control.channel(address, AbortSignal.any([signal, deadline]))
      this.#asked.add(peerId)
      this.#download.neighbourhood.joinTo(channel, true)
    } finally {
      this.#connecting.delete(peerId)
      if (!this.#closed) this.#connect()
    }
    // A peer that keeps the question open counts as silent after a while: others may take its place.
    await delay(context.timings.connectTimeoutMs, undefined, { signal, ref: false })
    this.answered(peerId)
  }

  #askDht(): void {
    if (this.#dhtRunning) return
    this.#dhtRunning = true
    this.#dhtMs = performance.now()
    this.#searchDht()
      .catch((error: unknown) => {
        this.#download.context.logger.debug({ err: error, digest: this.#download.digest }, 'the DHT gave no answer')
      })
      .finally(() => {
        this.#dhtRunning = false
      })
  }

  async #searchDht(): Promise<void> {
    const { context, digest, signal } = this.#download
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(DHT_TIMEOUT_MS)])
    for await (const address of context.control.findProviders(digest, bounded)) {
      this.candidate(address)
      if (this.#closed) return
    }
  }
}
