// What repositories say of themselves, for those who search: the annotation or label that image builders write
// (org.opencontainers.image.description, OCI image specification, "Annotations"). Read from the newest tag when first asked
// for, so nothing has to be kept beside the images.
import { entryLimit, type Digest } from '@shoal/oci'
import { LRUCache } from 'lru-cache'
import { blobPath } from './layout.ts'
import type { Place, Places } from './places.ts'

const KEYS = ['org.opencontainers.image.description', 'org.opencontainers.image.title']
/** What other processes push to the same bucket is seen after so long; what this one takes, at once. */
const FRESH_MS = 60_000
const REMEMBERED = 50_000
/** Configurations are small; a larger one is not looked at. */
const MAX_CONFIG_BYTES = 1024 * 1024
const MAX_DESCRIPTION_CHARACTERS = 500
const AT_ONCE = 16

interface ReadManifest {
  annotations?: Record<string, unknown>
  config?: { digest?: Digest; size?: number }
  manifests?: { digest?: Digest }[]
}

export class Descriptions {
  readonly #places: Places
  readonly #known = new LRUCache<string, string>({ ...entryLimit(REMEMBERED), ttl: FRESH_MS })

  constructor(places: Places) {
    this.#places = places
  }

  /** The repository has changed. */
  forget(name: string): void {
    this.#known.delete(name)
  }

  /** Descriptions in the order of the names; empty for a repository that has none or cannot be read. */
  async of(names: readonly string[]): Promise<string[]> {
    const found = new Array<string>(names.length).fill('')
    let next = 0
    const worker = async (): Promise<void> => {
      for (let at = next++; at < names.length; at = next++) found[at] = await this.#one(names[at]!)
    }
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, names.length) }, worker))
    return found
  }

  async #one(name: string): Promise<string> {
    const known = this.#known.get(name)
    if (known !== undefined) return known
    // A search shows what can be read; what is broken tells itself when it is pulled.
    const text = await this.#read(name).catch(() => '')
    this.#known.set(name, text)
    return text
  }

  async #read(name: string): Promise<string> {
    const place = this.#places.of(name)
    const tags = await place.repositories.tags(name)
    const tag = tags.includes('latest') ? 'latest' : tags.at(-1)
    if (tag === undefined) return ''
    const manifest = await readManifest(place, name, tag)
    const own = textIn(manifest.annotations)
    if (own !== '') return own
    const [child] = manifest.manifests ?? []
    const image = child?.digest === undefined ? manifest : await readManifest(place, name, child.digest)
    return textIn(image.annotations) || (await labelOf(place, image))
  }
}

async function readManifest({ repositories }: Place, name: string, reference: string): Promise<ReadManifest> {
  const { bytes } = await repositories.manifest(name, reference)
  return JSON.parse(bytes.toString()) as ReadManifest
}

/** What `LABEL` in a Dockerfile leaves in the configuration of the image. */
async function labelOf({ driver }: Place, { config }: ReadManifest): Promise<string> {
  const { digest, size } = config ?? {}
  if (digest === undefined || size === undefined || size > MAX_CONFIG_BYTES) return ''
  const pieces: Buffer[] = []
  for await (const piece of await driver.openRead(blobPath(digest), 0, size - 1)) pieces.push(piece as Buffer)
  const read = JSON.parse(Buffer.concat(pieces).toString()) as { config?: { Labels?: Record<string, unknown> } }
  return textIn(read.config?.Labels)
}

function textIn(annotations: Record<string, unknown> | null | undefined): string {
  const text = KEYS.map((key) => annotations?.[key]).find((value) => typeof value === 'string' && value !== '')
  return typeof text === 'string' ? text.replaceAll(/\s+/g, ' ').slice(0, MAX_DESCRIPTION_CHARACTERS) : ''
}
