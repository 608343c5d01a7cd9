// What a pull looks like while it runs: a bar for each layer on a terminal, a line for each finished layer elsewhere.
import { MultiBar, type SingleBar } from 'cli-progress'
import type { PullEvent } from './admin-client.ts'
import { plainText, shortDigest, showDuration, showSize } from './people.ts'

export interface PullDisplay {
  event(event: PullEvent): void
  /** Leaves the terminal as it was. */
  close(): void
}

interface LayerState {
  sizeBytes: number
  receivedBytes: number
  fromPeersBytes: number
  fromOriginBytes: number
  source?: string
}

/** Where the bytes of a pull came from, added up from its events. */
export class PullTally {
  readonly layers = new Map<string, LayerState>()
  manifestDigest = ''

  add(event: PullEvent): void {
    if (event.event === 'manifest') this.manifestDigest = event.digest
    if (event.event === 'layers') {
      for (const { digest, sizeBytes } of event.layers) {
        this.layers.set(digest, { sizeBytes, receivedBytes: 0, fromPeersBytes: 0, fromOriginBytes: 0 })
      }
    }
    if (event.event === 'progress') {
      const { sizeBytes, receivedBytes, fromPeersBytes, fromOriginBytes } = event
      this.layers.set(event.digest, { sizeBytes, receivedBytes, fromPeersBytes, fromOriginBytes })
    }
    if (event.event === 'layer-done') {
      const layer = this.layers.get(event.digest)
      if (layer) Object.assign(layer, { source: event.source, receivedBytes: layer.sizeBytes })
    }
  }

  /** Bytes by source; what came from neither peers nor origin was there before. */
  sums(): { total: number; peers: number; origin: number; store: number } {
    const sums = { total: 0, peers: 0, origin: 0, store: 0 }
    for (const { sizeBytes, receivedBytes, fromPeersBytes, fromOriginBytes } of this.layers.values()) {
      sums.total += sizeBytes
      sums.peers += fromPeersBytes
      sums.origin += fromOriginBytes
      sums.store += Math.max(0, receivedBytes - fromPeersBytes - fromOriginBytes)
    }
    return sums
  }

  summary(digest: string, durationMs: number): string {
    const { total, peers, origin, store } = this.sums()
    const parts = [
      `${showSize(peers)} from peers`,
      `${showSize(origin)} from the origin`,
      `${showSize(store)} in the store`,
    ]
    const rate = durationMs > 0 && peers + origin > 0 ? `, ${showSize((peers + origin) / (durationMs / 1_000))}/s` : ''
    return (
      `${plainText(digest)}\n` +
      `${this.layers.size} blobs, ${showSize(total)} in ${showDuration(durationMs)}${rate}: ${parts.join(', ')}\n`
    )
  }
}

/** A bar for each blob on its way, on a terminal. */
export class BlobBars {
  readonly #bars: MultiBar
  readonly #byDigest = new Map<string, SingleBar>()

  constructor(stream: NodeJS.WritableStream) {
    this.#bars = new MultiBar({
      stream,
      hideCursor: true,
      clearOnComplete: false,
      barsize: 24,
      barCompleteChar: '█',
      barIncompleteChar: '░',
      autopadding: true,
      format: '{digest} {bar} {percentage} % of {size}  {origin}',
    })
  }

  begin(digest: string, sizeBytes: number): SingleBar {
    let bar = this.#byDigest.get(digest)
    if (!bar) {
      // A layer of no bytes would show NaN %.
      bar = this.#bars.create(Math.max(1, sizeBytes), 0, {
        digest: shortDigest(plainText(digest)),
        size: showSize(sizeBytes),
        origin: '',
      })
      this.#byDigest.set(digest, bar)
    }
    return bar
  }

  update(digest: string, sizeBytes: number, receivedBytes: number, note?: string): void {
    this.begin(digest, sizeBytes).update(receivedBytes, note === undefined ? {} : { origin: note })
  }

  /** Only of what has begun. */
  done(digest: string, note?: string): void {
    const bar = this.#byDigest.get(digest)
    bar?.update(bar.getTotal(), note === undefined ? {} : { origin: note })
  }

  close(): void {
    this.#bars.stop()
  }
}

/** A bar for each layer. */
export class BarDisplay implements PullDisplay {
  readonly #bars: BlobBars

  constructor(stream: NodeJS.WritableStream) {
    this.#bars = new BlobBars(stream)
  }

  event(event: PullEvent): void {
    if (event.event === 'layers') for (const { digest, sizeBytes } of event.layers) this.#bars.begin(digest, sizeBytes)
    if (event.event === 'progress') {
      const { fromPeersBytes, fromOriginBytes } = event
      const sources = [
        ...(fromPeersBytes > 0 ? [`${showSize(fromPeersBytes)} from peers`] : []),
        ...(fromOriginBytes > 0 ? [`${showSize(fromOriginBytes)} from the origin`] : []),
      ]
      this.#bars.update(event.digest, event.sizeBytes, event.receivedBytes, sources.join(', '))
    }
    if (event.event === 'layer-done') {
      this.#bars.done(event.digest, event.source === 'store' ? 'already here' : undefined)
    }
  }

  close(): void {
    this.#bars.close()
  }
}

/** A line for each thing that happened: for logs and pipes. */
export class LineDisplay implements PullDisplay {
  readonly #write: (text: string) => void

  constructor(write: (text: string) => void) {
    this.#write = write
  }

  event(event: PullEvent): void {
    if (event.event === 'manifest') this.#write(`manifest ${plainText(event.digest)}\n`)
    if (event.event === 'layers') {
      for (const { digest, sizeBytes } of event.layers)
        this.#write(`${shortDigest(plainText(digest))} ${showSize(sizeBytes)}\n`)
    }
    if (event.event === 'layer-done') {
      this.#write(`${shortDigest(plainText(event.digest))} done, from ${plainText(event.source)}\n`)
    }
  }

  close(): void {}
}
