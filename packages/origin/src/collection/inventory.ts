// What the repositories of a place show, read from the storage in one pass, and which of it is needed.
import { blobsOf, childrenOf, InvalidManifestError, isTag, parseManifest, type Digest } from '@shoal/oci'
import * as layout from '../layout.ts'
import type { Place } from '../places.ts'
import type { StorageDriver } from '../storage/driver.ts'
import { sideBySide } from '../storage/side-by-side.ts'

export interface Referral {
  subject: Digest
  referrer: Digest
}

/** All facts of one repository: what it names, and when each was used last (ms since the epoch). */
export interface Inventory {
  manifests: Map<Digest, number>
  blobs: Set<Digest>
  tags: string[]
  referrals: Referral[]
}

/** What a manifest needs; undefined when its bytes are not there or mean nothing, so that nobody can say. */
export interface Needs {
  /** Manifests for the most part; an index may name blobs as well. */
  children: Digest[]
  blobs: Digest[]
  subject: Digest | undefined
}

export async function readInventories(driver: StorageDriver, signal: AbortSignal): Promise<Map<string, Inventory>> {
  const all = new Map<string, Inventory>()
  for await (const { path, modifiedMs } of driver.walk(layout.repositoriesFolder())) {
    signal.throwIfAborted()
    const match = /^repositories\/(.+?)\/_(blobs|manifests|tags|referrers)\/(.+)$/.exec(path)
    const [, name, kind, rest = ''] = match ?? []
    if (name === undefined) continue
    let inventory = all.get(name)
    if (!inventory) all.set(name, (inventory = { manifests: new Map(), blobs: new Set(), tags: [], referrals: [] }))
    const digest = layout.digestOfFileName(rest.slice(rest.lastIndexOf('/') + 1))
    if (kind === 'tags') {
      if (isTag(rest)) inventory.tags.push(rest)
    } else if (digest === undefined) continue
    else if (kind === 'manifests') inventory.manifests.set(digest, modifiedMs)
    else if (kind === 'blobs') inventory.blobs.add(digest)
    else {
      const subject = layout.digestOfFileName(rest.slice(0, rest.indexOf('/')))
      if (subject !== undefined) inventory.referrals.push({ subject, referrer: digest })
    }
  }
  return all
}

/** What was deleted meanwhile is left out. */
export async function readNeeds(
  { driver, repositories }: Place,
  name: string,
  manifests: Iterable<Digest>,
  signal: AbortSignal,
): Promise<Map<Digest, Needs | undefined>> {
  const read = await sideBySide(manifests, async (digest) => {
    signal.throwIfAborted()
    const [link, bytes] = await Promise.all([
      repositories.manifestLink(name, digest),
      driver.read(layout.blobPath(digest)),
    ])
    return link && ([digest, bytes && needsOf(bytes, link.mediaType)] as const)
  })
  return new Map(read.filter((one) => one !== undefined))
}

/** @param mediaType - under which it was taken: alone the bytes may mean nothing, or something else */
function needsOf(bytes: Buffer, mediaType: string): Needs | undefined {
  try {
    const manifest = parseManifest(bytes, mediaType)
    return {
      children: childrenOf(manifest).map(({ digest }) => digest),
      blobs: blobsOf(manifest).map(({ digest }) => digest),
      subject: manifest.subject?.digest,
    }
  } catch (error) {
    if (error instanceof InvalidManifestError) return undefined
    throw error
  }
}

/** `roots`, all that indexes among them name, and all that refers to one of them (signatures, attestations). */
export function reachable(roots: Iterable<Digest>, needs: ReadonlyMap<Digest, Needs | undefined>): Set<Digest> {
  const hangingOn = dependents(needs)
  const found = new Set<Digest>()
  const open = [...roots]
  for (let digest = open.pop(); digest !== undefined; digest = open.pop()) {
    if (found.has(digest) || !needs.has(digest)) continue
    found.add(digest)
    open.push(...hangingOn(digest))
  }
  return found
}

/** All of `needs`, each before what hangs on it, as far as they do not hang on each other. */
export function topDown(needs: ReadonlyMap<Digest, Needs | undefined>): Digest[] {
  const hangingOn = dependents(needs)
  const above = new Map<Digest, number>()
  for (const digest of needs.keys()) {
    for (const one of hangingOn(digest)) above.set(one, (above.get(one) ?? 0) + 1)
  }
  const ordered = new Set<Digest>()
  const open = [...needs.keys()].filter((digest) => !above.has(digest))
  for (let digest = open.pop(); digest !== undefined; digest = open.pop()) {
    ordered.add(digest)
    for (const one of hangingOn(digest)) {
      const left = (above.get(one) ?? 0) - 1
      above.set(one, left)
      if (left === 0 && needs.has(one)) open.push(one)
    }
  }
  return [...new Set([...ordered, ...needs.keys()])]
}

/** The children of a manifest and those that refer to it. */
function dependents(needs: ReadonlyMap<Digest, Needs | undefined>): (digest: Digest) => Digest[] {
  const referrers = new Map<Digest, Digest[]>()
  for (const [digest, need] of needs) {
    if (need?.subject === undefined) continue
    const known = referrers.get(need.subject)
    if (known) known.push(digest)
    else referrers.set(need.subject, [digest])
  }
  return (digest) => [...(needs.get(digest)?.children ?? []), ...(referrers.get(digest) ?? [])]
}
