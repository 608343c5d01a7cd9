// What the client of registries promises to the rooms that write into one.
import type { Readable } from 'node:stream'
import type { Digest } from '@shoal/oci'
import type { RepositoryTarget, RequestOptions } from './upstream.ts'

/** A blob to upload, which can be read from anywhere, because connections break. */
export interface BlobSource {
  digest: Digest
  sizeBytes: number
  /**
   * The bytes from `start` to the end. Called once for each connection, one at a time; what it gives is destroyed when
   * it is no longer needed. An UpstreamError that is an outage, of this or of the stream, is tried again from where
   * the upload stands.
   */
  open(start: number): Readable | Promise<Readable>
}

export interface UploadOptions extends RequestOptions {
  /** Repository of the same registry that may have the blob already. @default none */
  mountFrom?: string
  /** Uploads in pieces of this size, for registries or proxies that limit a request. @default all in one request */
  chunkSizeBytes?: number
  /** Opened for this blob before, and to be used once. Whether the repository has the blob is then not asked. */
  upload?: OpenUpload
  /** Told how many bytes of the blob were handed over; goes back when a connection breaks. */
  onProgress?: (sentBytes: number) => void
}

/** An upload that the registry has opened. */
export interface OpenUpload {
  readonly location: URL
  readonly minChunkBytes: number
  /** Gives it up; never fails. */
  cancel(options: RequestOptions): Promise<void>
}

/** How a blob came to the registry: it was there, it was taken from another repository, or its bytes were sent. */
export type UploadOutcome = 'present' | 'mounted' | 'uploaded'

export interface ManifestToPut {
  /** Exactly these bytes. */
  bytes: Uint8Array
  mediaType: string
}

export interface PutManifest {
  digest: Digest
  /** The subject that the registry now lists this manifest under; undefined also where it has no referrers API. */
  subject?: Digest
}

/** The half of the client that people's commands need beside {@link Upstream}. Every method throws UpstreamError, or the signal's reason. */
export interface Push {
  /** The size of a blob, or undefined when the repository does not have it. */
  findBlob(target: RepositoryTarget, digest: Digest, options: RequestOptions): Promise<number | undefined>
  /**
   * Brings a blob into a repository unless it is there. The bytes are checked against the digest before the registry
   * is asked to keep them.
   * @throws BlobSourceError when the source fails or its bytes are not what the digest says
   */
  uploadBlob(target: RepositoryTarget, source: BlobSource, options: UploadOptions): Promise<UploadOutcome>
  /** Opens an upload for a blob that is not known yet. */
  openUpload(target: RepositoryTarget, options: RequestOptions): Promise<OpenUpload>
  /** Has a blob of another repository of the same registry made visible in this one. False: it has to be uploaded. */
  mountBlob(target: RepositoryTarget, digest: Digest, from: string, options: RequestOptions): Promise<boolean>
  /** Puts a manifest under its digest, or under tags, one after the other. What it names must be there. */
  putManifest(
    target: RepositoryTarget,
    manifest: ManifestToPut,
    tags: readonly string[],
    options: RequestOptions,
  ): Promise<PutManifest>
  /** The names of all repositories, as far as the registry lists them. */
  listRepositories(registry: string, options: RequestOptions): Promise<string[]>
  /** Deletes a tag, or a manifest with all its tags. False when it was not there. */
  deleteManifest(target: RepositoryTarget, reference: string, options: RequestOptions): Promise<boolean>
  /** Deletes a blob from a repository. False when it was not there. */
  deleteBlob(target: RepositoryTarget, digest: Digest, options: RequestOptions): Promise<boolean>
}

/** What was to be uploaded cannot be read, or is something else than its digest says. Nothing was kept. */
export class BlobSourceError extends Error {
  override readonly name = 'BlobSourceError'
  readonly code = 'ERR_SHOAL_BLOB_SOURCE'
  readonly digest: Digest

  constructor(digest: Digest, reason: string, options?: { cause?: unknown }) {
    super(`the blob ${digest} cannot be uploaded: ${reason}`, options)
    this.digest = digest
  }
}
