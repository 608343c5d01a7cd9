// The origin of one blob, under every name that it was asked for.
import { UpstreamError, type BlobBody, type OriginChunkList } from '@shoal/upstream'
import type { OriginSource } from './context.ts'

/** Sources that one download may have; it is bounded, whoever asks under however many names. */
const MAX_SOURCES = 64
/** The origin does not have it, or not for us: no use asking again. */
const REFUSALS = new Set(['NOT_FOUND', 'UNAUTHORIZED', 'DENIED', 'REFUSED_BY_POLICY'])

/**
 * The origin, under every name that the blob was asked for here. The next one is used when one refuses: all who wait may have
 * the blob, each by its own name (docs/decisions/0009-who-may-read.md), so it makes no difference to them whose brings it.
 */
export class OriginSources implements OriginSource {
  /** The first is the one in use. */
  readonly #usable: OriginSource[] = []
  /** Of all that there ever were: a source that has refused is not asked again. */
  readonly #keys = new Set<string>()
  #refusal: UpstreamError | undefined

  /** @param key the repository, and in whose name it is asked. True when there is a source now, and there was none. */
  add(source: OriginSource | undefined, key: string): boolean {
    if (source === undefined || this.#keys.has(key) || this.#keys.size >= MAX_SOURCES) return false
    this.#keys.add(key)
    return this.#usable.push(source) === 1
  }

  get usable(): boolean {
    return this.#usable.length > 0
  }

  /** What the last one said, when all have refused. */
  get refusal(): UpstreamError | undefined {
    return this.usable ? undefined : this.#refusal
  }

  get host(): string {
    return this.#usable[0]?.host ?? ''
  }

  async open(range: { start: number; end: number }, signal: AbortSignal): Promise<BlobBody> {
    for (;;) {
      const source = this.#usable[0]
      if (source === undefined) throw this.#refusal ?? new Error('there is no origin')
      try {
        return await source.open(range, signal)
      } catch (error) {
        if (!(error instanceof UpstreamError && REFUSALS.has(error.code))) throw error
        // Another run may have been refused by it, too.
        if (this.#usable[0] === source) this.#usable.shift()
        this.#refusal = error
      }
    }
  }

  async chunkList(signal: AbortSignal): Promise<OriginChunkList | undefined> {
    return await this.#usable[0]?.chunkList(signal)
  }
}
