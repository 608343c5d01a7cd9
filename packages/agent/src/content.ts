// Content by digest: from the store, else from the swarm, else from the origin. What the mirror endpoint and the pulls
// of the admin API both ask.
import { setTimeout as delay } from 'node:timers/promises'
import type { Readable } from 'node:stream'
import {
  blobsOf,
  childrenOf,
  detectMediaType,
  isManifestMediaType,
  MAX_MANIFEST_BYTES,
  OciError,
  parseManifest,
  type Digest,
} from '@shoal/oci'
import type { ContentSource } from '@shoal/registry'
import { StoreFailedError, StoreFullError, type ReadOptions, type Store, type StoredBlob } from '@shoal/store'
import type { Download, Swarm } from '@shoal/swarm'
import { UpstreamError, type RepositoryTarget, type Upstream } from '@shoal/upstream'
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import { unlessAborted } from './aborting.ts'
import { blobSource, manifestSource, type Requester } from './origin-sources.ts'
import { orPassThrough, passThrough } from './pass-through.ts'

/**
 * Descriptors remembered from manifests, so that a blob's size is known when it is asked for. The cache takes its memory
 * at once, so it is no larger than needed: some thousand images.
 */
const KNOWN_DESCRIPTORS = 20_000
/** How long connected agents have to tell the size of something that was asked for by digest alone. */
const SIZE_QUESTION_MS = 150
/** How long everybody has, the DHT included, while the origin does not answer. */
const SIZE_LIMIT_MS = 2500

export interface ManifestContent {
  digest: Digest
  mediaType: string
  sizeBytes: number
  bytes: Uint8Array
  source: ContentSource
}

export interface BlobContent {
  sizeBytes: number
  source: ContentSource
  open(options: ReadOptions): Readable
  /** The whole blob, where it is in the store. */
  stored: StoredBlob | undefined
  /** The download behind it, while there is one. */
  download: Download | undefined
  /** To be called when it is not needed (any more). */
  release(): void
}

export interface ContentOptions {
  store: Store
  swarm: Swarm
  upstream: Upstream
  logger: Logger
}

interface KnownDescriptor {
  sizeBytes: number
  mediaType: string
}

/** All content that this node can get. */
export class Content {
  readonly #options: ContentOptions
  readonly #descriptors = new LRUCache<Digest, KnownDescriptor>({ max: KNOWN_DESCRIPTORS })

  constructor(options: ContentOptions) {
    this.#options = options
  }

  /** Notes what a manifest or the origin said of some content. */
  know(digest: Digest, sizeBytes: number, mediaType: string): void {
    this.#descriptors.set(digest, { sizeBytes, mediaType })
  }

