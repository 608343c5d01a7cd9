// What the /v2/ API asks of whoever has the content. The agent and the embedded origin each implement it.
import type { Readable } from 'node:stream'
import { OciError, type Digest } from '@shoal/oci'
import type { Logger } from 'pino'

/** What is known of one request. */
export interface RequestContext {
  readonly requestId: string
  /** Value of `?ns=`: the registry that a containerd client means. */
  readonly namespace: string | undefined
  /** The client's Authorization header, as it came. Never logged. */
  readonly authorization: string | undefined
  readonly userAgent: string | undefined
  /** Address that the request came from. */
  readonly remoteAddress?: string | undefined
  /** Scheme and host as the client wrote them, for absolute URLs in answers: `http://registry.example.com:9000`. */
  readonly endpoint?: string | undefined
  /** Aborted when the client has gone. */
  readonly signal: AbortSignal
  readonly log: Logger
}

/** Where the bytes of an answer come from; sent as `X-Shoal-Source`. */
export type ContentSource = 'store' | 'swarm' | 'origin'

export interface ManifestAnswer {
  digest: Digest
  mediaType: string
  sizeBytes: number
  /** The exact bytes; may be left out for HEAD. */
  bytes?: Uint8Array
  source?: ContentSource
  /** The tag could not be checked at the origin and may be out of date: adds `Warning: 110`. */
  stale?: boolean
}

/** A stream of a blob's bytes. One with `recycle` gets each piece back when it has left, and may fill it again. */
export interface BlobReadable extends Readable {
  recycle?(piece: Buffer): void
}

export interface BlobAnswer {
  digest: Digest
  sizeBytes: number
  mediaType?: string
  source?: ContentSource
  /** Opens the bytes from `start` to `end`, both inclusive. Not called for HEAD. Destroying the stream stops the work. */
  open(start: number, end: number): Promise<BlobReadable> | BlobReadable
  /**
   * Where all the bytes are at hand (a file), this is used instead of `open`: the bytes go through buffers that are used
   * again and again, which halves the cost. Not called for HEAD; closed when the answer is over.
   */
  openFile?(): Promise<BlobFile>
  /** What a failure is answered with that comes before the first byte. @default as it is */
  refusal?(error: unknown): Error
}

/** Random access to the bytes of a blob. */
export interface BlobFile {
  /** Fills `into` from `position`; returns how many bytes there were, at least one before the end. */
  read(position: number, into: Uint8Array): Promise<number>
  close(): Promise<void>
}

export interface TagPage {
  tags: string[]
  /** Whether there are more after the last one. */
  more: boolean
}

/**
 * Reading half. `name` is the repository as it stands in the path (it may begin with a registry host; the backend
 * knows what that means). Methods throw OciError for what they cannot give.
 */
export interface PullBackend {
  /** `GET /v2/`: throws OciError(UNAUTHORIZED) with a challenge when the client must log in first. */
  checkVersion?(context: RequestContext): Promise<void>
  manifest(context: RequestContext, name: string, reference: string, head: boolean): Promise<ManifestAnswer>
  blob(context: RequestContext, name: string, digest: Digest, head: boolean): Promise<BlobAnswer>
  tags(context: RequestContext, name: string, page: { limit?: number; after?: string }): Promise<TagPage>
  /**
   * Descriptors that refer to `digest`, in the order of their digests where they come in pages, from the first one after
   * `after`. A filter on artifact type that was applied is said in `filtered`, that there are more after this page in `last`.
   */
  referrers(
    context: RequestContext,
    name: string,
    digest: Digest,
    artifactType: string | undefined,
    after: Digest | undefined,
  ): Promise<ReferrersPage>
  /** Names of all repositories in order, for `GET /v2/_catalog`; left out where the backend cannot know them. */
  catalog?(context: RequestContext, page: { limit?: number; after?: string }): Promise<CatalogPage>
  /** Chunk hashes of a blob, for agents; left out where the backend has none. @throws OciError(BLOB_UNKNOWN) */
  chunkList?(context: RequestContext, name: string, digest: Digest): Promise<ChunkListAnswer>
}

