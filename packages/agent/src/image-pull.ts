// A whole image into the store of this node, with events on the way: what `shoal pull` shows.
import {
  blobsOf,
  formatPlatform,
  HostileJsonError,
  isForeignLayer,
  isPlatformFor,
  manifestReference,
  MAX_MANIFEST_BYTES,
  MAX_MANIFEST_DEPTH,
  MEDIA_TYPE_DOCKER_CONFIG,
  MEDIA_TYPE_OCI_CONFIG,
  OciError,
  parseBoundedJson,
  parseManifest,
  parsePlatform,
  parseReference,
  platformOfConfig,
  selectPlatform,
  type Digest,
  type ImageManifest,
  type Manifest,
  type Platform,
} from '@shoal/oci'
import { UpstreamError, type RepositoryTarget } from '@shoal/upstream'
import type { Content, ManifestContent } from './content.ts'
import { unlessAborted } from './aborting.ts'
import { toClientError } from './failures.ts'
import type { Requester } from './origin-sources.ts'
import type { TagResolver } from './tag-resolver.ts'

const PROGRESS_INTERVAL_MS = 200
/** Of images. Artifacts have configurations of any kind. */
const CONFIG_TYPES = [MEDIA_TYPE_OCI_CONFIG, MEDIA_TYPE_DOCKER_CONFIG]

/** What happens during a pull; one JSON object a line on the wire. */
export type PullEvent =
  | { event: 'manifest'; digest: Digest; mediaType: string; sizeBytes: number }
  | { event: 'layers'; layers: { digest: Digest; sizeBytes: number }[] }
  | {
      event: 'progress'
      digest: Digest
      receivedBytes: number
      sizeBytes: number
      fromPeersBytes: number
      fromOriginBytes: number
    }
  | { event: 'layer-done'; digest: Digest; source: string }
  | { event: 'done'; digest: Digest; durationMs: number }
  | { event: 'error'; code: string; message: string }

export interface ImagePullOptions {
  content: Content
  tags: TagResolver
  image: string
  /** `os/arch[/variant]` @default that of this machine */
  platform: string | undefined
  requestId: string
  signal: AbortSignal
  emit: (event: PullEvent) => void
}

/** An image that is in the store. */
export interface PulledImage {
  /** Of the manifest or index that the name stands for. */
  digest: Digest
  /** Of everything that makes it up for the platform: index, manifest, config, layers. */
  digests: Digest[]
}

/** Pulls an image. Ends with a `done` or an `error` event; then there is no image. Never throws. */
export async function pullImage(options: ImagePullOptions): Promise<PulledImage | undefined> {
  const startedMs = performance.now()
  try {
    const { registry, repository, ...rest } = parseReference(options.image)
    const target = { registry, repository }
    const reference = manifestReference({ ...rest, registry, repository })
    const pulled = await pullReference(options, target, reference)
    const durationMs = Math.round(performance.now() - startedMs)
    options.emit({ event: 'done', digest: pulled.digest, durationMs })
    return pulled
  } catch (error) {
    const { code, message } = error instanceof OciError ? error : toClientError(error, 'manifest')
    options.emit({ event: 'error', code, message })
    return undefined
  }
}

async function pullReference(
  options: ImagePullOptions,
  target: RepositoryTarget,
  reference: string,
): Promise<PulledImage> {
  const { content, tags, emit, signal } = options
  const requester: Requester = { requestId: options.requestId }
  const isTag = !reference.includes(':')
  const digest = isTag
    ? (await resolve(tags, content, target, reference, requester, signal)).digest
    : (reference as Digest)
  let found = await content.manifest(target, digest, requester, signal)
  let manifest = read(found)
  const alone = manifest.kind === 'image' ? manifest : undefined
  if (manifest.kind === 'index') {
    const wanted = options.platform === undefined ? machinePlatform() : parsePlatform(options.platform)
    const child = selectPlatform(manifest, wanted)
    if (child === undefined) {
      throw new OciError('MANIFEST_UNKNOWN', `the image has no variant for ${wanted.os}/${wanted.architecture}`)
    }
    found = await content.manifest(target, child.digest, requester, signal)
    manifest = read(found)
  }
  emit({ event: 'manifest', digest: found.digest, mediaType: found.mediaType, sizeBytes: found.sizeBytes })
  const layers = blobsOf(manifest).filter((layer) => !isForeignLayer(layer))
  emit({ event: 'layers', layers: layers.map(({ digest, size }) => ({ digest, sizeBytes: size })) })
  const unique = new Map(layers.map((layer) => [layer.digest, layer.size]))
  // When one layer fails the pull has failed: nobody waits for the others any more.
  const stop = new AbortController()
  const together = { ...options, signal: AbortSignal.any([signal, stop.signal]) }
  try {
    if (alone !== undefined && options.platform !== undefined) {
      // Before the other layers: an image for another platform costs no more than its configuration.
      await pullLayer(together, target, alone.config.digest, requester)
      await checkPlatform(together, target, alone, parsePlatform(options.platform), requester)
      unique.delete(alone.config.digest)
    }
    await Promise.all([...unique.keys()].map((layer) => pullLayer(together, target, layer, requester)))
  } finally {
    stop.abort()
  }
  return { digest, digests: [...new Set([digest, found.digest, ...layers.map((layer) => layer.digest)])] }
}

