// Tells the DHT which blobs this node has, and keeps telling it. A provide on an empty routing table would wait or tell
// nobody, and libp2p would not repeat it for a day; so announcements wait here until there is somebody to tell, few run
// at a time, and each is repeated well before it expires and when the network has grown since. Nodes that start anew have
// forgotten what they were told, so a repetition is what brings it back.
import type { Digest } from '@shoal/oci'
import type { Logger } from 'pino'
import { messageOf, NetworkError } from './errors.ts'
import { Backoff } from './pause.ts'

export interface ProvidingInit {
  /** One announcement to those peers whose ids are closest to the digest. */
  provide: (digest: Digest, signal: AbortSignal) => Promise<void>
  /** Takes the own record back. */
  cancel: (digest: Digest) => Promise<void>
  routingTableSize: () => number
  logger: Logger
  /** After so long an announcement is repeated. */
  repeatMs: number
  /** Between two repetitions: a node with thousands of blobs takes longer than `repeatMs` for all, but is never busy with it. */
  repeatPauseMs: number
  /** @default 3 */
  concurrency?: number
}

interface Announcement {
  digest: Digest
  /** Peers in the routing table when it was told last; 0 means it was not told yet. */
  toldTo: number
  toldAtMs: number
  /** After a failure. */
  notBeforeMs: number
  isQueued: boolean
  isRunning: boolean
  waiting: PromiseWithResolvers<void> | undefined
  backoff: Backoff
}

/** One announcement is two rounds of requests to some eight peers: longer means that most of them are dead. */
const PROVIDE_TIMEOUT_MS = 20_000
/** How often announcements are looked at; their order does not matter to anybody. */
const SWEEP_MS = 5000
/** With more peers than this in the table, growth does not change much who is closest. */
const SMALL_NETWORK = 16

export class Providing {
  readonly #init: ProvidingInit
  readonly #announcements = new Map<Digest, Announcement>()
  readonly #stop = new AbortController()
  #queue: Announcement[] = []
  #running = 0
  #repeatedAtMs = -Infinity
  #sweep: NodeJS.Timeout | undefined

  constructor(init: ProvidingInit) {
    this.#init = init
  }

  start(): void {
    this.#sweep = setInterval(() => this.#queueDue(), SWEEP_MS).unref()
    this.#pump()
  }

  stop(): void {
    clearInterval(this.#sweep)
    this.#stop.abort()
    for (const { waiting } of this.#announcements.values()) {
      waiting?.reject(new NetworkError('NOT_RUNNING', 'The control plane is stopping'))
    }
    this.#announcements.clear()
    this.#queue = []
  }

  /** Number of blobs that are announced or wait for it. */
  get size(): number {
    return this.#announcements.size
  }

  /** Number of announcements that nobody has been told of yet. */
  get untold(): number {
    let count = 0
    for (const { toldTo } of this.#announcements.values()) if (toldTo === 0) count += 1
    return count
  }

  /**
   * Settles when the DHT was told. The signal ends the waiting only: the blob stays on the list until `remove`.
   *
   * @throws NetworkError
   */
  async add(digest: Digest, signal: AbortSignal): Promise<void> {
    if (this.#stop.signal.aborted) throw new NetworkError('NOT_RUNNING', 'The control plane is not running')
    let announcement = this.#announcements.get(digest)
    if (announcement === undefined) {
      announcement = {
        digest,
        toldTo: 0,
        toldAtMs: 0,
        notBeforeMs: 0,
        isQueued: false,
        isRunning: false,
        waiting: undefined,
        backoff: new Backoff(1000, 60_000),
      }
      this.#announcements.set(digest, announcement)
    }
    if (announcement.toldTo > 0) return
    announcement.waiting ??= Promise.withResolvers<void>()
    announcement.waiting.promise.catch(() => undefined)
    this.#enqueue(announcement)
    const { promise: aborted, reject } = Promise.withResolvers<never>()
    const onAbort = (): void => reject(new NetworkError('ABORTED', 'The caller gave up', { cause: signal.reason }))
    if (signal.aborted) onAbort()
    signal.addEventListener('abort', onAbort)
    try {
      await Promise.race([announcement.waiting.promise, aborted])
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  async remove(digest: Digest): Promise<void> {
    const announcement = this.#announcements.get(digest)
    if (announcement === undefined) return
    this.#announcements.delete(digest)
    announcement.waiting?.reject(new NetworkError('ABORTED', `${digest} is not provided any more`))
    await this.#init.cancel(digest)
  }

  /** To be called when the routing table has got a peer. */
  peerFound(): void {
    this.#queueDue()
    this.#pump()
  }

  #queueDue(): void {
    const now = performance.now()
    const size = this.#init.routingTableSize()
    let oldest: Announcement | undefined
    for (const announcement of this.#announcements.values()) {
      const { toldTo, toldAtMs, notBeforeMs } = announcement
      if (now < notBeforeMs) continue
      const grown = toldTo < SMALL_NETWORK && size >= 2 * toldTo
      if (toldTo === 0 || grown) this.#enqueue(announcement)
      else if (toldAtMs < (oldest?.toldAtMs ?? now - this.#init.repeatMs)) oldest = announcement
    }
    if (oldest === undefined || now - this.#repeatedAtMs < this.#init.repeatPauseMs) return
    this.#repeatedAtMs = now
    this.#enqueue(oldest)
  }

  #enqueue(announcement: Announcement): void {
    if (announcement.isQueued || announcement.isRunning) return
    announcement.isQueued = true
    this.#queue.push(announcement)
    this.#pump()
  }

  #pump(): void {
    while (
      this.#queue.length > 0 &&
      this.#running < (this.#init.concurrency ?? 3) &&
      !this.#stop.signal.aborted &&
      this.#init.routingTableSize() > 0
    ) {
      const announcement = this.#queue.shift() as Announcement
      announcement.isQueued = false
      if (this.#announcements.get(announcement.digest) !== announcement) continue
      this.#running += 1
      announcement.isRunning = true
      this.#announce(announcement)
        .catch((error: unknown) => this.#init.logger.error({ err: error }, 'an announcement failed'))
        .finally(() => {
          this.#running -= 1
          announcement.isRunning = false
          this.#pump()
        })
        .catch(() => undefined)
    }
  }

  async #announce(announcement: Announcement): Promise<void> {
    const { provide, routingTableSize, cancel, logger } = this.#init
    const { digest } = announcement
    const size = routingTableSize()
    try {
      await provide(digest, AbortSignal.any([this.#stop.signal, AbortSignal.timeout(PROVIDE_TIMEOUT_MS)]))
      announcement.toldTo = Math.max(1, size)
      announcement.toldAtMs = performance.now()
      announcement.backoff.reset()
      announcement.waiting?.resolve()
      announcement.waiting = undefined
      // Removed while it was being told: the record that this has just written goes too.
      if (this.#announcements.get(digest) !== announcement && !this.#stop.signal.aborted) await cancel(digest)
    } catch (error) {
      if (this.#stop.signal.aborted) return
      logger.debug({ digest, reason: messageOf(error) }, 'the DHT could not be told; trying again')
      announcement.notBeforeMs = performance.now() + announcement.backoff.next()
    }
  }
}
