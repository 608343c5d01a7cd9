// The serving side of a node: answers requests for chunks from whole blobs and from blobs that are still arriving.
import type { Digest } from '@shoal/oci'
import type { ChunkHandler, ChunkRequest } from '@shoal/network'
import { chunkCountFor, chunkLength, chunkSizeFor, type Store, type StoredBlob } from '@shoal/store'
import { admitUpload, busyRetryMs, type SwarmParameters } from './policy/index.ts'
import type { SwarmMetrics } from './metrics.ts'
import type { RateLimits } from './rate-limits.ts'

/** Whole blobs that stay open while they are asked for, so that not every chunk costs an open(2). */
const OPEN_BLOBS = 16
/** How long a blob stays open after its last request, in milliseconds. */
const OPEN_IDLE_MS = 5000

export interface UploadsOptions {
  store: Store
  parameters: Readonly<SwarmParameters>
  metrics: SwarmMetrics
  limits: RateLimits
}

/** A chunk that is here and may be sent. */
interface FoundChunk {
  lengthBytes: number
  read: (offset: number, into: Uint8Array) => Promise<void>
  release: () => void
}

interface OpenBlob {
  blob: Promise<StoredBlob | undefined>
  users: number
  idle: NodeJS.Timeout | undefined
}

/** Upload slots and the blobs that are being served. */
export class Uploads {
  readonly #options: UploadsOptions
  readonly #open = new Map<Digest, OpenBlob>()
  readonly #parameters: SwarmParameters
  readonly #activeByPeer = new Map<string, number>()
  #active = 0
  #closed = false

  constructor(options: UploadsOptions) {
    this.#options = options
    this.#parameters = { ...options.parameters }
  }

  /** Chunks that are sent at the same time at most. */
  get slots(): number {
    return this.#parameters.uploadSlots
  }

  /** What is being sent beyond a lower number is sent to its end. */
  set slots(slots: number) {
    this.#parameters.uploadSlots = slots
  }

  get freeSlots(): number {
    return Math.max(0, this.slots - this.#active)
  }

  /** Given to the transfer plane. */
  readonly handle: ChunkHandler = async (request) => {
    const { metrics, limits } = this.#options
    const parameters = this.#parameters
    const chunk = this.#closed ? undefined : await this.#find(request)
    if (chunk === undefined) return { status: 'missing' }
    const activeToPeer = this.#activeByPeer.get(request.peerId) ?? 0
    const { lengthBytes, read } = chunk
    const waitMs = limits.uploadWaitMs
    // Nothing is awaited between the look at the slots and the taking of one.
    if (!admitUpload({ active: this.#active, activeToPeer, lengthBytes, waitMs }, parameters)) {
      chunk.release()
      metrics.busy.inc({ side: 'sent' })
      return { status: 'busy', retryAfterMs: Math.ceil(waitMs + busyRetryMs(parameters, Math.random)) }
    }
    this.#active++
    this.#activeByPeer.set(request.peerId, activeToPeer + 1)
    const done = once((sentBytes: number) => {
      limits.unsent(lengthBytes - sentBytes)
      this.#free(request.peerId)
      chunk.release()
    })
    await limits.upload(lengthBytes)
    return { status: 'ok', lengthBytes, read, done }
  }

  async #find(request: ChunkRequest): Promise<FoundChunk | undefined> {
    const { store } = this.#options
    const partial = store.partial(request.digest)
    if (partial?.chunks.has(request.index) === true) {
      return {
        lengthBytes: chunkLength(partial.sizeBytes, request.index),
        read: async (offset, into) => {
          try {
            await partial.readChunk(request.index, into, offset)
          } catch (error) {
            // It may have become whole, and a file of its own, while the chunk was being sent.
            if (!store.has(request.digest)) throw error
            await this.#readStored(request.digest, request.index * partial.chunkSizeBytes + offset, into)
          }
        },
        release: () => undefined,
      }
    }
    const entry = this.#hold(request.digest)
    let blob: StoredBlob | undefined
    try {
      blob = await entry.blob
    } finally {
      // What could not be opened must not stand in the way of the next request for it.
      if (blob === undefined && this.#open.get(request.digest) === entry) this.#open.delete(request.digest)
    }
    if (blob === undefined) return undefined
    if (request.index >= chunkCountFor(blob.sizeBytes)) {
      this.#letGo(request.digest, entry)
      return undefined
    }
    const start = request.index * chunkSizeFor(blob.sizeBytes)
    return {
      lengthBytes: chunkLength(blob.sizeBytes, request.index),
      read: (offset, into) => blob.readAt(start + offset, into),
      release: () => this.#letGo(request.digest, entry),
    }
  }

  async #readStored(digest: Digest, position: number, into: Uint8Array): Promise<void> {
    const blob = await this.#options.store.open(digest)
    if (blob === undefined) throw new Error(`${digest} is not here any more`)
    try {
      await blob.readAt(position, into)
    } finally {
      blob.release()
    }
  }

  /** Closes what is open for serving. */
  close(): void {
    this.#closed = true
    for (const [digest, entry] of this.#open) if (entry.users === 0) this.#release(digest, entry)
  }

  #free(peerId: string): void {
    this.#active--
    const left = (this.#activeByPeer.get(peerId) ?? 1) - 1
    if (left > 0) this.#activeByPeer.set(peerId, left)
    else this.#activeByPeer.delete(peerId)
  }

  #hold(digest: Digest): OpenBlob {
    let entry = this.#open.get(digest)
    if (entry === undefined) {
      entry = { blob: this.#options.store.open(digest), users: 0, idle: undefined }
      this.#open.set(digest, entry)
      if (this.#open.size > OPEN_BLOBS) this.#releaseOneIdle()
    }
    clearTimeout(entry.idle)
    entry.users++
    return entry
  }

  #letGo(digest: Digest, entry: OpenBlob): void {
    entry.users--
    if (entry.users > 0) return
    if (this.#closed) this.#release(digest, entry)
    else entry.idle = setTimeout(() => this.#release(digest, entry), OPEN_IDLE_MS).unref()
  }

  #releaseOneIdle(): void {
    for (const [digest, entry] of this.#open) {
      if (entry.users === 0) {
        this.#release(digest, entry)
        return
      }
    }
  }

  #release(digest: Digest, entry: OpenBlob): void {
    clearTimeout(entry.idle)
    if (this.#open.get(digest) === entry) this.#open.delete(digest)
    entry.blob.then(
      (blob) => blob?.release(),
      () => undefined,
    )
  }
}

function once(action: (sentBytes: number) => void): (sentBytes: number) => void {
  let done = false
  return (sentBytes) => {
    if (done) return
    done = true
    action(sentBytes)
  }
}
