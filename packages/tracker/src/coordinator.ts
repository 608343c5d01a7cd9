// Turns the messages of agents into entries in the books, and the books' decisions into messages.
import type { Digest } from '@shoal/oci'
import type { ControlChannel, ControlMessage, Holding, PeerReport, TrackerJoin } from '@shoal/network'
import { DEFAULT_PARAMETERS, type SwarmParameters } from '@shoal/swarm'
import type { Logger } from 'pino'
import type { TrackerMetrics } from './metrics.ts'
import { NodeBudgets } from './node-budgets.ts'
import { Outcasts } from './outcasts.ts'
import { LeaseRounds } from './lease-rounds.ts'
import { PeerReports } from './peer-reports.ts'
import { RescuedMembers } from './rescued-members.ts'
import { SwarmTable } from './swarm-table.ts'
import { TagTable } from './tag-table.ts'
import type { Lapse, Lease, Member } from './member.ts'
import { TrackedSwarm } from './tracked-swarm.ts'

const SWEEP_INTERVAL_MS = 250
/** Members that wait for others hear at least this often that the tracker is alive. */
const HEARTBEAT_INTERVAL_MS = 2000
/** Neighbours that are named to a member that asks for more. */
const MORE_PEERS = 4
/** A blob without members is forgotten after so long. */
const FORGET_AFTER_MS = 60_000
/** A peer that others report as a liar is not named to anybody for so long. */
const REPORT_TTL_MS = 600_000
/** Reports by so many different nodes are needed for it. */
const REPORTS_NEEDED = 2
/** What agents report of peers that do not deliver what they say they have: that is no proof of a lie. */
const UNDELIVERED = 'undelivered'
const NO_CHUNKS = new Uint8Array()

export interface CoordinatorOptions {
  /** Leases outstanding per origin host at most; fewer while the origin is slow. */
  originConcurrency: number
  leaseIdleMs: number
  tagTtlMs: number
  logger: Logger
  metrics: TrackerMetrics
}

/** All swarms and tags of one tracker. */
export class Coordinator {
  readonly swarms = new SwarmTable()
  readonly tags: TagTable
  readonly #options: CoordinatorOptions
  readonly #parameters: SwarmParameters
  readonly #leases: LeaseRounds
  readonly #budgets: NodeBudgets
  readonly #reports = new PeerReports(REPORT_TTL_MS)
  readonly #outcasts = new Outcasts(REPORT_TTL_MS)
  /** In all swarms together: who bans others does so for all blobs. */
  readonly #rescued = new RescuedMembers()
  readonly #sweep: NodeJS.Timeout
  #heartbeatMs = 0

