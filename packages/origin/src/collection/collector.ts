// Garbage collection while the registry runs: finds what no repository needs and removes it once nobody has used it for
// the time of grace. From the outside in (manifests, links, content), so that a crash leaves garbage, never a gap.
import type { Digest } from '@shoal/oci'
import type { Logger } from 'pino'
import * as layout from '../layout.ts'
import type { ManifestLink } from '../manifest-links.ts'
import type { Place } from '../places.ts'
import { reachable, readInventories, readNeeds, topDown, type Inventory, type Needs } from './inventory.ts'

export interface CollectionOptions {
  /** Also removes manifests that no tag leads to, by an index or as a referrer of one that stays. */
  removeUntagged: boolean
  /** Counts what would go, and removes nothing. @default false */
  dryRun?: boolean
  logger: Logger
  signal: AbortSignal
  /** When the collection begins, in ms since the epoch. @default now */
  nowMs?: number
}

/** What was removed from one place, or would be. */
export interface CollectionReport {
  place: string
  /** Manifests that no tag led to. */
  manifests: number
  /** Blobs that a repository showed and none of its manifests needed. */
  links: number
  /** Contents that no repository showed. */
  blobs: number
  /** Of these contents. */
  bytes: number
  /** Repositories left alone, because a manifest of theirs cannot be read. */
  unreadable: string[]
}

/** Looks through one place. @throws the reason of the signal when it is aborted; what was removed by then is gone */
export async function collectPlace(place: Place, options: CollectionOptions): Promise<CollectionReport> {
  const usedBeforeMs = (options.nowMs ?? Date.now()) - place.retention.graceMs
  const report: CollectionReport = { place: place.name, manifests: 0, links: 0, blobs: 0, bytes: 0, unreadable: [] }
  const shown = new Set<Digest>()
  for (const [name, inventory] of await readInventories(place.driver, options.signal)) {
    for (const digest of await clearRepository({ place, name, inventory, usedBeforeMs, report, options })) {
      shown.add(digest)
    }
  }
  await clearContent(place, shown, usedBeforeMs, report, options)
  return report
}

interface Work {
  place: Place
  name: string
  inventory: Inventory
  usedBeforeMs: number
  report: CollectionReport
  options: CollectionOptions
}

/** Gives back what the repository still shows. */
async function clearRepository(work: Work): Promise<Set<Digest>> {
  const { place, name, inventory, report, options } = work
  const needs = await readNeeds(place, name, inventory.manifests.keys(), options.signal)
  const unreadable = [...needs.values()].includes(undefined)
  if (unreadable) {
    report.unreadable.push(name)
    options.logger.warn({ repository: name }, 'a manifest cannot be read: nothing of this repository is collected')
    return new Set([...inventory.manifests.keys(), ...inventory.blobs])
  }
  const manifests = options.removeUntagged ? await clearUntagged(work, needs) : new Set(needs.keys())
  const needed = neededBy([...manifests].map((digest) => needs.get(digest)))
  const shown = new Set<Digest>(manifests)
  const unlinked = new Set<Digest>()
  for (const digest of inventory.blobs) {
    options.signal.throwIfAborted()
    if (!needed.has(digest) && (await clear(work, layout.blobLinkPath(name, digest)))) unlinked.add(digest)
    else shown.add(digest)
  }
  for (const digest of neededBy(await readNewcomers(work, manifests, unlinked))) {
    if (!unlinked.delete(digest)) continue
    await place.retention.write(layout.blobLinkPath(name, digest), Buffer.from(digest))
    shown.add(digest)
  }
  report.links += unlinked.size
  // Written before the manifest that it is about: a crash may have left one without.
  for (const { subject, referrer } of inventory.referrals) {
    if (!manifests.has(referrer)) await clear(work, layout.referrerPath(name, subject, referrer))
  }
  return shown
}

/** An index may name blobs, too. */
function neededBy(needs: Iterable<Needs | undefined>): Set<Digest> {
  return new Set([...needs].flatMap((need) => (need ? [...need.blobs, ...need.children] : [])))
}

/**
 * Gives back the manifests that stay. An index goes before its children: pushes rely on what is there being whole, all the way
 * down.
 */
async function clearUntagged(work: Work, needs: ReadonlyMap<Digest, Needs | undefined>): Promise<Set<Digest>> {
  const { place, name, inventory, usedBeforeMs, report, options } = work
  const recent = [...inventory.manifests].flatMap(([digest, usedMs]) => (usedMs > usedBeforeMs ? [digest] : []))
  const tagged = await place.repositories.taggedDigests(name)
  const stay = reachable([...recent, ...tagged], needs)
  const removed = new Map<Digest, ManifestLink>()
  for (const digest of topDown(needs)) {
    options.signal.throwIfAborted()
    if (stay.has(digest)) continue
    if (options.dryRun) {
      report.manifests++
      continue
    }
    const link = await place.repositories.removeUnneeded(name, digest, usedBeforeMs)
    if (link) removed.set(digest, link)
    // Somebody has tagged it, or pushed it again, since: with it stays all that hangs on it.
    else for (const kept of reachable([digest], needs)) stay.add(kept)
  }
  for (const digest of reachable(neededBy(await readNewcomers(work, stay, removed)), needs)) {
    const link = removed.get(digest)
    if (link) await place.repositories.restoreManifest(name, digest, link)
    removed.delete(digest)
    stay.add(digest)
  }
  report.manifests += removed.size
  return stay
}

/**
 * What manifests need that are there beside those that `stay`. Another process may have pushed them before it could see that
 * something was `removed`; whoever comes later looks once more, and does.
 */
async function readNewcomers(
  { place, name, options }: Work,
  stay: ReadonlySet<Digest>,
  removed: { readonly size: number },
): Promise<Iterable<Needs | undefined>> {
  if (removed.size === 0 || options.dryRun) return []
  const digests = await place.repositories.manifestDigests(name)
  const newcomers = digests.filter((digest) => !stay.has(digest))
  return (await readNeeds(place, name, newcomers, options.signal)).values()
}

/** True if nobody has used it for the time of grace: it is gone, or would be. */
async function clear({ place, usedBeforeMs, options }: Work, path: string): Promise<boolean> {
  if (!options.dryRun) return place.retention.removeUnused(path, usedBeforeMs)
  const found = await place.driver.stat(path)
  return found !== undefined && found.modifiedMs <= usedBeforeMs
}

async function clearContent(
  { driver, retention }: Place,
  shown: ReadonlySet<Digest>,
  usedBeforeMs: number,
  report: CollectionReport,
  { dryRun = false, signal }: CollectionOptions,
): Promise<void> {
  for await (const { path, sizeBytes, modifiedMs } of driver.walk(layout.contentFolder())) {
    signal.throwIfAborted()
    const digest = layout.digestOfFileName(path.slice(path.lastIndexOf('/') + 1))
    if (digest === undefined || shown.has(digest) || modifiedMs > usedBeforeMs) continue
    // What was linked since the look at the repositories was used since, and stays.
    if (!dryRun && !(await retention.removeUnused(path, usedBeforeMs))) continue
    report.blobs++
    report.bytes += sizeBytes
  }
  for await (const { path, modifiedMs } of driver.walk(layout.chunkFolder())) {
    signal.throwIfAborted()
    const digest = layout.digestOfFileName(path.slice(path.lastIndexOf('/') + 1))
    if (dryRun || digest === undefined || shown.has(digest) || modifiedMs > usedBeforeMs) continue
    if (!(await driver.stat(layout.blobPath(digest)))) await retention.removeUnused(path, usedBeforeMs)
  }
}
