// Writes an image as an OCI layout in a tar, with the manifest.json beside it that lets docker load it, too.
import { createWriteStream } from 'node:fs'
import { open, rename, rm } from 'node:fs/promises'
import { once } from 'node:events'
import { dirname } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import {
  createDigestHash,
  digestAlgorithm,
  digestHex,
  selectPlatform,
  type Descriptor,
  type Digest,
  type Platform,
} from '@shoal/oci'
import { pack, type Pack } from 'tar-stream'
import { CommandError } from '../exit-codes.ts'
import type { ImageSource, ImageTree, TreeManifest } from '@shoal/origin/images'

export interface SaveNames {
  /** Full reference, for containerd. */
  full: string
  /** As docker lists it: `registry/repository:tag`. */
  docker: string | undefined
  tag: string | undefined
}

/** What an archive is made of. */
export interface ImageToSave {
  tree: ImageTree
  source: ImageSource
  names: SaveNames
  /** For which docker's part of the archive is, where the image is an index. */
  machine: Platform
}

/** Told of each blob how much of it was written. */
export type OnBlobBytes = (blob: Descriptor, bytes: number) => void

/**
 * Writes the archive beside `file` and puts it in place when it is whole. The same image gives the same bytes.
 * @throws CommandError when a blob is not what its digest says, or the file cannot be written
 */
export async function writeArchive(
  file: string,
  image: ImageToSave,
  onBytes: OnBlobBytes,
  signal: AbortSignal,
): Promise<void> {
  const partial = `${file}.partial-${process.pid}`
  try {
    const destination = createWriteStream(partial, { flags: 'wx' })
    await streamArchive(destination, image, onBytes, signal)
    const handle = await open(partial, 'r+')
    await handle.sync().finally(() => handle.close())
    await rename(partial, file)
    const folder = await open(dirname(file), 'r')
    await folder.sync().finally(() => folder.close())
  } catch (error) {
    // Where no file could be, there is none to remove, and the reason is known.
    await rm(partial, { force: true }).catch(() => undefined)
    signal.throwIfAborted()
    const { code, message } = error as NodeJS.ErrnoException
    if (code !== undefined && /^E[A-Z]+$/.test(code)) throw new CommandError(`${file} cannot be written: ${message}`)
    throw error
  }
}

/**
 * Writes the archive as it comes: who reads it must look whether the command has failed.
 * @throws CommandError when a blob is not what its digest says
 */
export async function streamArchive(
  destination: Writable,
  image: ImageToSave,
  onBytes: OnBlobBytes,
  signal: AbortSignal,
): Promise<void> {
  const archive = pack()
  const writing = pipeline(archive, destination, { signal })
  // Whoever fails first says why. What fills the archive may be waiting for a registry, or for an entry whose error has
  // gone by already, so it is told as well.
  const broken = new AbortController()
  writing.catch((error: Error) => {
    archive.destroy(error)
    broken.abort(error)
  })
  try {
    await fill(archive, image, onBytes, AbortSignal.any([signal, broken.signal]))
    archive.finalize()
    await writing
  } catch (error) {
    const reason: unknown = broken.signal.aborted ? broken.signal.reason : error
    archive.destroy(reason as Error)
    await writing.catch(() => undefined)
    throw reason
  }
}

async function fill(archive: Pack, image: ImageToSave, onBytes: OnBlobBytes, signal: AbortSignal): Promise<void> {
  const { tree, source, names, machine } = image
  const written = new Set<Digest>()
  addBytes(archive, 'oci-layout', JSON.stringify({ imageLayoutVersion: '1.0.0' }))
  for (const { descriptor, bytes, blobs } of tree.manifests) {
    if (!written.has(descriptor.digest)) addBytes(archive, pathOf(descriptor), bytes)
    written.add(descriptor.digest)
    for (const blob of blobs) {
      if (written.has(blob.digest)) continue
      written.add(blob.digest)
      await addBlob(archive, blob, source, onBytes, signal)
    }
  }
  const annotations: Record<string, string> = { 'io.containerd.image.name': names.full }
  if (names.tag !== undefined) annotations['org.opencontainers.image.ref.name'] = names.tag
  const { mediaType, digest, size } = tree.root.descriptor
  const index = { schemaVersion: 2, manifests: [{ mediaType, digest, size, annotations }] }
  addBytes(archive, 'index.json', JSON.stringify(index))
  const chosen = imageFor(tree, machine)
  // An image for other machines only cannot be loaded by docker here; everybody else takes the layout.
  if (chosen?.manifest.kind !== 'image') return
  const docker = {
    Config: pathOf(chosen.manifest.config),
    RepoTags: names.docker === undefined ? null : [names.docker],
    Layers: chosen.manifest.layers.map(pathOf),
  }
  addBytes(archive, 'manifest.json', JSON.stringify([docker]))
}

function imageFor(tree: ImageTree, machine: Platform): TreeManifest | undefined {
  let node: TreeManifest | undefined = tree.root
  while (node?.manifest.kind === 'index') {
    const child = selectPlatform(node.manifest, machine)
    node = child && tree.manifests.find(({ descriptor }) => descriptor.digest === child.digest)
  }
  return node
}

function addBytes(archive: Pack, name: string, bytes: Uint8Array | string): void {
  quiet(archive.entry({ name, mode: 0o644, mtime: new Date(0) }, Buffer.from(bytes)))
}

/** Whoever gives the archive up says why; an entry that waits for its turn only repeats it. */
function quiet(entry: ReturnType<Pack['entry']>): ReturnType<Pack['entry']> {
  entry.on('error', () => undefined)
  return entry
}

async function addBlob(
  archive: Pack,
  blob: Descriptor,
  source: ImageSource,
  onBytes: OnBlobBytes,
  signal: AbortSignal,
): Promise<void> {
  const hash = createDigestHash(blob.digest)
  const entry = quiet(archive.entry({ name: pathOf(blob), size: blob.size, mode: 0o644, mtime: new Date(0) }))
  let bytes = 0
  const body: Readable = await source.open(blob, 0, signal)
  try {
    for await (const piece of body as AsyncIterable<Buffer>) {
      hash.update(piece)
      bytes += piece.length
      if (bytes > blob.size) break
      if (!entry.write(piece)) await once(entry, 'drain', { signal })
      onBytes(blob, bytes)
    }
  } finally {
    body.destroy()
  }
  const actual = hash.digest()
  if (bytes !== blob.size || actual !== blob.digest) {
    throw new CommandError(`${source.name} gave ${bytes} bytes with the digest ${actual} for ${blob.digest}`)
  }
  const finished = once(entry, 'finish', { signal })
  entry.end(undefined)
  await finished
}

function pathOf({ digest }: Descriptor): string {
  return `blobs/${digestAlgorithm(digest)}/${digestHex(digest)}`
}
