// The embedded registry behind the /v2/ API: reads and writes of the OCI distribution specification on a storage.
import type { Digest } from '@shoal/oci'
import { isDigest, MAX_MANIFEST_BYTES, OciError } from '@shoal/oci'
import type {
  BlobAnswer,
  CatalogPage,
  ChunkListAnswer,
  ManifestAnswer,
  PullBackend,
  PushBackend,
  ReferrersPage,
  RequestContext,
  TagPage,
  UploadPart,
  UploadState,
} from '@shoal/registry'
import { chunkSizeFor } from '@shoal/store'
import { contentGone, type BlobSteps } from './blob-steps.ts'
import { blobPath } from './layout.ts'
import type { Referrer } from './manifest-links.ts'
import type { RepositoryChange } from './notifications/event.ts'
import type { Places } from './places.ts'
import { NO_HOLD, Quotas, type Charge, type Hold } from './quotas.ts'

/** How many repositories are looked through for a blob that a client wants mounted from anywhere. */
const MAX_MOUNT_CANDIDATES = 1_000

/** Of one answer about referrers: clients read no larger index than a manifest may be. The rest is for what is around them. */
const REFERRERS_PAGE_BYTES = MAX_MANIFEST_BYTES - 1024 * 16
const REFERRERS_ON_PAGE = 1_000

export interface BackendOptions {
  /** @default no limits */
  quotas?: Quotas
  /** Called when the manifests or tags of a repository have changed; the client gets its answer when it is done. */
  onChange?: (change: RepositoryChange) => Promise<void>
}

export class OriginBackend implements PullBackend, PushBackend {
  readonly #places: Places
  readonly #quotas: Quotas
  readonly #onChange: (change: RepositoryChange) => Promise<void>

  constructor(places: Places, { quotas = Quotas.none(), onChange = () => Promise.resolve() }: BackendOptions = {}) {
    this.#places = places
    this.#quotas = quotas
    this.#onChange = onChange
  }

  async manifest(_context: RequestContext, name: string, reference: string): Promise<ManifestAnswer> {
    return { ...(await this.#places.of(name).repositories.manifest(name, reference)), source: 'origin' }
  }

  /** HEAD is how a client that pushes finds out what it need not send: what it is told stays for a while. */
  async blob(_context: RequestContext, name: string, digest: Digest, head: boolean): Promise<BlobAnswer> {
    const sizeBytes = await this.#sizeOf(name, digest, head)
    const { driver } = this.#places.of(name)
    const openFile = driver.openFile?.bind(driver)
    return {
      digest,
      sizeBytes,
      source: 'origin',
      open: (start, end) => driver.openRead(blobPath(digest), start, end),
      ...(openFile && { openFile: () => openFile(blobPath(digest)) }),
    }
  }

  async tags(_context: RequestContext, name: string, page: { limit?: number; after?: string }): Promise<TagPage> {
    const { entries, more } = pageOf(await this.#places.of(name).repositories.tags(name), page)
    return { tags: entries, more }
  }

  /** Only names that `visible` lets through are listed. */
  async catalog(
    _context: RequestContext,
    page: { limit?: number; after?: string },
    visible: (name: string) => boolean = () => true,
  ): Promise<CatalogPage> {
    const names = await this.#places.names()
    const { entries, more } = pageOf(names.filter(visible), page)
    return { repositories: entries, more }
  }

  async referrers(
    _context: RequestContext,
    name: string,
    digest: Digest,
    artifactType: string | undefined,
    after?: Digest,
  ): Promise<ReferrersPage> {
    const descriptors: Referrer['entry'][] = []
    const filtered = artifactType !== undefined
    let roomBytes = REFERRERS_PAGE_BYTES
    for await (const { entry, sizeBytes } of this.#places.of(name).repositories.referrers(name, digest, after)) {
      if (filtered && entry.artifactType !== artifactType) continue
      const last = descriptors.at(-1)?.digest
      roomBytes -= sizeBytes
      const isFull = roomBytes < 0 || descriptors.length === REFERRERS_ON_PAGE
      if (last !== undefined && isFull) return { descriptors, filtered, last }
      descriptors.push(entry)
    }
    return { descriptors, filtered }
  }

  async chunkList(_context: RequestContext, name: string, digest: Digest): Promise<ChunkListAnswer> {
    const sizeBytes = await this.#sizeOf(name, digest)
    const hashes = await this.#places.of(name).chunkLists.get(digest, sizeBytes)
    return { sizeBytes, chunkSizeBytes: chunkSizeFor(sizeBytes), hashes }
  }

  async startUpload(_context: RequestContext, name: string): Promise<UploadState> {
    await this.#quotas.requireRoom(name)
    return this.#places.of(name).uploads.start(name)
  }

  async uploadBlob(_context: RequestContext, name: string, digest: Digest, part: UploadPart): Promise<void> {
    const { uploads } = this.#places.of(name)
    await this.#quotas.requireRoom(name)
    await this.#quotas.charged(name, async (charge) => {
      const hold = await this.#hold(name, digest)
      await uploads.upload(name, digest, part, this.#steps(charge, name, digest), hold)
    })
  }

  /** Without `from`, any repository will do that `readable` lets through. Nothing is mounted from another place. */
  async mountBlob(
    _context: RequestContext,
    name: string,
    digest: Digest,
    from: string | undefined,
    readable: (name: string) => boolean = () => true,
  ): Promise<boolean> {
    const place = this.#places.of(name)
    const isHere = (other: string): boolean => this.#places.of(other) === place && readable(other)
    const source = from ?? (await place.repositories.findBlob(digest, isHere, MAX_MOUNT_CANDIDATES))
    if (source === undefined || !isHere(source)) return false
    const sizeBytes = await place.repositories.useBlob(source, digest)
    if (sizeBytes === undefined) return false
    await this.#quotas.charged(name, async (charge) => {
      const { admit, link } = this.#steps(charge, name, digest)
      await admit(sizeBytes)
      if (!(await link())) throw contentGone(digest)
    })
    return true
  }

