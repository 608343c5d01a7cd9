// `shoal image save`: from a registry into a file that `shoal image load`, docker, podman, skopeo and ctr take.
import { formatReference } from '@shoal/oci'
import { stat } from 'node:fs/promises'
import { writeArchive } from '../../image-archive/write-archive.ts'
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
      await writeArchive(
        file,
        tree,
        source,
        names,
        platform ?? machinePlatform(),
        (blob, bytes) => {
          if (bytes === blob.size) display.done(blob, 'saved')
          else display.progress(blob, bytes)
        },
        signal,
      )
    } finally {
      display.close()
    }
    const { size } = await stat(file)
    output.out(`${showReference(name)} ${tree.root.descriptor.digest}\n${file}: ${showSize(size)}\n`)
  })
}
