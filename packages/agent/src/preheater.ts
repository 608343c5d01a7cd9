// Carries out what a tracker orders: brings an image into the store, pins or unpins it, and tells how far it is.
import type { ControlMessage, PreheatOrder, PreheatReport } from '@shoal/network'
import type { Logger } from 'pino'
import { unlessAborted } from './aborting.ts'
import { pullAndPin } from './pinned-pull.ts'
import type { PulledImage, PullEvent } from './image-pull.ts'
import type { Pins } from './pins.ts'

/** Images that are brought in at the same time; others wait. */
const MAX_RUNNING = 2
/** Orders that are held; more are refused. */
const MAX_ORDERS = 64
const REPORT_INTERVAL_MS = 1_000
/** Nobody waits for a preheat that takes longer: it is tried again by a new order. */
const LIMIT_MS = 6 * 3_600_000

export interface PreheaterOptions {
  pins: Pins
  /** Pulls an image; undefined when it failed, after an `error` event. */
  pull: (wish: PullWish) => Promise<PulledImage | undefined>
  logger: Logger
}

export interface PullWish {
  image: string
  platform: string | undefined
  requestId: string
  signal: AbortSignal
  emit: (event: PullEvent) => void
}

interface Order {
  abort: AbortController
  report: PreheatReport
  /** To the tracker that gave the order, over its newest channel. */
  tell: (message: ControlMessage) => void
}

/** The orders of all trackers. */
export class Preheater {
  readonly #options: PreheaterOptions
  readonly #orders = new Map<string, Order>()
  readonly #waiting: (() => void)[] = []
  #running = 0

  constructor(options: PreheaterOptions) {
    this.#options = options
  }

  /** Takes an order; one that is known is reported on again. */
  order(message: PreheatOrder, tell: (message: ControlMessage) => void): void {
    const { preheatId } = message
    const known = this.#orders.get(preheatId)
    if (known !== undefined) {
      known.tell = tell
      tell(known.report)
      return
    }
    const bytes = { totalBytes: 0, receivedBytes: 0, fromPeersBytes: 0, fromOriginBytes: 0 }
    const report: PreheatReport = {
      type: 'preheat-report',
      preheatId,
      state: 'waiting',
      digest: '',
      ...bytes,
      errorCode: '',
      reason: '',
    }
    if (this.#orders.size >= MAX_ORDERS) {
      tell({ ...report, state: 'failed', errorCode: 'BUSY', reason: 'this node has too many preheats already' })
      return
    }
    const order = { abort: new AbortController(), report, tell }
    this.#orders.set(preheatId, order)
    tell(report)
    this.#run(message, order)
      .catch((error: unknown) => {
        this.#options.logger.warn({ err: error, image: message.image }, 'a preheat has failed')
        const reason = error instanceof Error ? error.message : String(error)
        Object.assign(order.report, { state: 'failed', reason })
      })
      .finally(() => {
        this.#orders.delete(preheatId)
        order.tell({ ...order.report })
      })
  }

  cancel(preheatId: string): void {
    this.#orders.get(preheatId)?.abort.abort(new Error('the preheat was cancelled'))
  }

  /** Stops what runs. */
  close(): void {
    for (const { abort } of this.#orders.values()) abort.abort(new Error('the agent is shutting down'))
  }

  async #run(message: PreheatOrder, order: Order): Promise<void> {
    if (this.#running >= MAX_RUNNING) await this.#turn(order.abort.signal)
    this.#running++
    const timer = setInterval(() => order.tell({ ...order.report }), REPORT_INTERVAL_MS)
    try {
      order.abort.signal.throwIfAborted()
      await this.#carryOut(message, order)
      order.report.state = 'done'
    } finally {
      clearInterval(timer)
      this.#running--
      this.#waiting.shift()?.()
    }
  }

  /** Waits until another order has ended. One that is cancelled leaves the line: its place is for others. */
  async #turn(signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#waiting.push(resolve)
    try {
      await unlessAborted(promise, signal)
    } catch (error) {
      const at = this.#waiting.indexOf(resolve)
      if (at >= 0) this.#waiting.splice(at, 1)
      // It was its turn at that very moment: then it is the next one's.
      else this.#waiting.shift()?.()
      throw error
    }
  }

  async #carryOut({ preheatId, image, platform, action }: PreheatOrder, { abort, report }: Order): Promise<void> {
    const { pins, pull } = this.#options
    report.state = 'running'
    if (action === 'unpin') {
      await pins.unpin(image)
      return
    }
    const layers = new Map<string, { sizeBytes: number; receivedBytes: number; peers: number; origin: number }>()
    const emit = (event: PullEvent): void => {
      if (event.event === 'layers') {
        for (const { digest, sizeBytes } of event.layers) {
          layers.set(digest, { sizeBytes, receivedBytes: 0, peers: 0, origin: 0 })
        }
      } else if (event.event === 'progress') {
        const { sizeBytes, receivedBytes, fromPeersBytes: peers, fromOriginBytes: origin } = event
        layers.set(event.digest, { sizeBytes, receivedBytes, peers, origin })
      } else if (event.event === 'layer-done') {
        const layer = layers.get(event.digest)
        if (layer !== undefined) layer.receivedBytes = layer.sizeBytes
      } else if (event.event === 'error') {
        Object.assign(report, { errorCode: event.code, reason: event.message })
      }
      const all = [...layers.values()]
      report.totalBytes = all.reduce((sum, layer) => sum + layer.sizeBytes, 0)
      report.receivedBytes = all.reduce((sum, layer) => sum + layer.receivedBytes, 0)
      report.fromPeersBytes = all.reduce((sum, layer) => sum + layer.peers, 0)
      report.fromOriginBytes = all.reduce((sum, layer) => sum + layer.origin, 0)
    }
    const signal = AbortSignal.any([abort.signal, AbortSignal.timeout(LIMIT_MS)])
    const wish = {
      image,
      platform: platform === '' ? undefined : platform,
      requestId: `preheat-${preheatId}`,
      signal,
      emit,
    }
    const pulled = action === 'pin' ? await pullAndPin(pins, pull, wish) : await pull(wish)
    if (pulled === undefined) throw new Error(report.reason || 'the image could not be pulled')
    report.digest = pulled.digest
  }
}
