// What a manifest that is pushed says, and whether all that it names is here: looked at before it is stored, and once more
// after, as another process may be collecting garbage.
import { blobsOf, childrenOf, InvalidManifestError, isForeignLayer, isManifestMediaType } from '@shoal/oci'
import { OciError, parseManifest, type Descriptor, type Digest, type Manifest } from '@shoal/oci'
import { contentGone } from './blob-steps.ts'
import type { Retention } from './collection/retention.ts'
import * as layout from './layout.ts'
import type { ManifestLinks } from './manifest-links.ts'
import type { ObjectStat, StorageDriver } from './storage/driver.ts'
import { sideBySide } from './storage/side-by-side.ts'

/** An object without which a manifest is not whole, and what it is of. */
export interface ReliedOn {
  path: string
  digest: Digest
}

export interface ManifestPartsOptions {
  driver: StorageDriver
  retention: Retention
  links: ManifestLinks
  /** Whether children of an index may be absent. */
  allowSparseIndexes: boolean
}

export class ManifestParts {
  readonly #driver: StorageDriver
  readonly #retention: Retention
  readonly #links: ManifestLinks
  readonly #allowSparseIndexes: boolean

  constructor(options: ManifestPartsOptions) {
    this.#driver = options.driver
    this.#retention = options.retention
    this.#links = options.links
    this.#allowSparseIndexes = options.allowSparseIndexes
  }

  /**
   * Blobs by their links, children of an index by their manifests, or as blobs where they are called something else (a cache of
   * BuildKit's is an index of layers); sizes must be those that are named. Gives back what another process may be about to
   * remove.
   * @throws OciError(MANIFEST_BLOB_UNKNOWN, SIZE_INVALID)
   */
  async checkComplete(name: string, manifest: Manifest): Promise<ReliedOn[]> {
    const reliedOn: ReliedOn[] = []
    const use = async (path: string, digest: Digest): Promise<ObjectStat | undefined> => {
      const found = await this.#retention.use(path)
      if (found && this.#retention.mayBeGoing(found)) reliedOn.push({ path, digest })
      return found
    }
    const useBlob = async (digest: Digest): Promise<number | undefined> => {
      const link = await use(layout.blobLinkPath(name, digest), digest)
      return link && (await use(layout.blobPath(digest), digest))?.sizeBytes
    }
    const useChild = async ({ digest, mediaType }: Descriptor): Promise<number | undefined> => {
      await use(layout.manifestLinkPath(name, digest), digest)
      const link = await this.#links.read(name, digest)
      return link || isManifestMediaType(mediaType) ? link?.sizeBytes : useBlob(digest)
    }
    const config = manifest.kind === 'image' ? manifest.config.digest : undefined
    const [blobs, children] = [blobsOf(manifest), childrenOf(manifest)]
    const blobSizes = await sideBySide(blobs, ({ digest }) => useBlob(digest))
    for (const [at, blob] of blobs.entries()) {
      const sizeBytes = blobSizes[at]
      if (sizeBytes !== undefined) checkSize(blob.digest, blob.size, sizeBytes)
      else if (!isForeignLayer(blob) || blob.digest === config) throw missing('blob', blob.digest, name)
    }
    const childSizes = await sideBySide(children, useChild)
    for (const [at, { digest, size, mediaType }] of children.entries()) {
      const sizeBytes = childSizes[at]
      if (sizeBytes !== undefined) checkSize(digest, size, sizeBytes)
      else if (!this.#allowSparseIndexes) {
        throw missing(isManifestMediaType(mediaType) ? 'manifest' : 'blob', digest, name)
      }
    }
    return reliedOn
  }

  /** @throws OciError(BLOB_UPLOAD_INVALID) when something has been removed meanwhile */
  async requireStillThere(reliedOn: ReliedOn[]): Promise<void> {
    await sideBySide(reliedOn, async ({ path, digest }) => {
      if (!(await this.#driver.stat(path))) throw contentGone(digest)
    })
  }
}

/** @throws OciError(MANIFEST_INVALID) */
export function readManifest(bytes: Buffer, contentType: string | undefined): Manifest {
  try {
    return parseManifest(bytes, contentType)
  } catch (error) {
    if (error instanceof InvalidManifestError) throw new OciError('MANIFEST_INVALID', error.message, { cause: error })
    throw error
  }
}

/** OCI distribution specification 1.1, "Listing Referrers": the artifact type falls back to that of the config. */
export function referrerEntry(manifest: Manifest, digest: Digest, size: number): Record<string, unknown> {
  const artifactType = manifest.artifactType ?? (manifest.kind === 'image' ? manifest.config.mediaType : undefined)
  return {
    mediaType: manifest.mediaType,
    digest,
    size,
    ...(artifactType === undefined ? {} : { artifactType }),
    ...(manifest.annotations === undefined ? {} : { annotations: manifest.annotations }),
  }
}

function checkSize(digest: Digest, named: number, actual: number): void {
  if (named === actual) return
  throw new OciError('SIZE_INVALID', `the manifest says that ${digest} has ${named} bytes, but it has ${actual}`)
}

function missing(what: 'blob' | 'manifest', digest: Digest, name: string): OciError {
  return new OciError('MANIFEST_BLOB_UNKNOWN', `the manifest names the ${what} ${digest}: push it to ${name} first`, {
    detail: { digest },
  })
}
