// Content by digest: from the store, else from the swarm, else from the origin. What the mirror endpoint and the pulls
// of the admin API both ask.
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
  type Manifest,
} from '@shoal/oci'
import type { ContentSource } from '@shoal/registry'
import { StoreFailedError, StoreFullError, type ReadOptions, type Store, type StoredBlob } from '@shoal/store'
import { DownloadError, type Download, type Swarm } from '@shoal/swarm'
import { UpstreamError, type RepositoryTarget, type Upstream } from '@shoal/upstream'
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import { hedged, unlessAborted } from './aborting.ts'
import { Descriptors, type AskOrigin, type Descriptor } from './descriptors.ts'
import { blobSource, manifestSource, originKey, type Requester } from './origin-sources.ts'
import { orPassThrough, passThrough } from './pass-through.ts'

/** Stored manifests that are kept in memory, too, in bytes: a registry's clients ask for the same few again and again. */
const CACHED_MANIFESTS_BYTES = 4 * 1024 * 1024
/** What one takes for each of its bytes (they are kept as they are, and once more as what they say), and besides. */
const CACHED_MANIFEST_FACTOR = 3
const CACHED_MANIFEST_OVERHEAD_BYTES = 2048

export interface ManifestContent {
  digest: Digest
  mediaType: string
  sizeBytes: number
  bytes: Uint8Array
  /** What it says; undefined where it is of a kind that is not understood. */
  parsed: Manifest | undefined
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

/** All content that this node can get. */
export class Content {
  readonly #options: ContentOptions
  readonly #descriptors: Descriptors
  readonly #cachedManifests = new LRUCache<Digest, ManifestContent>({
    maxSize: CACHED_MANIFESTS_BYTES,
    sizeCalculation: ({ sizeBytes }) => sizeBytes * CACHED_MANIFEST_FACTOR + CACHED_MANIFEST_OVERHEAD_BYTES,
  })

  constructor(options: ContentOptions) {
    this.#options = options
    this.#descriptors = new Descriptors(options.swarm)
  }

  /** Notes what was said of some content, by whomever. */
  hear(digest: Digest, sizeBytes: number, mediaType: string): void {
    this.#descriptors.hear(digest, sizeBytes, mediaType)
  }

  /** A blob's size was asked for, to see who may read it: it may not be what a manifest of somebody else says. */
  sized(digest: Digest, sizeBytes: number): void {
    this.#descriptors.contest(digest, sizeBytes)
  }

  /**
   * A manifest by digest.
   * @param directlyAtMs when the origin is asked for it beside the swarm, by `performance.now()`: members may be too busy to
   *   deliver, or refuse each other, and a client that gets no manifest asks the origin itself
   * @throws UpstreamError, DownloadError, OciError
   */
  async manifest(
    target: RepositoryTarget,
    digest: Digest,
    requester: Requester,
    signal: AbortSignal,
    directlyAtMs = Infinity,
  ): Promise<ManifestContent> {
    const stored = await this.#storedManifest(digest, 'store')
    if (stored !== undefined) return stored
    const askOrigin: AskOrigin = () => this.#options.upstream.headManifest(target, digest, { ...requester, signal })
    const descriptor = await this.#descriptors.find(digest, askOrigin)
    try {
      return await this.#fetchManifest(target, digest, descriptor, requester, signal, directlyAtMs)
    } catch (error) {
      const isWrong = isWrongSize(error)
      if (isWrong) this.#descriptors.refute(digest, descriptor.sizeBytes)
      const isTooLarge = descriptor.sizeBytes > MAX_MANIFEST_BYTES && !descriptor.isOrigins
      if (!descriptor.sizeIsHearsay && !isWrong && !isTooLarge) throw error
      const right = await this.#descriptors.correct(digest, descriptor, askOrigin)
      if (right === undefined) throw error
      this.#options.logger.warn({ err: error, digest, right }, 'others named a wrong size: tried again')
      return await this.#fetchManifest(target, digest, right, requester, signal, directlyAtMs)
    }
  }

  async #fetchManifest(
    target: RepositoryTarget,
    digest: Digest,
    descriptor: Descriptor,
    requester: Requester,
    signal: AbortSignal,
    directlyAtMs: number,
  ): Promise<ManifestContent> {
    const { sizeBytes, mediaType, sizeIsHearsay } = descriptor
    const { swarm, upstream, logger } = this.#options
    if (sizeBytes > MAX_MANIFEST_BYTES) {
      throw new OciError('MANIFEST_INVALID', `the manifest has ${sizeBytes} bytes, more than ${MAX_MANIFEST_BYTES}`)
    }
    const directly = async (signal: AbortSignal): Promise<ManifestContent> => {
      const { bytes, mediaType: type } = await upstream.getManifest(target, digest, { ...requester, signal })
      return this.#understood({ digest, mediaType: type, sizeBytes: bytes.length, bytes, source: 'origin' })
    }
    try {
      const origin = manifestSource(upstream, target, digest, requester)
      const asked = {
        origin,
        originKey: originKey('manifest', target, requester),
        requestId: requester.requestId ?? '',
      }
      const download = await swarm.download({ digest, sizeBytes, sizeIsHearsay, mediaType, ...asked })
      if (isOfOtherSize(download, descriptor)) return await directly(signal)
      const throughSwarm = this.#finished(download, signal).then((source) => this.#storedManifest(digest, source))
      const release = download?.hold()
      const content = await hedged(throughSwarm, directlyAtMs - performance.now(), (answered) =>
        directly(AbortSignal.any([signal, answered])),
      ).finally(release)
      if (content !== undefined) {
        // What came directly tells nothing of the size that the swarm was asked with.
        if (content.sizeBytes !== sizeBytes) this.#descriptors.refute(digest, sizeBytes)
        this.#descriptors.prove(digest, content.sizeBytes)
        return content
      }
    } catch (error) {
      if (!isOfTheStore(error)) throw error
      logger.warn({ err: error, digest }, 'the store takes nothing: the manifest is passed through')
    }
    return await directly(signal)
  }

  /** Whether a blob is here, whole. */
  isStored(digest: Digest): boolean {
    return this.#options.store.has(digest)
  }

  /** A blob by digest; its bytes may still be arriving. @throws UpstreamError, DownloadError */
  async blob(
    target: RepositoryTarget,
    digest: Digest,
    requester: Requester,
    signal: AbortSignal,
  ): Promise<BlobContent> {
    const { store, swarm, upstream, logger } = this.#options
    let isAsked = false
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
      const askOrigin = this.#askForBlob(target, digest, requester, signal)
      const descriptor = await this.#descriptors.find(digest, askOrigin)
      const { sizeBytes, sizeIsHearsay } = descriptor
      const certainBytes = sizeIsHearsay ? undefined : sizeBytes
      const origin = blobSource(upstream, target, digest, requester, certainBytes)
      const asked = { origin, originKey: originKey('blob', target, requester), requestId: requester.requestId ?? '' }
      try {
        const download = await swarm.download({ digest, sizeBytes, sizeIsHearsay, ...asked })
        if (download === undefined) continue
        if (isOfOtherSize(download, descriptor)) throw new OtherSizeError(digest)
        this.#learnFrom(download)
        // One that runs already may know the size better.
        const { sizeBytes: actualBytes } = download.partial
        const passed = { upstream, target, digest, sizeBytes: actualBytes, requester }
        return {
          sizeBytes: actualBytes,
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
        // Once. The origin's word may be that of another registry than this client's.
        const mayBeWrong: boolean = !isAsked && (!descriptor.isOrigins || error instanceof OtherSizeError)
        isAsked ||= mayBeWrong
        if (mayBeWrong && (await this.#descriptors.correct(digest, descriptor, askOrigin)) !== undefined) continue
        if (!isOfTheStore(error) && !(error instanceof OtherSizeError)) throw error
        logger.warn({ err: error, digest }, 'the store does not take it: the blob is passed through')
        const passed = { upstream, target, digest, sizeBytes, requester }
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
    try {
      await unlessAborted(download.done, signal)
    } catch (error) {
      throw error === signal.reason ? asError(error) : error
    }
    return download.fromOriginBytes > 0 ? 'origin' : 'swarm'
  }

  async #storedManifest(digest: Digest, source: ContentSource): Promise<ManifestContent | undefined> {
    // Opened each time: that counts as a use, and what was removed is not answered from memory.
    const blob = await this.#options.store.open(digest)
    if (blob === undefined) return undefined
    try {
      const cached = this.#cachedManifests.get(digest)
      // It may have been removed, and kept again with another type.
      if (cached !== undefined && cached.mediaType === blob.mediaType) {
        this.#knowParts(cached)
        return { ...cached, source }
      }
      if (blob.sizeBytes > MAX_MANIFEST_BYTES) {
        throw new OciError('MANIFEST_UNKNOWN', 'the digest is that of a blob, not of a manifest')
      }
      const bytes = new Uint8Array(blob.sizeBytes)
      await blob.readAt(0, bytes)
      const type = typeOf(bytes, blob.mediaType, this.#descriptors.mediaType(digest))
      if (blob.mediaType !== undefined && blob.mediaType !== type) await this.#correctType(digest, bytes, type)
      const content = this.#understood({ digest, mediaType: type, sizeBytes: bytes.length, bytes, source })
      if (blob.mediaType === type) this.#cachedManifests.set(digest, content)
      return content
    } finally {
      blob.release()
    }
  }

  /** Others are told the type that the store has: it must not be a wrong one for long. */
  async #correctType(digest: Digest, bytes: Uint8Array, mediaType: string): Promise<void> {
    try {
      await this.#options.store.put(digest, bytes, mediaType)
    } catch (error) {
      this.#options.logger.warn({ err: error, digest, mediaType }, 'a media type could not be corrected')
    }
  }

  #understood(content: Omit<ManifestContent, 'parsed'>): ManifestContent {
    let parsed: Manifest | undefined
    try {
      parsed = parseManifest(content.bytes, content.mediaType)
    } catch (error) {
      // Content types that are not understood are passed on as they are: the digest was checked.
      this.#options.logger.debug({ err: error, digest: content.digest }, 'manifest of an unknown kind')
    }
    const understood = { ...content, parsed }
    this.#knowParts(understood)
    return understood
  }

  /** Notes the sizes of what a manifest names, so that they are known by the time that the blobs are asked for. */
  #knowParts({ parsed }: ManifestContent): void {
    if (parsed === undefined) return
    for (const { digest, size, mediaType } of [...childrenOf(parsed), ...blobsOf(parsed)]) {
      this.#descriptors.know(digest, size, mediaType)
    }
  }

  /** Size of a blob in bytes. Other nodes are believed only while the origin cannot be asked. @throws UpstreamError */
  async blobSize(target: RepositoryTarget, digest: Digest, requester: Requester, signal: AbortSignal): Promise<number> {
    if (this.#options.store.has(digest)) {
      const stored = await this.#options.store.open(digest)
      stored?.release()
      if (stored !== undefined) return stored.sizeBytes
    }
    const askOrigin = this.#askForBlob(target, digest, requester, signal)
    const { sizeBytes } = await this.#descriptors.find(digest, askOrigin, true)
    return sizeBytes
  }

  #askForBlob(target: RepositoryTarget, digest: Digest, requester: Requester, signal: AbortSignal): AskOrigin {
    return async () => {
      const { sizeBytes } = await this.#options.upstream.headBlob(target, digest, { ...requester, signal })
      return { sizeBytes, mediaType: '' }
    }
  }

  /** The end of a download shows whether the size was right. */
  #learnFrom({ digest, partial, done }: Download): void {
    done.then(
      () => this.#descriptors.prove(digest, partial.sizeBytes),
      (error: unknown) => {
        if (isWrongSize(error)) this.#descriptors.refute(digest, partial.sizeBytes)
        else if (!(error instanceof DownloadError && error.code === 'STOPPED')) this.#descriptors.doubt(digest)
      },
    )
  }
}

