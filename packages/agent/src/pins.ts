// Pinned images: everything that makes one up stays in the store, whatever the quota says, until it is unpinned. What
// is pinned is written down in the store, so that it holds across a restart.
import { formatReference, parseReference, type Digest } from '@shoal/oci'
import { KeyedLock, type Store, type StoreRecords } from '@shoal/store'

/** A pinned image. What a tag meant when it was pinned stays; a tag that moves is pinned again to follow it. */
export interface Pin {
  /** In full: `docker.io/library/alpine:3`. */
  image: string
  /** Digest of its manifest or index. */
  digest: Digest
  /** Manifests, config and layers: what is kept. */
  digests: Digest[]
  /** Milliseconds since the epoch. */
  pinnedMs: number
}

/** The pins of this node. */
export class Pins {
  readonly #store: Store
  readonly #records: StoreRecords<Pin>
  /** Two changes at once could each take the other's for the last that keeps a blob. */
  readonly #lock = new KeyedLock<'pins'>()

  constructor(store: Store) {
    this.#store = store
    this.#records = store.records<Pin>('pins')
  }

  async list(): Promise<Pin[]> {
    const pins: Pin[] = []
    for await (const [, pin] of this.#records.entries()) pins.push(pin)
    return pins.sort((a, b) => (a.image < b.image ? -1 : 1))
  }

  /** Keeps what a pull has brought. False when some of it is not in the store (any more): then nothing is pinned. */
  async pin(image: string, digest: Digest, digests: readonly Digest[]): Promise<boolean> {
    const name = formatReference(parseReference(image))
    return await this.#lock.run('pins', async () => {
      const before = await this.#records.get(name)
      try {
        for (const part of digests) await this.#store.pin(part)
        const isWhole = digests.every((part) => this.#store.has(part))
        if (isWhole) await this.#records.put(name, { image: name, digest, digests: [...digests], pinnedMs: Date.now() })
        await this.#letGo(isWhole ? (before?.digests ?? []) : digests)
        return isWhole
      } catch (error) {
        // What cannot be let go of now is at the next start: the disk may be full.
        await this.#letGo(digests).catch(() => undefined)
        throw error
      }
    })
  }

  /** False when the image was not pinned. @throws InvalidReferenceError */
  async unpin(image: string): Promise<boolean> {
    const name = formatReference(parseReference(image))
    return await this.#lock.run('pins', async () => {
      const pin = await this.#records.get(name)
      if (pin === undefined) return false
      // The record last: while it is there, the rest can be let go of by trying again.
      await this.#letGo(pin.digests, name)
      await this.#records.delete(name)
      return true
    })
  }

  /** At the start: unpins what was pinned and not written down, or written off and not unpinned. */
  async letGoOfOrphans(): Promise<void> {
    await this.#lock.run('pins', async () => {
      const pinned = [...this.#store.list()].filter((entry) => entry.pinned).map(({ digest }) => digest)
      await this.#letGo(pinned)
    })
  }

  /** Unpins what no image needs any more, besides the one that is being unpinned. */
  async #letGo(digests: readonly Digest[], unpinned?: string): Promise<void> {
    const others = (await this.list()).filter(({ image }) => image !== unpinned)
    const kept = new Set(others.flatMap((pin) => pin.digests))
    for (const digest of digests) if (!kept.has(digest)) await this.#store.unpin(digest)
  }
}
