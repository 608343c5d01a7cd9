// An image to be read, from a registry or from an archive, and everything that belongs to it.
import type { Readable } from 'node:stream'
import {
  blobsOf,
  childrenOf,
  digestAlgorithm,
  digestOf,
  formatPlatform,
  InvalidManifestError,
  isForeignLayer,
  isManifestMediaType,
  parseManifest,
  selectPlatform,
  type Descriptor,
  type Digest,
  type Manifest,
  type Platform,
} from '@shoal/oci'
import { ImageError } from './image-error.ts'

/** Indexes in indexes in indexes are somebody's joke. */
const MAX_DEPTH = 4
const MAX_MANIFESTS = 2000
const MAX_MANIFEST_BYTES_IN_ALL = 64 * 1024 * 1024

/** An index may name blobs as well, as a cache of BuildKit's does; and what the source need not have. */
export type ChildKind = 'manifest' | 'blob' | 'absent'

export interface ImageSource {
  /** What messages call it. */
  name: string
  /** Exact bytes of a manifest; the caller checks them. */
  manifest(descriptor: Descriptor, signal: AbortSignal): Promise<Uint8Array>
  /** What an index names there. @default by the media type that the index gives it */
  kindOf?(child: Descriptor): Promise<ChildKind>
  /** The bytes of a blob from `start` on. */
  open(descriptor: Descriptor, start: number, signal: AbortSignal): Promise<Readable>
}

/** A manifest with what it names. */
export interface TreeManifest {
  descriptor: Descriptor
  bytes: Uint8Array
  manifest: Manifest
  /** Config and layers, or blobs that an index names, each once, without layers that registries need not hold. */
  blobs: Descriptor[]
}

/** An image with all its parts. */
export interface ImageTree {
  root: TreeManifest
  /** What is named goes before who names it; the root is last. */
  manifests: TreeManifest[]
}

/**
 * Reads all manifests of an image, each checked against its digest and size. With a platform, only the image for it.
 * @throws ImageError when there is no image for the platform, or a manifest is not what it is called
 */
export async function readTree(
  source: ImageSource,
  root: Descriptor,
  platform: Platform | undefined,
  signal: AbortSignal,
): Promise<ImageTree> {
  const manifests = new Map<Digest, TreeManifest>()
  const kindOf = source.kindOf?.bind(source) ?? ((child) => Promise.resolve(kindByType(child)))
  let totalBytes = 0
  const read = async (descriptor: Descriptor): Promise<TreeManifest> => {
    const bytes = await source.manifest(descriptor, signal)
    totalBytes += bytes.length
    if (manifests.size >= MAX_MANIFESTS || totalBytes > MAX_MANIFEST_BYTES_IN_ALL) {
      throw new ImageError(`${source.name} has more manifests than any image needs`)
    }
    return parse(source, descriptor, bytes)
  }
  const walk = async (node: TreeManifest, depth: number): Promise<TreeManifest> => {
    if (node.manifest.kind === 'index') {
      if (depth >= MAX_DEPTH) throw new ImageError(`${source.name} has indexes nested more than ${MAX_DEPTH} deep`)
      for (const child of childrenOf(node.manifest)) {
        if (manifests.has(child.digest)) continue
        const kind = await kindOf(child)
        if (kind === 'manifest') await walk(await read(child), depth + 1)
        else if (kind === 'blob') node.blobs.push(child)
      }
    }
    manifests.set(node.descriptor.digest, node)
    return node
  }
  let top = await read(root)
  for (let depth = 0; platform !== undefined && top.manifest.kind === 'index' && depth < MAX_DEPTH; depth++) {
    const child = selectPlatform(top.manifest, platform)
    if (child === undefined) {
      const there = platformsOf(top.manifest).join(', ') || 'none'
      throw new ImageError(`${source.name} has no image for ${formatPlatform(platform)}; there are: ${there}`)
    }
    top = await read(child)
  }
  return { root: await walk(top, 0), manifests: [...manifests.values()] }
}

function kindByType({ mediaType }: Descriptor): ChildKind {
  return isManifestMediaType(mediaType) ? 'manifest' : 'blob'
}

/** The platforms of an index, in its order. */
export function platformsOf(manifest: Manifest): string[] {
  if (manifest.kind !== 'index') return []
  const known = manifest.manifests.flatMap(({ platform }) => (platform === undefined ? [] : [platform]))
  return known.map(formatPlatform).filter((name) => !name.startsWith('unknown/'))
}

function parse(source: ImageSource, descriptor: Descriptor, bytes: Uint8Array): TreeManifest {
  const { digest, size, mediaType } = descriptor
  const actual = digestOf(bytes, digestAlgorithm(digest))
  if (actual !== digest || bytes.length !== size) {
    const found = `${bytes.length} bytes with the digest ${actual}`
    throw new ImageError(`${source.name} has ${found} as ${digest}, which should have ${size} bytes`)
  }
  try {
    const manifest = parseManifest(bytes, mediaType)
    return { descriptor, bytes, manifest, blobs: blobsOf(manifest).filter((blob) => !isForeignLayer(blob)) }
  } catch (error) {
    if (!(error instanceof InvalidManifestError)) throw error
    throw new ImageError(`${source.name} has something as ${digest} that is no image: ${error.message}`)
  }
}
