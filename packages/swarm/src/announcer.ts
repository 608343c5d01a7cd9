// Tells the DHT and the trackers what this node has. Slow work, kept off the way of every request: one blob at a time,
// the newest first, and everything again after a start or a long time.
import { setTimeout as delay } from 'node:timers/promises'
import type { Digest } from '@shoal/oci'
import type { ControlPlane } from '@shoal/network'
import type { Store } from '@shoal/store'
import type { Logger } from 'pino'
import type { TrackerClient } from './tracker-client.ts'

/**
 * An announcement waits for the downloads of this node to end, but no longer than this: told in the middle of a rollout,
 * all nodes' announcements together took more CPU than the rollout (docs/decisions/0006-asking-connected-agents.md).
 */
const LONGEST_WAIT_MS = 60_000
/** Nodes that end together do not announce together: each waits up to so long. With a tracker nothing is in a hurry. */
const SPREAD_MS = 2000
const SPREAD_WITH_TRACKER_MS = 30_000
/** Time for one announcement. */
const PROVIDE_TIMEOUT_MS = 20_000
/** Pause between two announcements: an announcement costs the cluster some 0.1 CPU seconds (docs/decisions/0006-asking-connected-agents.md). */
const PAUSE_MS = 250
/**
 * The same for what was in store at the start, while a tracker knows of it: the DHT still has the records of the run
 * before, and thousands of blobs must not keep a node busy.
 */
const BACKLOG_PAUSE_MS = 17_000

export interface AnnouncerOptions {
  control: ControlPlane
  store: Store
  trackers: TrackerClient
  /** Settles when no download is active, or the signal fires. */
  idle: (signal: AbortSignal) => Promise<void>
  logger: Logger
}

/** The queue of announcements of one node. */
export class Announcer {
  readonly #options: AnnouncerOptions
  readonly #queue = new Set<Digest>()
  /** What was in store at the start. */
  readonly #backlog = new Set<Digest>()
  readonly #stop = new AbortController()
  #wake: () => void = () => undefined
  /** When it last announced something. */
  #lastMs = 0

  constructor(options: AnnouncerOptions) {
    this.#options = options
  }

  /** Announces everything that is in the store, then whatever is new. */
  start(): void {
    for (const { digest, complete } of this.#options.store.list()) if (complete) this.#backlog.add(digest)
    this.#run().catch((error: unknown) => this.#options.logger.error({ err: error }, 'announcing has ended'))
  }

  stop(): void {
    this.#stop.abort()
    this.#wake()
  }

  announce(digest: Digest): void {
    this.#backlog.delete(digest)
    this.#queue.add(digest)
    this.#wake()
  }

  /** A blob is not here any more: the DHT is not told of it again. */
  withdraw(digest: Digest): void {
    this.#backlog.delete(digest)
    this.#queue.delete(digest)
    const { control, logger } = this.#options
    control.stopProviding(digest).catch((error: unknown) => {
      if (!this.#stop.signal.aborted)
        logger.debug({ err: error, digest }, 'a record of the DHT could not be taken back')
    })
  }

  /** Settles when an announcement costs no download anything, or cannot wait any longer. */
  async #quiet(isBacklog: boolean): Promise<void> {
    const { trackers, idle } = this.#options
    const longest = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(LONGEST_WAIT_MS)])
    await idle(longest)
    const connected = trackers.status().some((tracker) => tracker.connected)
    const spreadMs = Math.random() * (connected ? SPREAD_WITH_TRACKER_MS : SPREAD_MS)
    const usualMs = isBacklog && connected ? BACKLOG_PAUSE_MS : PAUSE_MS
    const pauseMs = this.#lastMs === 0 || performance.now() - this.#lastMs > spreadMs ? spreadMs : usualMs
    await this.#pause(pauseMs, longest, isBacklog)
    // Another rollout may have begun meanwhile.
    await idle(longest)
    this.#lastMs = performance.now()
  }

  /** What is new ends a pause of the backlog. */
  async #pause(milliseconds: number, signal: AbortSignal, isBacklog: boolean): Promise<void> {
    const woken = isBacklog ? new Promise<void>((resolve) => (this.#wake = resolve)) : undefined
    const over = new AbortController()
    const pause = delay(milliseconds, undefined, { signal: AbortSignal.any([signal, over.signal]), ref: false })
    await Promise.race([pause, ...(woken === undefined ? [] : [woken])]).catch(() => undefined)
    over.abort()
  }

  async #run(): Promise<void> {
    const { control, store, logger } = this.#options
    const { signal } = this.#stop
    while (!signal.aborted) {
      const isBacklog = this.#queue.size === 0
      const queue = isBacklog ? this.#backlog : this.#queue
      if (queue.size === 0) {
        await new Promise<void>((resolve) => (this.#wake = resolve))
        continue
      }
      await this.#quiet(isBacklog)
      // Something new has come meanwhile, and is more urgent.
      if (isBacklog && this.#queue.size > 0) continue
      const digest = [...queue].pop() as Digest
      queue.delete(digest)
      if (signal.aborted || !store.has(digest)) continue
      try {
        await control.provide(digest, AbortSignal.any([signal, AbortSignal.timeout(PROVIDE_TIMEOUT_MS)]))
      } catch (error) {
        if (!signal.aborted) logger.debug({ err: error, digest }, 'the DHT could not be told of a blob')
      }
    }
  }
}
