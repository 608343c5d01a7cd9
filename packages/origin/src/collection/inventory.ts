// What the repositories of a place show, read from the storage in one pass, and which of it is needed.
import { blobsOf, childrenOf, InvalidManifestError, isTag, parseManifest, type Digest } from '@shoal/oci'
import * as layout from '../layout.ts'
import type { StorageDriver } from '../storage/driver.ts'

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
interface Needs {
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

export async function readNeeds(
  driver: StorageDriver,
  manifests: Iterable<Digest>,
  signal: AbortSignal,
): Promise<Map<Digest, Needs | undefined>> {
  const needs = new Map<Digest, Needs | undefined>()
  for (const digest of manifests) {
    signal.throwIfAborted()
    const bytes = await driver.read(layout.blobPath(digest))
    needs.set(digest, bytes && needsOf(bytes))
  }
  return needs
}

function needsOf(bytes: Buffer): Needs | undefined {
  try {
    const manifest = parseManifest(bytes)
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
  const referrers = new Map<Digest, Digest[]>()
  for (const [digest, need] of needs) {
    if (need?.subject !== undefined) referrers.set(need.subject, [...(referrers.get(need.subject) ?? []), digest])
  }
  const found = new Set<Digest>()
  const open = [...roots]
  for (let digest = open.pop(); digest !== undefined; digest = open.pop()) {
    if (found.has(digest) || !needs.has(digest)) continue
    found.add(digest)
    open.push(...(needs.get(digest)?.children ?? []), ...(referrers.get(digest) ?? []))
  }
  return found
}