/** Another client waits for the blob with another size, by a manifest of its own: one of the two will be refuted. */
class OtherSizeError extends Error {
  override readonly name = 'OtherSizeError'

  constructor(digest: Digest) {
    super(`${digest} is being downloaded with another size`)
  }
}

/** Whoever is certain of a size does not wait for a download of another one, which may never end. */
function isOfOtherSize(download: Download | undefined, { sizeBytes, sizeIsHearsay }: Descriptor): boolean {
  return download !== undefined && !sizeIsHearsay && download.partial.sizeBytes !== sizeBytes
}

function isWrongSize(error: unknown): boolean {
  return error instanceof DownloadError && error.code === 'WRONG_SIZE'
}

function isOfTheStore(error: unknown): boolean {
  return error instanceof StoreFullError || error instanceof StoreFailedError
}

/**
 * The media type of a manifest. Who named one may be wrong, or lie (another node, an index): the first counts under which the bytes
 * can be read, else what the bytes say of themselves. A kind that is not understood has the type that was named.
 * @throws OciError(MANIFEST_UNKNOWN) when it is no manifest
 */
function typeOf(bytes: Uint8Array, stored: string | undefined, heard: string | undefined): string {
  for (const named of [stored, heard]) {
    try {
      if (named !== undefined) return parseManifest(bytes, named).mediaType
    } catch {
      // It is another one, then.
    }
  }
  try {
    return detectMediaType(bytes)
  } catch (error) {
    const named = stored ?? heard
    if (named !== undefined && (named === stored || isManifestMediaType(named))) return named
    throw new OciError('MANIFEST_UNKNOWN', 'the digest is that of a blob, not of a manifest', { cause: error })
  }
}

function asError(reason: unknown): Error {
  if (reason instanceof DOMException && reason.name === 'TimeoutError') {
    return new UpstreamError('TIMEOUT', '', 'neither a peer nor the origin gave the manifest in time')
  }
  return reason instanceof Error ? reason : new Error(String(reason))
}
