// `shoal image save`: from a registry into a file that `shoal image load`, docker, podman, skopeo and ctr take.
import { formatReference, type Descriptor } from '@shoal/oci'
import { stat } from 'node:fs/promises'
import { streamArchive, writeArchive } from '../../image-archive/write-archive.ts'
import { UsageError } from '../../exit-codes.ts'
import { showSize } from '../../people.ts'
import type { Output } from '../../program.ts'
import { openRegistryImage } from '../../registry-image.ts'
import { readImage } from './read-image.ts'
import {
  machinePlatform,
  openDisplay,
  readPlatform,
  readReference,
  showReference,
  withRegistry,
  type ConnectionOptions,
} from './session.ts'

export interface SaveOptions extends ConnectionOptions {
  platform?: string
}

export async function saveCommand(
  reference: string,
  file: string,
  options: SaveOptions,
  output: Output,
): Promise<number> {
  const name = readReference(reference)
  const platform = readPlatform(options.platform)
  const isStreamed = file === '-'
  if (isStreamed && process.stdout.isTTY) {
    throw new UsageError('an archive is not for a terminal: name a file, or send the output elsewhere')
  }
  return await withRegistry([name.registry], options, async (registry, signal) => {
    const source = await openRegistryImage(registry, name, signal)
    const tree = await readImage(source, source.root, platform, signal)
    const display = openDisplay(output)
    const blobs = new Map(tree.manifests.flatMap((node) => node.blobs.map((blob) => [blob.digest, blob] as const)))
    for (const blob of blobs.values()) display.begin(blob)
    const { digest: _, ...tagged } = name
    const docker = name.tag === undefined ? undefined : formatReference(tagged)
    const names = { full: formatReference(name), docker, tag: name.tag }
    try {
      const image = { tree, source, names, machine: platform ?? machinePlatform() }
      const onBytes = (blob: Descriptor, bytes: number): void => {
        if (bytes === blob.size) display.done(blob, 'saved')
        else display.progress(blob, bytes)
      }
      if (isStreamed) await streamArchive(process.stdout, image, onBytes, signal)
      else await writeArchive(file, image, onBytes, signal)
    } finally {
      display.close()
    }
    const saved = `${showReference(name)} ${tree.root.descriptor.digest}\n`
    // Standard output has the archive.
    if (isStreamed) output.err(saved)
    else output.out(`${saved}${file}: ${showSize((await stat(file)).size)}\n`)
  })
}