  constructor(options: CoordinatorOptions) {
    this.#options = options
    this.#parameters = { ...DEFAULT_PARAMETERS, leasesPerOrigin: options.originConcurrency }
    const { leaseIdleMs, logger, metrics } = options
    this.#leases = new LeaseRounds({ parameters: this.#parameters, leaseIdleMs, logger, metrics })
    this.tags = new TagTable({ ttlMs: options.tagTtlMs })
    this.#budgets = new NodeBudgets((peer, reason) => {
      options.metrics.refused.inc({ reason })
      options.logger.warn({ peer, reason }, 'a node tells of more than the tracker keeps of one')
    })
    this.#sweep = setInterval(() => this.#sweepAll(), SWEEP_INTERVAL_MS)
  }

  close(): void {
    clearInterval(this.#sweep)
  }

  /** Leases outstanding per origin host at most. */
  get originConcurrency(): number {
    return this.#parameters.leasesPerOrigin
  }

  /** Leases that are out beyond a lower number run to their end; a higher one is used at once. */
  set originConcurrency(leases: number) {
    this.#parameters.leasesPerOrigin = leases
    for (const swarm of this.#leases.busy) this.#leases.grantSoon(swarm)
  }

  /** A node is gone. */
  left(channel: ControlChannel): void {
    const now = performance.now()
    for (const swarm of this.swarms) {
      if (swarm.members.get(channel.peerId)?.channel === channel) this.#leave(swarm, channel.peerId, now)
    }
    this.tags.expire(now)
  }

  receive(channel: ControlChannel, message: ControlMessage): void {
    const now = performance.now()
    this.#options.metrics.messages.inc({ type: message.type })
    if (this.#outcasts.isOutcast(channel)) return
    switch (message.type) {
      case 'tracker-join':
        this.#join(channel, message, now)
        break
      case 'tracker-holdings':
        for (const blob of message.blobs) this.#holds(channel, blob, now)
        break
      case 'tracker-leave': {
        const swarm = this.swarms.ofMember(message.digest, channel.peerId)
        if (swarm !== undefined) this.#leave(swarm, channel.peerId, now)
        break
      }
      case 'tracker-progress': {
        const swarm = this.swarms.ofMember(message.digest, channel.peerId)
        swarm?.progress(channel.peerId, message, now)
        this.#leases.grantSoon(swarm)
        break
      }
      case 'tracker-peers-wanted':
        this.#morePeers(channel, message.digest, message.exclude, now)
        break
      case 'lease-progress': {
        const swarm = this.swarms.ofMember(message.digest, channel.peerId)
        swarm?.leaseProgress(message.leaseId, channel.peerId, message.receivedBytes, now)
        break
      }
      case 'lease-done':
        this.#leases.done(this.swarms.ofMember(message.digest, channel.peerId), channel.peerId, message, now)
        break
      case 'tag-ask':
        this.tags.ask(channel, message, now)
        break
      case 'tag-result':
        this.tags.result(channel, message, now)
        break
      case 'peer-report':
        this.#report(channel.peerId, message, now)
        break
      default:
        break
    }
  }

  #join(channel: ControlChannel, message: TrackerJoin, nowMs: number): void {
    const { digest, sizeBytes } = message
    if (sizeBytes === 0) {
      this.#tellSize(channel, digest)
      return
    }
    const before = this.swarms.ofMember(digest, channel.peerId)
    if (before !== undefined && before.sizeBytes !== sizeBytes) this.#leave(before, channel.peerId, nowMs)
    const swarm = this.swarms.ofSize(digest, sizeBytes) ?? this.#found(channel.peerId, message)
    if (swarm === undefined) return
    const isMember = swarm.members.has(channel.peerId)
    if (!isMember && !this.#budgets.join(channel.peerId)) return
    let member: Member
    try {
      member = swarm.join(channel, message, nowMs)
    } catch (error) {
      if (!isMember) this.#budgets.left(channel.peerId)
      throw error
    }
    if (!message.complete) this.#sendPeers(swarm, member, new Set(), this.#parameters.introducedNeighbours)
    this.#leases.grantSoon(swarm)
  }

  #holds(channel: ControlChannel, { digest, sizeBytes }: Holding, nowMs: number): void {
    // Of no bytes it would be a question.
    if (sizeBytes === 0) return
    const whole = { originHost: '', chunks: NO_CHUNKS, complete: true, leaseCredit: 0 }
    this.#join(channel, { type: 'tracker-join', digest, sizeBytes, ...whole }, nowMs)
  }

  /** A node is the first to tell of a blob, or of another size of one. Undefined when it has told of too many. */
  #found(founder: string, { digest, sizeBytes, originHost }: TrackerJoin): TrackedSwarm | undefined {
    if (!this.#budgets.found(founder, digest, sizeBytes)) return undefined
    const swarm: TrackedSwarm = new TrackedSwarm({
      digest,
      sizeBytes,
      originHost,
      parameters: this.#parameters,
      leaseIdleMs: this.#options.leaseIdleMs,
      random: Math.random,
      onLapse: (lease, how) => this.#lapsed(digest, lease, how),
      onWithheld: (peerId) =>
        this.#fault(peerId, 'withheld', { digest }, 'nobody gets what a node has fetched under leases'),
      rescued: this.#rescued,
      lapsed: this.#leases.lapses,
      onCount: (peerId, by) => this.#leases.outstandingChanged(swarm.originHost, peerId, by),
      isHoarding: (peerId, nowMs) => this.#leases.origins.isHoarding(swarm.originHost, peerId, nowMs),
    })
    this.swarms.add(swarm)
    return swarm
  }

  /** A node asks how large a blob is before it joins: it was asked for the blob by digest alone. */
  #tellSize(channel: ControlChannel, digest: Digest): void {
    const swarm = this.swarms.largest(digest)
    const [sizeBytes, members] = [swarm?.sizeBytes ?? 0, swarm?.members.size ?? 0]
    channel.send({ type: 'tracker-peers', digest, sizeBytes, members, peers: [] })
  }

  #morePeers(channel: ControlChannel, digest: Digest, exclude: readonly string[], nowMs: number): void {
    const swarm = this.swarms.ofMember(digest, channel.peerId)
    const member = swarm?.members.get(channel.peerId)
    if (swarm === undefined || member === undefined) return
    swarm.starved(member, nowMs)
    this.#sendPeers(swarm, member, new Set(exclude), MORE_PEERS)
    this.#leases.grantSoon(swarm)
  }

  #sendPeers(swarm: TrackedSwarm, member: Member, exclude: Set<string>, count: number): void {
    member.channel.send({
      type: 'tracker-peers',
      digest: swarm.digest,
      sizeBytes: swarm.sizeBytes,
      members: swarm.members.size,
      peers: count === 0 ? [] : swarm.introduce(member, exclude, count),
    })
  }

  #leave(swarm: TrackedSwarm, peerId: string, nowMs: number): void {
    if (swarm.members.has(peerId)) this.#budgets.left(peerId)
    swarm.leave(peerId, nowMs)
    this.#leases.grantSoon(swarm)
  }

  /**
   * Two members say that a third sent them wrong bytes or hashes: it is no member of anything for a while.
   * Nobody is named to it or it to others, it gets no lease, and what only it has counts as not there. In a swarm of two the word
   * of one is all there is: it counts for that swarm alone.
   */
  #report(reporter: string, { digest, peerId, reason }: PeerReport, nowMs: number): void {
    const swarm = this.swarms.ofMember(digest, reporter)
    const about = swarm?.members.get(peerId)
    if (swarm === undefined || about === undefined || reporter === peerId) return
    const needed = Math.min(REPORTS_NEEDED, swarm.members.size - 1)
    if (!this.#reports.mayReport(reporter, peerId)) {
      this.#options.metrics.refused.inc({ reason: 'reports' })
      return
    }
    if (reason === UNDELIVERED) {
      if (!swarm.complaint(reporter, peerId, needed)) return
      this.#fault(peerId, UNDELIVERED, { digest }, 'a peer does not deliver what it says it has')
      this.#leases.grantSoon(swarm)
      return
    }
    const reporters = this.#reports.note(reporter, peerId)
    this.#options.metrics.reports.inc()
    this.#options.logger.warn({ peer: peerId, reporter, reason, reporters }, 'a peer was reported')
    if (reporters < REPORTS_NEEDED) {
      if (swarm.complaint(reporter, peerId, needed)) this.#leases.grantSoon(swarm)
      return
    }
    this.#outcasts.add(about.channel, nowMs)
    this.#fault(peerId, 'reported', { reason }, 'a peer is left out of all swarms')
    for (const swarm of this.swarms) if (swarm.members.has(peerId)) this.#leave(swarm, peerId, nowMs)
  }

  #lapsed(digest: Digest, { member, kind }: Lease, how: Lapse): void {
    const text = 'a node has lost a lease that it did not use'
    this.#fault(member.channel.peerId, `lease_${how}`, { digest, kind, how }, text)
  }

  /** Names a node that others have to do without. */
  #fault(peer: string, reason: string, more: object, text: string): void {
    this.#options.metrics.fault(peer, reason)
    this.#options.logger.warn({ peer, ...more }, text)
  }

  #forget(swarm: TrackedSwarm): void {
    this.#leases.rest(swarm)
    this.swarms.delete(swarm)
    this.#budgets.forgotten(swarm.digest, swarm.sizeBytes)
  }

  #sweepAll(): void {
    const now = performance.now()
    const beat = now - this.#heartbeatMs >= HEARTBEAT_INTERVAL_MS
    if (beat) this.#heartbeatMs = now
    for (const swarm of this.#leases.busy) {
      const expired = swarm.expire(now, this.#leases.origins.usualChunkMs(swarm.originHost))
      if (expired > 0) this.#options.metrics.expired.inc(expired)
      if (swarm.members.size === 0) {
        if (now - swarm.emptySinceMs > FORGET_AFTER_MS) this.#forget(swarm)
      } else if (swarm.isIdle) this.#leases.rest(swarm)
      else if (swarm.wantsLeases || swarm.wantsZoneLeases) this.#leases.grantSoon(swarm)
      if (!beat) continue
      for (const member of swarm.members.values()) if (!member.complete) this.#sendPeers(swarm, member, new Set(), 0)
    }
    this.tags.expire(now)
    // Agents tell what they have when they connect: who was not heard has to do so again.
    for (const channel of this.#outcasts.expire(now)) this.#cut(channel)
  }

  #cut(channel: ControlChannel): void {
    channel.close().catch((error: unknown) => this.#options.logger.debug({ err: error }, 'a channel was not closed'))
  }
}