  /** A manifest by digest. @throws UpstreamError, DownloadError, OciError */
  async manifest(
    target: RepositoryTarget,
    digest: Digest,
    requester: Requester,
    signal: AbortSignal,
  ): Promise<ManifestContent> {
    const stored = await this.#storedManifest(digest, 'store')
    if (stored !== undefined) return stored
    const { sizeBytes, mediaType } = await this.#describeManifest(target, digest, requester, signal)
    if (sizeBytes > MAX_MANIFEST_BYTES) {
      throw new OciError('MANIFEST_INVALID', `the manifest has ${sizeBytes} bytes, more than ${MAX_MANIFEST_BYTES}`)
    }
    try {
      const origin = manifestSource(this.#options.upstream, target, digest, requester)
      const requestId = requester.requestId ?? ''
      const download = await this.#options.swarm.download({ digest, sizeBytes, mediaType, origin, requestId })
      const source: ContentSource = await this.#finished(download, signal)
      const content = await this.#storedManifest(digest, source)
      if (content !== undefined) return content
    } catch (error) {
      if (!(error instanceof StoreFullError || error instanceof StoreFailedError)) throw error
      this.#options.logger.warn({ err: error, digest }, 'the store takes nothing: the manifest is passed through')
    }
    const { bytes, mediaType: type } = await this.#options.upstream.getManifest(target, digest, {
      ...requester,
      signal,
    })
    return this.#parsed({ digest, mediaType: type, sizeBytes: bytes.length, bytes, source: 'origin' })
  }

  /** A blob by digest; its bytes may still be arriving. @throws UpstreamError, DownloadError */
  async blob(
    target: RepositoryTarget,
    digest: Digest,
    requester: Requester,
    signal: AbortSignal,
  ): Promise<BlobContent> {
    const { store, swarm, upstream, logger } = this.#options
    for (;;) {
      const stored = await store.open(digest)
      if (stored !== undefined) {
        return {
          sizeBytes: stored.sizeBytes,
          source: 'store',
          stored,
          download: undefined,
          open: (options) => stored.createReadStream(options),
          release: () => stored.release(),
        }
      }
      const sizeBytes = await this.blobSize(target, digest, requester, signal)
      const origin = blobSource(upstream, target, digest, requester)
      const passed = { upstream, target, digest, sizeBytes, requester }
      try {
        const download = await swarm.download({ digest, sizeBytes, origin, requestId: requester.requestId ?? '' })
        if (download === undefined) continue
        return {
          sizeBytes,
          source: 'swarm',
          stored: undefined,
          download,
          open: (options) =>
            orPassThrough(
              passed,
              (part) => download.createReadStream(part),
              options,
              (error) => {
                logger.warn({ err: error, digest }, 'the store takes no more: the rest of the blob is passed through')
              },
            ),
          release: download.hold(),
        }
      } catch (error) {
        if (!(error instanceof StoreFullError || error instanceof StoreFailedError)) throw error
        logger.warn({ err: error, digest }, 'the store takes nothing: the blob is passed through')
        return {
          sizeBytes,
          source: 'origin',
          stored: undefined,
          download: undefined,
          open: (options) => passThrough(passed, options),
          release: () => undefined,
        }
      }
    }
  }

  async #finished(download: Download | undefined, signal: AbortSignal): Promise<ContentSource> {
    if (download === undefined) return 'store'
    const release = download.hold()
    try {
      await unlessAborted(download.done, signal)
    } catch (error) {
      throw error === signal.reason ? asError(error) : error
    } finally {
      release()
    }
    return download.fromOriginBytes > 0 ? 'origin' : 'swarm'
  }

  async #storedManifest(digest: Digest, source: ContentSource): Promise<ManifestContent | undefined> {
    const blob = await this.#options.store.open(digest)
    if (blob === undefined) return undefined
    try {
      if (blob.sizeBytes > MAX_MANIFEST_BYTES) {
        throw new OciError('MANIFEST_UNKNOWN', 'the digest is that of a blob, not of a manifest')
      }
      const bytes = new Uint8Array(blob.sizeBytes)
      await blob.readAt(0, bytes)
      const known = this.#descriptors.get(digest)?.mediaType
      const named = known !== undefined && isManifestMediaType(known) ? known : undefined
      const type = blob.mediaType ?? named ?? typeOf(bytes)
      return this.#parsed({ digest, mediaType: type, sizeBytes: bytes.length, bytes, source })
    } finally {
      blob.release()
    }
  }

  /** Reads what the manifest names, so that sizes are known by the time that the blobs are asked for. */
  #parsed(content: ManifestContent): ManifestContent {
    try {
      const manifest = parseManifest(content.bytes, content.mediaType)
      for (const { digest, size, mediaType } of [...childrenOf(manifest), ...blobsOf(manifest)]) {
        this.know(digest, size, mediaType)
      }
    } catch (error) {
      // Content types that are not understood are passed on as they are: the digest was checked.
      this.#options.logger.debug({ err: error, digest: content.digest }, 'manifest of an unknown kind')
    }
    return content
  }

  async #describeManifest(
    target: RepositoryTarget,
    digest: Digest,
    requester: Requester,
    signal: AbortSignal,
  ): Promise<KnownDescriptor> {
    const known = this.#descriptors.get(digest)
    if (known !== undefined) return known
    return await this.#askPeersAndOrigin(digest, () =>
      this.#options.upstream.headManifest(target, digest, { ...requester, signal }),
    )
  }

  /** Size of a blob in bytes, from what manifests said, from peers or from the origin. */
  async blobSize(target: RepositoryTarget, digest: Digest, requester: Requester, signal: AbortSignal): Promise<number> {
    if (this.#options.store.has(digest)) {
      const stored = await this.#options.store.open(digest)
      stored?.release()
      if (stored !== undefined) return stored.sizeBytes
    }
    const known = this.#descriptors.get(digest)
    if (known !== undefined) return known.sizeBytes
    const { sizeBytes } = await this.#askPeersAndOrigin(digest, async () => {
      const head = await this.#options.upstream.headBlob(target, digest, { ...requester, signal })
      return { ...head, mediaType: '' }
    })
    this.know(digest, sizeBytes, '')
    return sizeBytes
  }

  /**
   * Peers have a moment to answer before the origin is asked; where the origin cannot be asked, whatever peers say in
   * the end counts.
   */
  async #askPeersAndOrigin(digest: Digest, askOrigin: () => Promise<KnownDescriptor>): Promise<KnownDescriptor> {
    const asking = this.#options.swarm.askSize(digest, SIZE_LIMIT_MS)
    const early = await Promise.race([
      asking,
      delay(this.#options.swarm.connectedAgents > 0 ? SIZE_QUESTION_MS : 0, undefined),
    ])
    if (early !== undefined) return early
    try {
      const { sizeBytes, mediaType } = await Promise.race([askOrigin(), answered(asking)])
      return { sizeBytes, mediaType }
    } catch (error) {
      if (!(error instanceof UpstreamError) || !error.isOutage) throw error
      const late = await asking
      if (late === undefined) throw error
      return late
    }
  }
}

/** Only an answer counts: that nobody knows is no reason to stop asking elsewhere. */
function answered<T>(asking: Promise<T | undefined>): Promise<T> {
  return new Promise((resolve, reject) => {
    asking.then((answer) => (answer === undefined ? undefined : resolve(answer)), reject)
  })
}

/** @throws OciError(MANIFEST_UNKNOWN) when it is none */
function typeOf(bytes: Uint8Array): string {
  try {
    return detectMediaType(bytes)
  } catch (error) {
    throw new OciError('MANIFEST_UNKNOWN', 'the digest is that of a blob, not of a manifest', { cause: error })
  }
}

function asError(reason: unknown): Error {
  if (reason instanceof DOMException && reason.name === 'TimeoutError') {
    return new UpstreamError('TIMEOUT', '', 'neither a peer nor the origin gave the manifest in time')
  }
  return reason instanceof Error ? reason : new Error(String(reason))
}
