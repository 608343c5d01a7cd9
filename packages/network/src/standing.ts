// What is held against other members. Who breaks the protocol again and again, floods this node, or was caught by the
// swarm room is banned for a while: both planes refuse it, and logs and metrics name it.
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import { Counter, Gauge, type Registry } from 'prom-client'

/** What a peer can do wrong that the network room itself notices. */
export type Offence =
  /** Bytes that are no message, or a message where none is allowed. */
  | 'protocol'
  /** More than this node is willing to read, for long. */
  | 'flood'
  /** Asked for a chunk and did not take it: an upload slot that nobody else could use. */
  | 'slow_reader'

/** What the swarm room catches a peer at. */
export const LIES = [
  /** Sent bytes that do not match a hash that is known to be right, or its own word. */
  'wrong_bytes',
  /** Vouched for the hash of a chunk that is not the chunk's. */
  'wrong_hash',
  /** Passed on a voucher that its signer did not make. */
  'forged_voucher',
  /** Named a size that a blob does not have. */
  'wrong_size',
] as const

export type Lie = (typeof LIES)[number]

/** What a peer is banned for; a label in metrics. */
export type BanReason = Offence | Lie

/** One broken message may be a mistake or a version from the future; so many are not. Being held back is a warning already. */
const OFFENCES_UNTIL_BAN: Record<Offence, number> = { protocol: 5, flood: 1, slow_reader: 3 }
/** Offences are forgotten after so long. */
const OFFENCE_TTL_MS = 600_000
/** How long who offends too often is refused. */
const OFFENCE_BAN_MS = 600_000
/** A misbehaving cluster must not fill the memory with the names of the banned. */
const MAX_PEERS = 10_000
/** Banned peers that metrics name; each is a time series. */
const MAX_NAMED = 100

export interface StandingInit {
  logger: Logger
  metrics?: Registry | undefined
  /** Ends all that is open with a peer that has just been banned. */
  onBan: (peerId: string, reason: BanReason) => void
}

interface Ban {
  untilMs: number
  reason: BanReason
}

/** Offences and bans of peers, by their proven ids. */
export class Standing {
  readonly #init: StandingInit
  readonly #bans = new Map<string, Ban>()
  readonly #offences = new LRUCache<string, number>({ ...entryLimit(MAX_PEERS), ttl: OFFENCE_TTL_MS })
  readonly #counters: { bans: Counter<'reason'>; offences: Counter<'reason'> } | undefined

  constructor(init: StandingInit) {
    this.#init = init
    this.#counters = init.metrics && this.#register(init.metrics)
  }

  isBanned(peerId: string): boolean {
    const ban = this.#bans.get(peerId)
    if (ban === undefined) return false
    if (performance.now() < ban.untilMs) return true
    this.#bans.delete(peerId)
    return false
  }

  /** Refuses a peer for `durationMs`. */
  ban(peerId: string, durationMs: number, reason: BanReason): void {
    this.#bans.delete(peerId)
    this.#bans.set(peerId, { untilMs: performance.now() + durationMs, reason })
    for (const oldest of this.#bans.keys()) {
      if (this.#bans.size <= MAX_PEERS) break
      this.#bans.delete(oldest)
    }
    this.#counters?.bans.inc({ reason })
    this.#init.logger.warn({ peer: peerId, durationMs, reason }, 'peer banned')
    this.#init.onBan(peerId, reason)
  }

  /** Notes that a peer did something wrong; too much of it is a ban. */
  offend(peerId: string, offence: Offence, why: string): void {
    if (peerId === '' || this.isBanned(peerId)) return
    const key = `${offence} ${peerId}`
    const count = (this.#offences.get(key) ?? 0) + 1
    this.#offences.set(key, count)
    this.#counters?.offences.inc({ reason: offence })
    this.#init.logger.info({ peer: peerId, offence, count, why }, 'a peer misbehaved')
    if (count < OFFENCES_UNTIL_BAN[offence]) return
    this.#offences.delete(key)
    this.ban(peerId, OFFENCE_BAN_MS, offence)
  }

  #register(registry: Registry): { bans: Counter<'reason'>; offences: Counter<'reason'> } {
    const registers = [registry]
    const bans = this.#bans
    new Gauge({
      name: 'shoal_peer_ban_seconds',
      help: `Time until a banned peer is let in again, by peer and reason; the last ${MAX_NAMED} bans.`,
      labelNames: ['peer', 'reason'],
      registers,
      collect() {
        this.reset()
        const now = performance.now()
        for (const [peer, { untilMs, reason }] of [...bans].slice(-MAX_NAMED)) {
          if (untilMs > now) this.set({ peer, reason }, (untilMs - now) / 1000)
        }
      },
    })
    const counters = {
      bans: new Counter({
        name: 'shoal_peers_banned_total',
        help: 'Peers that were banned for a while, by reason.',
        labelNames: ['reason'],
        registers,
      }),
      offences: new Counter({
        name: 'shoal_peer_offences_total',
        help: 'Things that peers did wrong and that did not get them banned at once, by kind.',
        labelNames: ['reason'],
        registers,
      }),
    }
    // An alert on an increase does not see a series that begins with 1.
    const offences = Object.keys(OFFENCES_UNTIL_BAN)
    for (const reason of [...offences, ...LIES]) counters.bans.inc({ reason }, 0)
    for (const reason of offences) counters.offences.inc({ reason }, 0)
    return counters
  }
}
