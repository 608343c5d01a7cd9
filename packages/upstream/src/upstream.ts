// What the client of origin registries promises to the rooms that use it.
import type { Readable } from 'node:stream'
import type { Digest } from '@shoal/oci'

/** A repository at an origin registry. */
export interface RepositoryTarget {
  /** Host and optional port, as in an image reference: `docker.io`, `registry.example.com:5000`. */
  registry: string
  /** `library/ubuntu` */
  repository: string
}

export interface RequestOptions {
  signal: AbortSignal
  /** The Authorization header of the client on whose behalf this is asked; overrides the configured credentials. */
  authorization?: string
  /** Asks as one who has no credentials at all: neither the configured login nor the client certificate is shown. */
  anonymous?: boolean
  /**
   * What is asked for is served to everyone: where the configured login is refused, or not found in time, it is asked for
   * without one.
   */
  forEveryone?: boolean
  /** Sent along as `X-Request-Id`. */
  requestId?: string
}

export interface ManifestHead {
  digest: Digest
  mediaType: string
  sizeBytes: number
}

export interface ManifestBody extends ManifestHead {
  /** Exact bytes; their digest was checked. */
  bytes: Uint8Array
}

/** The bytes of a blob, or of a part of it. */
export interface BlobBody {
  /** Position of the first byte that `body` gives. 0 when the origin ignored the Range. */
  start: number
  /** Size of the whole blob in bytes. */
  sizeBytes: number
  /** Whether the origin answered 206 to the Range that was asked. */
  partial: boolean
  /** Fails with UpstreamError on a stall, a cut or a wrong length. Destroying it frees the connection. */
  body: Readable
}

/** Hashes of the chunks of a blob, as Shoal's own origin offers them. */
export interface OriginChunkList {
  sizeBytes: number
  chunkSizeBytes: number
  /** 32 bytes for each chunk. */
  hashes: Uint8Array
}

export interface Upstream {
  /** Asks what a tag or digest is. @throws UpstreamError */
  headManifest(target: RepositoryTarget, reference: string, options: RequestOptions): Promise<ManifestHead>
  getManifest(target: RepositoryTarget, reference: string, options: RequestOptions): Promise<ManifestBody>
  headBlob(target: RepositoryTarget, digest: Digest, options: RequestOptions): Promise<{ sizeBytes: number }>
  /**
   * `range` is inclusive on both ends; without `end` it is open. `sizeBytes` counts where the origin does not say how long the
   * blob is, as with a chunked answer.
   * @throws UpstreamError
   */
  openBlob(
    target: RepositoryTarget,
    digest: Digest,
    range: { start: number; end?: number } | undefined,
    options: RequestOptions,
    sizeBytes?: number,
  ): Promise<BlobBody>
  listTags(
    target: RepositoryTarget,
    page: { limit?: number; after?: string },
    options: RequestOptions,
  ): Promise<{ tags: string[]; more: boolean }>
  listReferrers(
    target: RepositoryTarget,
    digest: Digest,
    artifactType: string | undefined,
    options: RequestOptions,
  ): Promise<{ descriptors: unknown[]; filtered: boolean }>
  /** The chunk list, where the origin is Shoal's; undefined elsewhere. */
  chunkList(target: RepositoryTarget, digest: Digest, options: RequestOptions): Promise<OriginChunkList | undefined>
  /** @throws UpstreamError(REFUSED_BY_POLICY) when the registry may not be asked */
  checkAllowed(registry: string): void
  /** Whether the operator has named this registry: it has settings, or a rule other than `*` allows it. */
  isNamed(registry: string): boolean
  /**
   * Asks the registry whether it takes a login, as `docker login` does. One that asks nobody for a login takes any.
   * @throws UpstreamError(UNAUTHORIZED, DENIED) when it does not
   */
  checkLogin(registry: string, options: RequestOptions): Promise<void>
  /** Requests under way at one host at most, in each of its two lanes: content and metadata. May change any time. */
  concurrency: number
  close(): Promise<void>
}

/** Why an origin did not give what was asked. */
export type UpstreamErrorCode =
  | 'UNAUTHORIZED' // 401; `challenge` has its WWW-Authenticate
  | 'DENIED' // 403
  | 'NOT_FOUND' // 404
  | 'RATE_LIMITED' // 429 after all retries; `retryAfterMs`
  | 'SERVER_ERROR' // 5xx after all retries
  | 'TIMEOUT' // connect, first byte or stall
  | 'UNREACHABLE' // DNS, refused, reset, TLS
  | 'PROTOCOL' // answer that breaks the specification: wrong digest, wrong length, no digest
  | 'REFUSED_BY_POLICY' // deny rule, link-local or metadata address, plain HTTP not configured

/** An origin did not give what was asked. */
export class UpstreamError extends Error {
  static override readonly name = 'UpstreamError'
  override readonly name = 'UpstreamError'
  readonly code: UpstreamErrorCode
  readonly registry: string
  readonly status: number | undefined
  readonly retryAfterMs: number | undefined
  readonly challenge: string | undefined
  /** Code of the OCI error in a body: empty where it has none, undefined where there was no body, as for HEAD. */
  readonly saidCode: string | undefined

  constructor(
    code: UpstreamErrorCode,
    registry: string,
    message: string,
    details: { status?: number; retryAfterMs?: number; challenge?: string; saidCode?: string; cause?: unknown } = {},
  ) {
    super(message, { cause: details.cause })
    this.code = code
    this.registry = registry
    this.status = details.status
    this.retryAfterMs = details.retryAfterMs
    this.challenge = details.challenge
    this.saidCode = details.saidCode
  }

  /** Whether another try, later or of another kind, may succeed: the origin as such is in trouble. */
  get isOutage(): boolean {
    return ['RATE_LIMITED', 'SERVER_ERROR', 'TIMEOUT', 'UNREACHABLE'].includes(this.code)
  }
}
