// What each repository shows: which blobs and manifests, under which tags, and what refers to what. Every fact is one
// small object that is there or not, written in an order that never shows more than is complete.
import { digestAlgorithm, digestOf, parseManifest, type Descriptor, type Digest, type Manifest } from '@shoal/oci'
import { blobsOf, childrenOf, InvalidManifestError, isDigest, isForeignLayer, isManifestMediaType } from '@shoal/oci'
import { isTag, OciError } from '@shoal/oci'
import { LRUCache } from 'lru-cache'
import { KeyedLock } from '@shoal/store'
import { contentGone } from './blob-steps.ts'
import { Retention } from './collection/retention.ts'
import * as layout from './layout.ts'
import type { Charge } from './quotas.ts'
import { RepositoryNames } from './repository-names.ts'
import type { ObjectStat, StorageDriver } from './storage/driver.ts'
import { REQUESTS_AT_ONCE, sideBySide } from './storage/side-by-side.ts'

/** What is stored of a manifest beside its bytes. */
export interface ManifestLink {
  mediaType: string
  sizeBytes: number
  subject?: Digest
  /** Milliseconds since the epoch. */
  pushedMs: number
}

export interface StoredManifest {
  digest: Digest
  mediaType: string
  sizeBytes: number
  bytes: Buffer
}

export interface Referrer {
  /** A descriptor, as it stands in the answer of the referrers API. */
  entry: { digest: Digest; artifactType?: string }
  /** Of its JSON. */
  sizeBytes: number
}

interface TagFile {
  digest: Digest
}

/** An object without which a manifest is not whole, and what it is of. */
interface ReliedOn {
  path: string
  digest: Digest
}

/** Bytes of manifests that are kept in memory: they never change. */
const MANIFEST_CACHE_BYTES = 64 * 1024 * 1024

export interface RepositoriesOptions {
  driver: StorageDriver
  /** Takes indexes of which some children are not here. @default false */
  allowSparseIndexes?: boolean
  /** Shared with garbage collection. @default one of its own */
  retention?: Retention
}

