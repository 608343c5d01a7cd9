// The images of an archive: of an OCI layout, which current versions of docker write as well, or of the format that
// docker had before.
import { digestHex, digestAlgorithm, InvalidManifestError, parseDescriptor, type Descriptor } from '@shoal/oci'
import type { ImageSource } from '@shoal/origin/images'
import { readDockerSave } from './docker-save.ts'
import { openEntries, readEntry, type Entries } from './entries.ts'
import { ArchiveError, parseArchiveJson } from './failure.ts'

export interface ArchivedImage {
  root: Descriptor
  /** As people called it when it was saved; may be empty. */
  names: string[]
}

export interface ImageArchive extends ImageSource {
  images: ArchivedImage[]
  close(): Promise<void>
}

/** Annotations that hold a name: containerd's and docker's, the image specification's. */
const NAME_ANNOTATIONS = ['io.containerd.image.name', 'org.opencontainers.image.ref.name']

/**
 * Opens a docker archive, or an OCI layout in a tar, a compressed tar or a folder. Takes one pass over a tar.
 * @throws ArchiveError
 */
export async function openArchive(path: string, signal: AbortSignal): Promise<ImageArchive> {
  const entries = await openEntries(path, signal)
  try {
    if ((await entries.find('index.json')) !== undefined) return await openLayout(entries)
    if ((await entries.find('manifest.json')) !== undefined) return await readDockerSave(entries, signal)
    throw new ArchiveError(path, 'it has neither index.json (OCI layout) nor manifest.json (docker save)')
  } catch (error) {
    await entries.close()
    throw error
  }
}

async function openLayout(entries: Entries): Promise<ImageArchive> {
  const { archive } = entries
  const index = parseArchiveJson(archive, 'index.json', await readEntry(entries, 'index.json'))
  const listed = (index as { manifests?: unknown } | null)?.manifests
  if (!Array.isArray(listed) || listed.length === 0) throw new ArchiveError(archive, 'its index.json names no image')
  const images = new Map<string, ArchivedImage>()
  for (const one of listed as unknown[]) {
    const { annotations, ...root } = descriptorOf(archive, one)
    const names = NAME_ANNOTATIONS.flatMap((name) => annotations?.[name] ?? [])
    const known = images.get(root.digest)
    images.set(root.digest, { root, names: [...new Set([...(known?.names ?? []), ...names])] })
  }
  return {
    name: archive,
    images: [...images.values()],
    manifest: async (descriptor) => await readEntry(entries, await locate(entries, descriptor)),
    open: async (descriptor, start) => await entries.open(await locate(entries, descriptor), start),
    close: () => entries.close(),
  }
}

function descriptorOf(archive: string, value: unknown): Descriptor {
  try {
    return parseDescriptor(value)
  } catch (error) {
    if (!(error instanceof InvalidManifestError)) throw error
    throw new ArchiveError(archive, `its index.json is malformed: ${error.message}`, { cause: error })
  }
}

/** Where a content is in the layout, with what can be said of it before it is read. */
async function locate(entries: Entries, { digest, size }: Descriptor): Promise<string> {
  const name = `blobs/${digestAlgorithm(digest)}/${digestHex(digest)}`
  const entry = await entries.find(name)
  if (entry === undefined) {
    const advice = 'save it again, or choose a platform that is there with --platform'
    throw new ArchiveError(entries.archive, `${digest} is missing; the image is not complete: ${advice}`)
  }
  if (entry.sizeBytes !== size) {
    throw new ArchiveError(entries.archive, `${digest} has ${entry.sizeBytes} bytes instead of ${size}`)
  }
  if (entry.sha256 !== undefined && digestAlgorithm(digest) === 'sha256' && entry.sha256 !== digestHex(digest)) {
    throw new ArchiveError(entries.archive, `the content of ${digest} has the digest sha256:${entry.sha256}`)
  }
  return name
}
