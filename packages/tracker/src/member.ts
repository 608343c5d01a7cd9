// A member of a swarm as the tracker keeps it, and the leases that members hold.
import type { ControlChannel, NodeAddress } from '@shoal/network'
import { ChunkMap } from '@shoal/store'
import type { LeaseCandidate, ZoneCandidate, ZoneSource } from '@shoal/swarm'

/** A member of a swarm. */
export class Member implements LeaseCandidate, ZoneCandidate, ZoneSource {
  readonly channel: ControlChannel
  complete = false
  credit = 0
  granted = 0
  held = 0
  chunkMs = 0
  bringing = 0
  crossings = 0
  /** A zone lease failed in which it had a part: it has none in another before. */
  noCrossingBeforeMs = 0
  /** Since when it has had nothing to ask of its neighbours; 0 when it has not said so lately. */
  starvedSinceMs = 0
  starvedSaidMs = 0
  /** Rescues in a row: meanwhile no other member gave it anything. */
  rescues = 0
  /** The same in swarms before, until others give it something here. */
  rescuedElsewhere = 0
  /** The rescue that it carries out now. */
  rescue: Lease | undefined
  /** Others could not get what it says it has: its word on that does not count any more. */
  discredited = false
  readonly #chunkCount: number
  /** Most members have the whole blob, and told of no chunk of it: a large cluster has millions of those. */
  #chunks: ChunkMap | undefined
  #complainants: Set<string> | undefined

  constructor(channel: ControlChannel, chunkCount: number) {
    this.channel = channel
    this.#chunkCount = chunkCount
  }

  /** Chunks that it has told of, apart from being complete. */
  get chunks(): ChunkMap {
    return (this.#chunks ??= new ChunkMap(this.#chunkCount))
  }

  /** How many these are. */
  get chunksTold(): number {
    return this.#chunks?.count ?? 0
  }

  /** Another could not get what it says it has. Returns how many say so by now. */
  complain(complainant: string): number {
    this.#complainants ??= new Set()
    this.#complainants.add(complainant)
    return this.#complainants.size
  }

  get address(): NodeAddress {
    return this.channel.hello.node
  }

  get zone(): string {
    return this.address.zone
  }
}

/** What all leases have: they live while their holder tells of progress. */
interface LiveLease {
  readonly id: number
  readonly member: Member
  readonly grantedMs: number
  newsMs: number
  receivedBytes: number
}

/** The right of one member to fetch some chunks from the origin. */
export interface Lease extends LiveLease {
  readonly first: number
  readonly count: number
  readonly kind: LeaseKind
}

/** Whether a lease is for a chunk, among others. */
export function isFor({ first, count }: Lease, chunk: number): boolean {
  return chunk >= first && chunk < first + count
}

/**
 * Why a lease was granted: nobody had the chunk; the holder of its lease is late; or the books say that the chunk is there, but
 * the holder could not get it.
 */
export type LeaseKind = 'regular' | 'second' | 'rescue'

/**
 * How a lease was lost: no news came, another brought the chunks meanwhile, news came for ever, or it was late and one of too many
 * that the holder has while others wait.
 */
export type Lapse = 'idle' | 'overtaken' | 'too_old' | 'hoarded'

/** The duty of one member to bring a chunk into its zone. */
export interface ZoneLease extends LiveLease {
  readonly chunk: number
  /** Member of another zone that has it. */
  readonly source: Member
}

/** Before the first byte a lease may wait for connections, authentication and queues. */
const FIRST_BYTE_FACTOR = 3

/** Whether the holder of a lease has told of no progress for too long. */
export function isIdle(lease: LiveLease, leaseIdleMs: number, nowMs: number): boolean {
  return nowMs - lease.newsMs > leaseIdleMs * (lease.receivedBytes === 0 ? FIRST_BYTE_FACTOR : 1)
}

/** Notes how far the holder of a lease is, when it is further than before. */
export function noteProgress(lease: LiveLease | undefined, peerId: string, receivedBytes: number, nowMs: number): void {
  if (lease?.member.channel.peerId !== peerId || receivedBytes <= lease.receivedBytes) return
  lease.receivedBytes = receivedBytes
  lease.newsMs = nowMs
}
