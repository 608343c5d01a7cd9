// An image of this registry, to be read as those of archives and other registries are.
import type { Descriptor, Digest } from '@shoal/oci'
import { OciError, parseDescriptor } from '@shoal/oci'
import { readTree, type ImageSource, type ImageTree } from '../images/index.ts'
import { blobPath } from '../layout.ts'
import type { Place } from '../places.ts'

/** Of one manifest; each push of a referrer is copied by itself as well. */
const MAX_REFERRERS = 1_000

export interface LocalImage {
  source: ImageSource
  tree: ImageTree
  /** Signatures and the like of the image and its parts. */
  referrers: ImageTree[]
}

/** Digest and type of what a tag or digest is now; undefined when it is gone. */
export async function lookUp(place: Place, repository: string, reference: string): Promise<Descriptor | undefined> {
  try {
    const { mediaType, digest, sizeBytes } = await place.repositories.manifest(repository, reference)
    return { mediaType, digest, size: sizeBytes }
  } catch (error) {
    if (error instanceof OciError && error.code === 'MANIFEST_UNKNOWN') return undefined
    throw error
  }
}

/** @throws ImageError, OciError(MANIFEST_UNKNOWN) when a part is missing here that may not be */
export async function openLocalImage(
  place: Place,
  repository: string,
  root: Descriptor,
  signal: AbortSignal,
): Promise<LocalImage> {
  const { repositories, driver } = place
  const source: ImageSource = {
    name: repository,
    kindOf: async ({ digest }) => {
      if (await repositories.manifestLink(repository, digest)) return 'manifest'
      if ((await repositories.blobSize(repository, digest)) !== undefined) return 'blob'
      // Whether an index without it will do is for the other registry to say.
      return repositories.allowSparseIndexes ? 'absent' : 'manifest'
    },
    manifest: async ({ digest }) => (await repositories.manifest(repository, digest)).bytes,
    open: ({ digest, size }, start) => driver.openRead(blobPath(digest), start, size - 1),
  }
  const tree = await readTree(source, root, undefined, signal)
  const found = new Map<Digest, Descriptor>()
  for (const { descriptor } of tree.manifests) {
    let read = 0
    for await (const { entry } of repositories.referrers(repository, descriptor.digest)) {
      if (read++ === MAX_REFERRERS) break
      // Without its annotations, which may have MiB.
      const { mediaType, digest, size } = parseDescriptor(entry)
      found.set(digest, { mediaType, digest, size })
    }
  }
  const referrers: ImageTree[] = []
  for (const referrer of found.values()) referrers.push(await readTree(source, referrer, undefined, signal))
  return { source, tree, referrers }
}
