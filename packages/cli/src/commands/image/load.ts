// `shoal image load`: from an archive into a registry, without docker.
import { emptySum, pushImage } from '@shoal/origin/images'
import { CommandError, UsageError } from '../../exit-codes.ts'
import { openArchive, type ArchivedImage, type ImageArchive } from '../../image-archive/archive-images.ts'
import { plainText } from '../../people.ts'
import type { Output } from '../../program.ts'
import { readImage } from './read-image.ts'
import {
  openDisplay,
  readPlatform,
  readReference,
  showReference,
  withRegistry,
  type ConnectionOptions,
} from './session.ts'
import { showSum } from './show-sum.ts'

export interface LoadOptions extends ConnectionOptions {
  platform?: string
  /** Which image, of an archive that has several. */
  image?: string
  chunkSize?: number
}

export async function loadCommand(
  file: string,
  reference: string,
  options: LoadOptions,
  output: Output,
): Promise<number> {
  const target = readReference(reference)
  const platform = readPlatform(options.platform)
  return await withRegistry([target.registry], options, async (registry, signal) => {
    const archive = await openArchive(file, signal)
    const display = openDisplay(output)
    const sum = emptySum()
    try {
      const tree = await readImage(archive, choose(archive, options.image).root, platform, signal)
      const { chunkSize } = options
      const pieces = chunkSize === undefined ? {} : { chunkSizeBytes: chunkSize }
      await pushImage(registry, { source: archive, tree, target, ...pieces }, sum, display, signal)
      display.close()
      output.out(`${showReference(target)} ${tree.root.descriptor.digest}\n${showSum(sum)}\n`)
    } finally {
      display.close()
      await archive.close()
    }
  })
}

function choose({ images, name }: ImageArchive, wanted: string | undefined): ArchivedImage {
  const shown = images.map(({ names, root }) => `  ${plainText(names.join(', ') || root.digest)}`).join('\n')
  if (wanted !== undefined) {
    const found = images.find(({ names, root }) => names.includes(wanted) || root.digest === wanted)
    if (found === undefined) throw new CommandError(`${name} has no image ${JSON.stringify(wanted)}. It has:\n${shown}`)
    return found
  }
  const [only, ...others] = images
  if (only === undefined) throw new CommandError(`${name} has no image`)
  if (others.length > 0) throw new UsageError(`${name} has several images; choose one with --image:\n${shown}`)
  return only
}