async function resolve(
  tags: TagResolver,
  content: Content,
  target: RepositoryTarget,
  tag: string,
  requester: Requester,
  signal: AbortSignal,
) {
  const resolved = await resolveOpenly(tags, target, tag, requester, signal)
  content.hear(resolved.digest, resolved.sizeBytes, resolved.mediaType)
  return resolved
}

/** Asks as everyone first: then what is public is known as such here, and served on while the origin is down. */
async function resolveOpenly(
  tags: TagResolver,
  target: RepositoryTarget,
  tag: string,
  requester: Requester,
  signal: AbortSignal,
) {
  try {
    return await tags.resolve(target, tag, { ...requester, anonymous: true }, signal)
  } catch (error) {
    if (!(error instanceof UpstreamError) || error.code === 'REFUSED_BY_POLICY') throw error
    return await tags.resolve(target, tag, requester, signal)
  }
}

function read(found: ManifestContent): Manifest {
  return parseManifest(found.bytes, found.mediaType)
}

async function pullLayer(
  options: ImagePullOptions,
  target: RepositoryTarget,
  digest: Digest,
  requester: Requester,
): Promise<void> {
  const { content, emit, signal } = options
  const blob = await content.blob(target, digest, requester, signal)
  const { download, sizeBytes } = blob
  if (download === undefined) {
    blob.release()
    if (blob.source !== 'store') {
      const message = 'the store of this node is full or failing, or is being given the layer with another size'
      throw new OciError('UNAVAILABLE', message)
    }
    emit({ event: 'layer-done', digest, source: blob.source })
    return
  }
  const tell = () => {
    const { receivedBytes, fromPeersBytes, fromOriginBytes } = download.progress()
    emit({ event: 'progress', digest, receivedBytes, sizeBytes, fromPeersBytes, fromOriginBytes })
  }
  const timer = setInterval(tell, PROGRESS_INTERVAL_MS)
  try {
    await unlessAborted(download.done, signal)
    tell()
    emit({ event: 'layer-done', digest, source: download.fromOriginBytes > 0 ? 'origin' : 'swarm' })
  } finally {
    clearInterval(timer)
    blob.release()
  }
}

/**
 * An image that is no index must be for the platform, as far as its configuration says for which it is.
 * @throws OciError(MANIFEST_UNKNOWN)
 */
async function checkPlatform(
  { content, signal }: ImagePullOptions,
  target: RepositoryTarget,
  { config }: ImageManifest,
  wanted: Platform,
  requester: Requester,
): Promise<void> {
  if (!CONFIG_TYPES.includes(config.mediaType) || config.size > MAX_MANIFEST_BYTES) return
  const blob = await content.blob(target, config.digest, requester, signal)
  const pieces: Buffer[] = []
  try {
    if (blob.sizeBytes > MAX_MANIFEST_BYTES) return
    for await (const piece of blob.open({ signal }) as AsyncIterable<Buffer>) pieces.push(piece)
  } finally {
    blob.release()
  }
  const actual = platformOfConfig(readConfig(Buffer.concat(pieces)))
  if (actual === undefined || isPlatformFor(actual, wanted)) return
  const message = `the image is for ${formatPlatform(actual)} only, not for ${formatPlatform(wanted)}`
  throw new OciError('MANIFEST_UNKNOWN', message)
}

/** What a configuration says; nothing where it cannot be read. */
function readConfig(bytes: Uint8Array): Record<string, unknown> {
  try {
    const limits = { maxBytes: MAX_MANIFEST_BYTES, maxDepth: MAX_MANIFEST_DEPTH }
    return (parseBoundedJson(bytes, limits) as Record<string, unknown> | null) ?? {}
  } catch (error) {
    if (error instanceof HostileJsonError) return {}
    throw error
  }
}

function machinePlatform(): Platform {
  const architecture = { x64: 'amd64', ia32: '386' }[process.arch as string] ?? process.arch
  return { os: 'linux', architecture }
}
