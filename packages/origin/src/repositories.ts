// What each repository shows: which blobs and manifests, under which tags, and what refers to what. Every fact is one
// small object that is there or not, written in an order that never shows more than is complete.
import { digestAlgorithm, digestOf, isDigest, OciError, type Digest } from '@shoal/oci'
import { LRUCache } from 'lru-cache'
import { KeyedLock } from '@shoal/store'
import { Retention } from './collection/retention.ts'
import * as layout from './layout.ts'
import { ManifestLinks, type ManifestLink, type Referrer } from './manifest-links.ts'
import { ManifestParts, readManifest, referrerEntry } from './manifest-parts.ts'
import type { Charge } from './quotas.ts'
import { RepositoryNames } from './repository-names.ts'
import type { StorageDriver } from './storage/driver.ts'
import { REQUESTS_AT_ONCE, sideBySide } from './storage/side-by-side.ts'

export interface StoredManifest {
  digest: Digest
  mediaType: string
  sizeBytes: number
  bytes: Buffer
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
  readonly #links: ManifestLinks
  readonly #parts: ManifestParts
  readonly #manifestBytes = new LRUCache<Digest, Buffer>({
    maxSize: MANIFEST_CACHE_BYTES,
    sizeCalculation: (bytes) => Math.max(1, bytes.length),
  })
  /** What adds and removes manifests and links of one repository must not overlap. */
  readonly #lock = new KeyedLock<string>()
  readonly #names: RepositoryNames

  constructor(options: RepositoriesOptions) {
    const { driver, allowSparseIndexes = false, retention = new Retention(driver) } = options
    this.allowSparseIndexes = allowSparseIndexes
    this.#driver = driver
    this.#retention = retention
    this.#links = new ManifestLinks(driver)
    this.#parts = new ManifestParts({ driver, retention, links: this.#links, allowSparseIndexes })
    this.#names = new RepositoryNames(driver, (name) => this.exists(name))
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
    const digest = isDigest(reference) ? reference : await this.#links.digestOfTag(name, reference)
    if (digest === undefined) throw unknownManifest(name, reference)
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
      const reliedOn = await this.#parts.checkComplete(name, manifest)
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
      await this.#links.write(name, digest, link)
      // Another process that collects looks for new manifests once more after it has removed links, so that either it sees
      // this one and puts them back, or they are missed here.
      await this.#parts.requireStillThere(reliedOn)
      for (const tag of wanted === undefined ? [reference, ...tags] : tags) {
        await this.#links.tie(name, tag, digest)
      }
      // Another process may have deleted this manifest since: it looks for tags once more after it has, so that either
      // it sees the tags, or the link is missed here.
      if (this.#driver.isShared && !(await this.manifestLink(name, digest))) {
        await this.#links.write(name, digest, link)
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
        if (!(await this.#links.untie(name, reference))) throw unknownManifest(name, reference)
        return
      }
      const link = await this.manifestLink(name, reference)
      if (!link) throw unknownManifest(name, reference)
      // Tags first: none may point to what is no longer there.
      await this.#links.untieAll(name, reference)
      await this.#driver.remove(layout.manifestLinkPath(name, reference))
      // Another process may have tied one meanwhile: see putManifest.
      if (this.#driver.isShared) await this.#links.untieAll(name, reference)
      if (link.subject) await this.#driver.remove(layout.referrerPath(name, link.subject, reference))
      this.#names.note(name, await this.exists(name))
    })
  }

  /** Undefined when the repository does not show it. */
  async manifestLink(name: string, digest: Digest): Promise<ManifestLink | undefined> {
    return this.#links.read(name, digest)
  }

  /** Of all tags. */
  async taggedDigests(name: string): Promise<Set<Digest>> {
    return this.#links.taggedDigests(name)
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
        await this.#links.write(name, digest, link)
        return undefined
      }
      return link
    })
  }

  /** For garbage collection: takes a removal back, for something that needs the manifest and came meanwhile. */
  async restoreManifest(name: string, digest: Digest, link: ManifestLink): Promise<void> {
    await this.#lock.run(name, () => this.#links.write(name, digest, link))
    this.#names.note(name, true)
  }

  // Lists

  /** Whether anything can be pulled from it. */
  async exists(name: string): Promise<boolean> {
    return (await this.#driver.list(layout.manifestLinkFolder(name))).length > 0
  }

  /** In ASCII order. @throws OciError(NAME_UNKNOWN) */
  async tags(name: string): Promise<string[]> {
    const tags = await this.#links.tags(name)
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
    yield* this.#links.referrers(name, subject, after)
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

  async #bytesOf(digest: Digest): Promise<Buffer | undefined> {
    const cached = this.#manifestBytes.get(digest)
    if (cached) return cached
    const bytes = await this.#driver.read(layout.blobPath(digest))
    if (bytes) this.#manifestBytes.set(digest, bytes)
    return bytes
  }
}

function unknownManifest(name: string, reference: string): OciError {
  return new OciError('MANIFEST_UNKNOWN', `${name} has no manifest ${reference}`, { detail: { name, reference } })
}
