// The small objects by which a repository shows manifests: links, tags, and entries of referrers. In which order they are
// written and removed is up to whoever holds the lock of the repository: see Repositories.
import { isTag, type Digest } from '@shoal/oci'
import * as layout from './layout.ts'
import type { StorageDriver } from './storage/driver.ts'
import { sideBySide } from './storage/side-by-side.ts'

/** What is stored of a manifest beside its bytes. */
export interface ManifestLink {
  mediaType: string
  sizeBytes: number
  subject?: Digest
  /** Milliseconds since the epoch. */
  pushedMs: number
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

export class ManifestLinks {
  readonly #driver: StorageDriver

  constructor(driver: StorageDriver) {
    this.#driver = driver
  }

  /** Undefined when the repository does not show the manifest. */
  async read(name: string, digest: Digest): Promise<ManifestLink | undefined> {
    const bytes = await this.#driver.read(layout.manifestLinkPath(name, digest))
    return bytes && (JSON.parse(bytes.toString()) as ManifestLink)
  }

  write(name: string, digest: Digest, link: ManifestLink): Promise<void> {
    return this.#driver.write(layout.manifestLinkPath(name, digest), Buffer.from(JSON.stringify(link)))
  }

  /** Names of all tags, in ASCII order. */
  async tags(name: string): Promise<string[]> {
    const entries = await this.#driver.list(layout.tagFolder(name))
    return entries.map((entry) => entry.name).filter(isTag)
  }

  /** Undefined when there is no such tag. */
  async digestOfTag(name: string, tag: string): Promise<Digest | undefined> {
    const bytes = await this.#driver.read(layout.tagPath(name, tag))
    return bytes && (JSON.parse(bytes.toString()) as TagFile).digest
  }

  /** Of all tags. */
  async taggedDigests(name: string): Promise<Set<Digest>> {
    const digests = await sideBySide(await this.tags(name), (tag) => this.digestOfTag(name, tag))
    return new Set(digests.flatMap((digest) => digest ?? []))
  }

  async tie(name: string, tag: string, digest: Digest): Promise<void> {
    const file: TagFile = { digest }
    await this.#driver.write(layout.tagPath(name, tag), Buffer.from(JSON.stringify(file)))
  }

  /** False when there was no such tag. */
  untie(name: string, tag: string): Promise<boolean> {
    return this.#driver.remove(layout.tagPath(name, tag))
  }

  /** Unties all tags of a manifest. */
  async untieAll(name: string, digest: Digest): Promise<void> {
    await sideBySide(await this.tags(name), async (tag) => {
      if ((await this.digestOfTag(name, tag)) === digest) await this.untie(name, tag)
    })
  }

  /** Those that the repository shows, in the order of their digests: see Repositories. */
  async *referrers(name: string, subject: Digest, after?: Digest): AsyncGenerator<Referrer> {
    for (const { name: file } of await this.#driver.list(layout.referrerFolder(name, subject))) {
      const digest = layout.digestOfFileName(file)
      if (digest === undefined || (after !== undefined && digest <= after)) continue
      if (!(await this.read(name, digest))) continue
      const bytes = await this.#driver.read(layout.referrerPath(name, subject, digest))
      if (bytes) yield { entry: JSON.parse(bytes.toString()) as Referrer['entry'], sizeBytes: bytes.length }
    }
  }
}
