// Who waits for a download: clients that read along, and others that hold it. When the last has gone, it ends after a
// while, because runtimes come back for a blob right after they have given it up.
import type { Readable } from 'node:stream'
import type { PartialBlob, ReadOptions } from '@shoal/store'

/** Those for whom one blob is downloaded. */
export class Readers {
  readonly #partial: PartialBlob
  readonly #lingerMs: number
  readonly #abandoned: () => void
  readonly #streams = new Set<Readable & { readonly position: number }>()
  #holders = 0
  #linger: NodeJS.Timeout | undefined
  #closed = false

  /** @param abandoned called when nobody has waited for `lingerMs` */
  constructor(partial: PartialBlob, lingerMs: number, abandoned: () => void) {
    this.#partial = partial
    this.#lingerMs = lingerMs
    this.#abandoned = abandoned
  }

  /** Keeps the download going until the returned function is called. */
  hold(): () => void {
    this.#holders++
    clearTimeout(this.#linger)
    let held = true
    return () => {
      if (!held) return
      held = false
      this.#holders--
      if (this.#holders === 0 && !this.#closed) this.#linger = setTimeout(this.#abandoned, this.#lingerMs)
    }
  }

  open(options: ReadOptions): Readable {
    const release = this.hold()
    const stream = this.#partial.createReadStream(options)
    this.#streams.add(stream)
    stream.once('close', () => {
      this.#streams.delete(stream)
      release()
    })
    return stream
  }

  /** The first chunk that a client waits for; -1 when nobody reads along. */
  front(): number {
    let front = Infinity
    for (const { position } of this.#streams) {
      const from = Math.floor(position / this.#partial.chunkSizeBytes)
      front = Math.min(front, this.#partial.chunks.firstMissing(from))
    }
    return Number.isFinite(front) ? front : -1
  }

  /** Ends the streams that have read past this byte. */
  cut(firstByte: number, reason: Error): void {
    for (const stream of this.#streams) if (stream.position > firstByte) stream.destroy(reason)
  }

  /** The download is over: nobody has to be waited for any more. Streams go on. */
  close(): void {
    this.#closed = true
    clearTimeout(this.#linger)
  }
}