  async uploadState(_context: RequestContext, name: string, id: string): Promise<UploadState> {
    return this.#places.of(name).uploads.state(name, id)
  }

  async appendUpload(_context: RequestContext, name: string, id: string, part: UploadPart): Promise<UploadState> {
    return this.#places.of(name).uploads.append(name, id, part, this.#quotas.hold(name))
  }

  async finishUpload(
    _context: RequestContext,
    name: string,
    id: string,
    digest: Digest,
    part: UploadPart | undefined,
  ): Promise<void> {
    const { uploads, repositories } = this.#places.of(name)
    try {
      await this.#quotas.charged(name, async (charge) => {
        const hold = await this.#hold(name, digest)
        await uploads.finish(name, id, digest, part, this.#steps(charge, name, digest), hold)
      })
    } catch (error) {
      // A client or proxy repeats the last request when it has not seen the answer: the first one may have ended the upload.
      const isOver = error instanceof OciError && error.code === 'BLOB_UPLOAD_UNKNOWN'
      if (!isOver || (await repositories.useBlob(name, digest)) === undefined) throw error
    }
  }

  async cancelUpload(_context: RequestContext, name: string, id: string): Promise<void> {
    await this.#places.of(name).uploads.cancel(name, id)
  }

  /** @param user - who has logged in */
  async putManifest(
    context: RequestContext,
    name: string,
    reference: string,
    bytes: Uint8Array,
    contentType: string | undefined,
    tags: readonly string[],
    user?: string,
  ): Promise<{ digest: Digest; subject?: Digest }> {
    const { repositories } = this.#places.of(name)
    const put = await this.#quotas.charged(name, (charge) =>
      repositories.putManifest(name, reference, Buffer.from(bytes), contentType, tags, charge),
    )
    const { digest, mediaType, subject } = put
    const tied = isDigest(reference) ? tags : [reference, ...tags]
    const sizeBytes = bytes.length
    await this.#onChange({ action: 'push', name, digest, mediaType, sizeBytes, tags: tied, context, user })
    return subject === undefined ? { digest } : { digest, subject }
  }

  /** @param user - who has logged in */
  async deleteManifest(context: RequestContext, name: string, reference: string, user?: string): Promise<void> {
    await this.#places.of(name).repositories.deleteManifest(name, reference)
    const what = isDigest(reference) ? { digest: reference, tags: [] } : { tags: [reference] }
    await this.#onChange({ action: 'delete', name, ...what, context, user })
  }

  async deleteBlob(_context: RequestContext, name: string, digest: Digest): Promise<void> {
    if (!(await this.#places.of(name).repositories.unlinkBlob(name, digest))) throw unknownBlob(name, digest)
  }

  /** What a repository shows already costs it nothing. */
  #steps(charge: Charge, name: string, digest: Digest): BlobSteps {
    const { repositories } = this.#places.of(name)
    const isThere = async (): Promise<boolean> => (await repositories.blobSize(name, digest)) !== undefined
    return { admit: (sizeBytes) => charge(sizeBytes, isThere), link: () => repositories.linkBlob(name, digest) }
  }

  /** The same for what is still coming in. */
  async #hold(name: string, digest: Digest): Promise<Hold> {
    const sizeBytes = await this.#places.of(name).repositories.blobSize(name, digest)
    return sizeBytes === undefined ? this.#quotas.hold(name) : NO_HOLD
  }

  async #sizeOf(name: string, digest: Digest, toKeep = false): Promise<number> {
    const { repositories } = this.#places.of(name)
    const sizeBytes = await (toKeep ? repositories.useBlob(name, digest) : repositories.blobSize(name, digest))
    if (sizeBytes === undefined) throw unknownBlob(name, digest)
    return sizeBytes
  }
}

function unknownBlob(name: string, digest: Digest): OciError {
  return new OciError('BLOB_UNKNOWN', `${name} has no blob ${digest}`, { detail: { digest } })
}

function pageOf(all: string[], page: { limit?: number; after?: string }): { entries: string[]; more: boolean } {
  const { limit = all.length, after } = page
  const from = after === undefined ? 0 : all.findIndex((entry) => entry > after)
  if (from === -1) return { entries: [], more: false }
  const entries = all.slice(from, from + limit)
  return { entries, more: limit > 0 && from + limit < all.length }
}
