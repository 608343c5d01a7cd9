// Where things lie in the folder of a store.
import { join } from 'node:path'
import { digestAlgorithm, digestHex, type Digest } from '@shoal/oci'

export class StoreLayout {
  readonly directory: string
  /** Whole blobs: `blobs/<algorithm>/<first two digits>/<hex>`. */
  readonly blobs: string
  /** Arriving blobs: `partial/<algorithm>/<hex>`, sparse, of their full size from the start. */
  readonly partial: string
  /** The level database. */
  readonly index: string

  constructor(directory: string) {
    this.directory = directory
    this.blobs = join(directory, 'blobs')
    this.partial = join(directory, 'partial')
    this.index = join(directory, 'index')
  }

  blobFolder(digest: Digest): string {
    return join(this.blobs, digestAlgorithm(digest), digestHex(digest).slice(0, 2))
  }

  blobFile(digest: Digest): string {
    return join(this.blobFolder(digest), digestHex(digest))
  }

  partialFile(digest: Digest): string {
    return join(this.partial, digestAlgorithm(digest), digestHex(digest))
  }

  /** A file that is written in one go before it is moved to its place; what a crash leaves of it is removed. */
  temporaryFile(digest: Digest): string {
    return join(this.partial, `put-${digestAlgorithm(digest)}-${digestHex(digest)}`)
  }
}
