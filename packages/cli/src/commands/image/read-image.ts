// An image for the commands: all of it, or what a platform needs of it, and what its configuration says.
import {
  digestAlgorithm,
  digestOf,
  formatPlatform,
  isPlatformFor,
  MEDIA_TYPE_DOCKER_CONFIG,
  MEDIA_TYPE_OCI_CONFIG,
  platformOfConfig,
  type Descriptor,
  type ImageManifest,
  type Platform,
} from '@shoal/oci'
import { ImageError, readTree, type ImageSource, type ImageTree, type TreeManifest } from '@shoal/origin/images'
import { MAX_JSON_BYTES, parseArchiveJson } from '../../image-archive/failure.ts'

const CONFIG_TYPES = [MEDIA_TYPE_OCI_CONFIG, MEDIA_TYPE_DOCKER_CONFIG]

/**
 * As `readTree`; and an image that is no index must be for the platform, as far as it says for which it is.
 * @throws ImageError when there is no image for the platform, or something is not what it is called
 */
export async function readImage(
  source: ImageSource,
  root: Descriptor,
  platform: Platform | undefined,
  signal: AbortSignal,
): Promise<ImageTree> {
  const tree = await readTree(source, root, platform, signal)
  // One that an index names was chosen by what the index says.
  if (platform !== undefined && tree.root.descriptor.digest === root.digest) {
    await checkPlatform(source, tree.root, platform, signal)
  }
  return tree
}

async function checkPlatform(
  source: ImageSource,
  { manifest }: TreeManifest,
  wanted: Platform,
  signal: AbortSignal,
): Promise<void> {
  if (manifest.kind !== 'image') return
  const actual = platformOfConfig(await readConfig(source, manifest, signal))
  if (actual === undefined || isPlatformFor(actual, wanted)) return
  throw new ImageError(`${source.name} is for ${formatPlatform(actual)} only, not for ${formatPlatform(wanted)}`)
}

/**
 * The configuration of an image; empty for an artifact, whose configuration may be of any kind and size.
 * @throws ImageError, ArchiveError when it is not what it is called
 */
export async function readConfig(
  source: ImageSource,
  { config }: ImageManifest,
  signal: AbortSignal,
): Promise<Record<string, unknown>> {
  if (!CONFIG_TYPES.includes(config.mediaType) || config.size > MAX_JSON_BYTES) return {}
  const pieces: Buffer[] = []
  let length = 0
  for await (const piece of (await source.open(config, 0, signal)) as AsyncIterable<Buffer>) {
    pieces.push(piece)
    length += piece.length
    if (length > config.size) break
  }
  const bytes = Buffer.concat(pieces)
  if (digestOf(bytes, digestAlgorithm(config.digest)) !== config.digest) {
    throw new ImageError(`${source.name} gave something else for ${config.digest}`)
  }
  const value = parseArchiveJson(source.name, config.digest, bytes)
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
}