export interface ReferrersPage {
  descriptors: unknown[]
  filtered: boolean
  /** The last one here, when there are more after it. */
  last?: Digest
}

export interface CatalogPage {
  repositories: string[]
  /** Whether there are more after the last one. */
  more: boolean
}

/** Answer to `GET /v2/<name>/_shoal/chunks/<digest>`. */
export interface ChunkListAnswer {
  sizeBytes: number
  chunkSizeBytes: number
  /** SHA-256 of every chunk, 32 bytes each, in order. */
  hashes: Uint8Array
}

/** How far an upload has come. */
export interface UploadState {
  /** Opaque name of the session: letters, digits, `-` and `_` only, as it becomes a part of the path. */
  id: string
  receivedBytes: number
}

/** A piece of an upload as the client announced it. */
export interface UploadPart {
  /** Its buffers belong to the backend, which may free them. */
  body: Readable
  /** First byte by `Content-Range`; undefined when the client just appends. */
  start: number | undefined
  /** Length of the body in bytes, if the client said it. A body that ends before is an error; what came is kept. */
  lengthBytes: number | undefined
}

/**
 * Writing half. Names, references and digests are well formed when they get here; whether they exist, and whether the
 * client may, is the backend's to say with an OciError. Bodies that a method does not read are discarded.
 */
export interface PushBackend {
  /**
   * Asked before anything of a body is read, which takes memory; left out where whoever reaches the endpoint may push.
   * Deletes are not asked about here. @throws OciError(UNAUTHORIZED, DENIED)
   */
  mayPush?(context: RequestContext, name: string): Promise<void>
  /** `POST uploads/`: opens a session. */
  startUpload(context: RequestContext, name: string): Promise<UploadState>
  /** The whole blob in one request (`POST uploads/?digest=`). @throws OciError(DIGEST_INVALID, SIZE_INVALID) */
  uploadBlob(context: RequestContext, name: string, digest: Digest, part: UploadPart): Promise<void>
  /** Makes a blob of `from` (or of any repository the client may read) visible in `name`; false: push it yourself. */
  mountBlob(context: RequestContext, name: string, digest: Digest, from: string | undefined): Promise<boolean>
  /** @throws OciError(BLOB_UPLOAD_UNKNOWN) */
  uploadState(context: RequestContext, name: string, id: string): Promise<UploadState>
  /**
   * Appends and returns the new state. Bytes that came before a connection broke stay, so that the client can resume.
   * @throws UploadRangeError when the part does not start where the upload stands
   */
  appendUpload(context: RequestContext, name: string, id: string, part: UploadPart): Promise<UploadState>
  /** Appends the last part, if there is one, checks the digest and makes the blob visible. */
  finishUpload(
    context: RequestContext,
    name: string,
    id: string,
    digest: Digest,
    part: UploadPart | undefined,
  ): Promise<void>
  cancelUpload(context: RequestContext, name: string, id: string): Promise<void>
  /**
   * Stores a manifest under a tag or its digest, and under further `tags`. `subject` is what the manifest says it
   * refers to.
   */
  putManifest(
    context: RequestContext,
    name: string,
    reference: string,
    bytes: Uint8Array,
    contentType: string | undefined,
    tags: readonly string[],
  ): Promise<{ digest: Digest; subject?: Digest }>
  /** A tag is untied; a digest takes the manifest and all its tags away. */
  deleteManifest(context: RequestContext, name: string, reference: string): Promise<void>
  deleteBlob(context: RequestContext, name: string, digest: Digest): Promise<void>
}

/** A part of an upload does not start where the upload stands: answered 416 with where it does. */
export class UploadRangeError extends OciError {
  readonly state: UploadState

  constructor(state: UploadState, message: string) {
    super('RANGE_INVALID', message)
    this.state = state
  }
}
