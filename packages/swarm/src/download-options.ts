// What a download is made with, and what it tells of itself.
import type { Digest } from '@shoal/oci'
import type { PartialBlob } from '@shoal/store'
import type { OriginSources } from './origin-sources.ts'

export interface DownloadOptions {
  partial: PartialBlob
  /** Content type to store it with, where it is known. */
  mediaType: string
  /** Who comes later adds to them. */
  origins: OriginSources
  /** Only other nodes say that the blob has this size: when the origin says otherwise, the download is over. */
  sizeIsHearsay: boolean
  /** Follows the pull through the logs of the nodes. */
  requestId: string
}

export interface DownloadProgress {
  digest: Digest
  sizeBytes: number
  receivedBytes: number
  fromPeersBytes: number
  fromOriginBytes: number
  neighbours: number
  state: 'active' | 'complete' | 'failed'
}