export class Repositories {
  /** Whether children of an index may be absent. */
  readonly allowSparseIndexes: boolean
  readonly #driver: StorageDriver
  readonly #retention: Retention
  readonly #manifestBytes = new LRUCache<Digest, Buffer>({
    maxSize: MANIFEST_CACHE_BYTES,
    sizeCalculation: (bytes) => Math.max(1, bytes.length),
  })
  /** What adds and removes manifests and links of one repository must not overlap. */
  readonly #lock = new KeyedLock<string>()
  readonly #names: RepositoryNames

  constructor(options: RepositoriesOptions) {
    this.#driver = options.driver
    this.allowSparseIndexes = options.allowSparseIndexes ?? false
    this.#retention = options.retention ?? new Retention(options.driver)
    this.#names = new RepositoryNames(options.driver, (name) => this.exists(name))
  }

  // Blobs

  /** Size of a blob that the repository shows. */
  async blobSize(name: string, digest: Digest): Promise<number | undefined> {
    const [link, blob] = await Promise.all([
      this.#driver.stat(layout.blobLinkPath(name, digest)),
      this.#driver.stat(layout.blobPath(digest)),
    ])
    return link && blob?.sizeBytes
  }

  /** As `blobSize`, for those who are about to name the blob in a manifest: garbage collection leaves it alone now. */
  async useBlob(name: string, digest: Digest): Promise<number | undefined> {
    const link = await this.#retention.use(layout.blobLinkPath(name, digest))
    return link && (await this.#retention.use(layout.blobPath(digest)))?.sizeBytes
  }

  /** False when the content is not there. */
  async linkBlob(name: string, digest: Digest): Promise<boolean> {
    if (!(await this.#retention.use(layout.blobPath(digest)))) return false
    await this.#retention.write(layout.blobLinkPath(name, digest), Buffer.from(digest))
    this.#names.note(name)
    return true
  }

  /** False when the repository does not show it. The content stays until garbage collection. */
  async unlinkBlob(name: string, digest: Digest): Promise<boolean> {
    const path = layout.blobLinkPath(name, digest)
    // Alone, as marking it as used may copy it onto itself: the copy would come back.
    return this.#lock.run(name, () => this.#retention.alone(path, () => this.#driver.remove(path)))
  }

  // Manifests

  /** @throws OciError(MANIFEST_UNKNOWN, NAME_UNKNOWN) */
  async manifest(name: string, reference: string): Promise<StoredManifest> {
    const digest = isDigest(reference) ? reference : await this.#digestOfTag(name, reference)
    const link = await this.manifestLink(name, digest)
    const bytes = link && (await this.#bytesOf(digest))
    if (!link || !bytes) throw unknownManifest(name, reference)
    return { digest, mediaType: link.mediaType, sizeBytes: link.sizeBytes, bytes }
  }

  /**
   * Stores a manifest when everything it names is here, and ties the tag that it came under, and `tags`, to it.
   * @throws OciError(MANIFEST_INVALID, MANIFEST_BLOB_UNKNOWN, DIGEST_INVALID, SIZE_INVALID; DENIED by `charge`);
   * OciError(BLOB_UPLOAD_INVALID) when another process has collected a part meanwhile
   */
  async putManifest(
    name: string,
    reference: string,
    bytes: Buffer,
    contentType: string | undefined,
    tags: readonly string[] = [],
    charge: Charge = () => Promise.resolve(),
  ): Promise<{ digest: Digest; mediaType: string; subject?: Digest }> {
    const wanted = isDigest(reference) ? reference : undefined
    const digest = digestOf(bytes, wanted && digestAlgorithm(wanted))
    if (wanted !== undefined && wanted !== digest) {
      throw new OciError('DIGEST_INVALID', `the manifest received has the digest ${digest}`, {
        detail: { expected: wanted, actual: digest },
      })
    }
    const manifest = readManifest(bytes, contentType)
    return this.#lock.run(name, async () => {
      const reliedOn = await this.#checkComplete(name, manifest)
      await charge(bytes.length, async () => (await this.manifestLink(name, digest)) !== undefined)
      const write = async (path: string, content: Buffer): Promise<void> => {
        await this.#retention.write(path, content)
        reliedOn.push({ path, digest })
      }
      await write(layout.blobPath(digest), bytes)
      const subject = manifest.subject?.digest
      if (subject !== undefined) {
        const entry = Buffer.from(JSON.stringify(referrerEntry(manifest, digest, bytes.length)))
        await write(layout.referrerPath(name, subject, digest), entry)
      }
      const link: ManifestLink = {
        mediaType: manifest.mediaType,
        sizeBytes: bytes.length,
        ...(subject === undefined ? {} : { subject }),
        pushedMs: Date.now(),
      }
      await this.#writeManifestLink(name, digest, link)
      // Another process that collects looks for new manifests once more after it has removed links, so that either it sees
      // this one and puts them back, or they are missed here.
      await this.#requireStillThere(reliedOn)
      const file: TagFile = { digest }
      for (const tag of wanted === undefined ? [reference, ...tags] : tags) {
        await this.#driver.write(layout.tagPath(name, tag), Buffer.from(JSON.stringify(file)))
      }
      // Another process may have deleted this manifest since: it looks for tags once more after it has, so that either
      // it sees the tags, or the link is missed here.
      if (this.#driver.isShared && !(await this.manifestLink(name, digest))) {
        await this.#writeManifestLink(name, digest, link)
      }
      this.#manifestBytes.set(digest, bytes)
      this.#names.note(name, true)
      const { mediaType } = manifest
      return subject === undefined ? { digest, mediaType } : { digest, mediaType, subject }
    })
  }

  /** Unties a tag; or removes a manifest with all its tags. @throws OciError(MANIFEST_UNKNOWN) */
  async deleteManifest(name: string, reference: string): Promise<void> {
    await this.#lock.run(name, async () => {
      if (!isDigest(reference)) {
        if (!(await this.#driver.remove(layout.tagPath(name, reference)))) throw unknownManifest(name, reference)
        return
      }
      const link = await this.manifestLink(name, reference)
      if (!link) throw unknownManifest(name, reference)
      // Tags first: none may point to what is no longer there.
      await this.#removeTagsOf(name, reference)
      await this.#driver.remove(layout.manifestLinkPath(name, reference))
      // Another process may have tied one meanwhile: see putManifest.
      if (this.#driver.isShared) await this.#removeTagsOf(name, reference)
      if (link.subject) await this.#driver.remove(layout.referrerPath(name, link.subject, reference))
      this.#names.note(name, await this.exists(name))
    })
  }

  /** Undefined when the repository does not show it. */
  async manifestLink(name: string, digest: Digest): Promise<ManifestLink | undefined> {
    const bytes = await this.#driver.read(layout.manifestLinkPath(name, digest))
    return bytes && (JSON.parse(bytes.toString()) as ManifestLink)
  }

  /** Of all tags. */
  async taggedDigests(name: string): Promise<Set<Digest>> {
    const files = await sideBySide(await this.#tagNames(name), (tag) => this.#tagFile(name, tag))
    return new Set(files.flatMap((file) => file?.digest ?? []))
  }

  /** Of all manifests that it shows. */
  async manifestDigests(name: string): Promise<Digest[]> {
    return this.#lock.run(name, async () => {
      const entries = await this.#driver.list(layout.manifestLinkFolder(name))
      this.#names.note(name, entries.length > 0)
      return entries.flatMap((entry) => layout.digestOfFileName(entry.name) ?? [])
    })
  }

  /**
   * For garbage collection: removes a manifest that nothing needed, unless it was pushed, tagged or used (as the child of an
   * index) since. Gives back its link, if it is gone; what it was a referrer of is left to clear, and `manifestDigests` to ask.
   * @param usedBeforeMs - since the epoch
   */
  async removeUnneeded(name: string, digest: Digest, usedBeforeMs: number): Promise<ManifestLink | undefined> {
    return this.#lock.run(name, async () => {
      const path = layout.manifestLinkPath(name, digest)
      const link = await this.manifestLink(name, digest)
      if (!link || !(await this.#retention.removeUnused(path, usedBeforeMs))) return undefined
      // Whoever pushes or tags it writes its content before its link: another process may have, since this one looked.
      const content = await this.#driver.stat(layout.blobPath(digest))
      if (content && content.modifiedMs > usedBeforeMs) {
        await this.#writeManifestLink(name, digest, link)
        return undefined
      }
      return link
    })
  }

  /** For garbage collection: takes a removal back, for something that needs the manifest and came meanwhile. */
  async restoreManifest(name: string, digest: Digest, link: ManifestLink): Promise<void> {
    await this.#lock.run(name, () => this.#writeManifestLink(name, digest, link))
    this.#names.note(name, true)
  }

  // Lists

  /** Whether anything can be pulled from it. */
  async exists(name: string): Promise<boolean> {
    return (await this.#driver.list(layout.manifestLinkFolder(name))).length > 0
  }

  /** In ASCII order. @throws OciError(NAME_UNKNOWN) */
  async tags(name: string): Promise<string[]> {
    const tags = await this.#tagNames(name)
    if (tags.length === 0 && !(await this.exists(name))) {
      throw new OciError('NAME_UNKNOWN', `there is no repository ${name}`)
    }
    return tags
  }

  /**
   * Entries of the referrers index of `subject`, which need not be here itself, in the order of their digests. Each may have
   * some MiB, so they are read one by one.
   */
  async *referrers(name: string, subject: Digest, after?: Digest): AsyncGenerator<Referrer> {
    for (const { name: file } of await this.#driver.list(layout.referrerFolder(name, subject))) {
      const digest = layout.digestOfFileName(file)
      if (digest === undefined || (after !== undefined && digest <= after)) continue
      if (!(await this.manifestLink(name, digest))) continue
      const bytes = await this.#driver.read(layout.referrerPath(name, subject, digest))
      if (bytes) yield { entry: JSON.parse(bytes.toString()) as Referrer['entry'], sizeBytes: bytes.length }
    }
  }

  /** Names of all repositories that show a manifest, in ASCII order. */
  async names(): Promise<string[]> {
    const known = await this.#names.known()
    return [...known].flatMap(([name, shown]) => (shown ? [name] : [])).sort()
  }

  /** A repository among those that `allowed` lets through that shows the blob; looks into `limit` of them. */
  async findBlob(digest: Digest, allowed: (name: string) => boolean, limit: number): Promise<string | undefined> {
    if (!(await this.#driver.stat(layout.blobPath(digest)))) return undefined
    const names = [...(await this.#names.known()).keys()].filter(allowed).slice(0, limit)
    for (let at = 0; at < names.length; at += REQUESTS_AT_ONCE) {
      const some = names.slice(at, at + REQUESTS_AT_ONCE)
      const links = await sideBySide(some, (name) => this.#driver.stat(layout.blobLinkPath(name, digest)))
      const found = links.findIndex((link) => link !== undefined)
      if (found !== -1) return some[found]
    }
    return undefined
  }

  async #tagNames(name: string): Promise<string[]> {
    const entries = await this.#driver.list(layout.tagFolder(name))
    return entries.map((entry) => entry.name).filter(isTag)
  }

  async #removeTagsOf(name: string, digest: Digest): Promise<void> {
    await sideBySide(await this.#tagNames(name), async (tag) => {
      if ((await this.#tagFile(name, tag))?.digest === digest) await this.#driver.remove(layout.tagPath(name, tag))
    })
  }

  #writeManifestLink(name: string, digest: Digest, link: ManifestLink): Promise<void> {
    return this.#driver.write(layout.manifestLinkPath(name, digest), Buffer.from(JSON.stringify(link)))
  }

  async #tagFile(name: string, tag: string): Promise<TagFile | undefined> {
    const bytes = await this.#driver.read(layout.tagPath(name, tag))
    return bytes && (JSON.parse(bytes.toString()) as TagFile)
  }

  async #digestOfTag(name: string, tag: string): Promise<Digest> {
    const file = await this.#tagFile(name, tag)
    if (!file) throw unknownManifest(name, tag)
    return file.digest
  }

  async #bytesOf(digest: Digest): Promise<Buffer | undefined> {
    const cached = this.#manifestBytes.get(digest)
    if (cached) return cached
    const bytes = await this.#driver.read(layout.blobPath(digest))
    if (bytes) this.#manifestBytes.set(digest, bytes)
    return bytes
  }

  /**
   * Blobs by their links, children of an index by their manifests, or as blobs where they are called something else (a cache of
   * BuildKit's is an index of layers); sizes must be those that are named. Gives back what another process may be about to
   * remove.
   */
  async #checkComplete(name: string, manifest: Manifest): Promise<ReliedOn[]> {
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
      const link = await this.manifestLink(name, digest)
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
      else if (!this.allowSparseIndexes) {
        throw missing(isManifestMediaType(mediaType) ? 'manifest' : 'blob', digest, name)
      }
    }
    return reliedOn
  }

  async #requireStillThere(reliedOn: ReliedOn[]): Promise<void> {
    await sideBySide(reliedOn, async ({ path, digest }) => {
      if (!(await this.#driver.stat(path))) throw contentGone(digest)
    })
  }
}

function readManifest(bytes: Buffer, contentType: string | undefined): Manifest {
  try {
    return parseManifest(bytes, contentType)
  } catch (error) {
    if (error instanceof InvalidManifestError) throw new OciError('MANIFEST_INVALID', error.message, { cause: error })
    throw error
  }
}

/** OCI distribution specification 1.1, "Listing Referrers": the artifact type falls back to that of the config. */
function referrerEntry(manifest: Manifest, digest: Digest, size: number): Record<string, unknown> {
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

function unknownManifest(name: string, reference: string): OciError {
  return new OciError('MANIFEST_UNKNOWN', `${name} has no manifest ${reference}`, { detail: { name, reference } })
}
