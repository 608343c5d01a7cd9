// `shoal image copy`: from one registry to another, or to another name in the same.
import { emptySum, pushImage, readTree } from '@shoal/origin/images'
import type { Output } from '../../program.ts'
import { openRegistryImage, referrersOf } from '../../registry-image.ts'
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

export interface CopyOptions extends ConnectionOptions {
  platform?: string
  referrers?: boolean
  chunkSize?: number
}

export async function copyCommand(from: string, to: string, options: CopyOptions, output: Output): Promise<number> {
  const reference = readReference(from)
  const target = readReference(to)
  const platform = readPlatform(options.platform)
  return await withRegistry([reference.registry, target.registry], options, async (registry, signal) => {
    const source = await openRegistryImage(registry, reference, signal)
    const tree = await readImage(source, source.root, platform, signal)
    const sum = emptySum()
    const display = openDisplay(output)
    const { registry: host, repository } = target
    const plan = {
      source,
      ...(reference.registry === host ? { mountFrom: () => reference.repository } : {}),
      ...(options.chunkSize === undefined ? {} : { chunkSizeBytes: options.chunkSize }),
    }
    try {
      if (options.referrers === true) {
        // Before the image: who sees it sees its signatures as well.
        for (const root of await referrersOf(registry, reference, tree, signal)) {
          const referrer = await readTree(source, root, undefined, signal)
          const name = { registry: host, repository, digest: root.digest }
          await pushImage(registry, { ...plan, tree: referrer, target: name }, sum, display, signal)
        }
      }
      await pushImage(registry, { ...plan, tree, target }, sum, display, signal)
      display.close()
      output.out(`${showReference(target)} ${tree.root.descriptor.digest}\n${showSum(sum)}\n`)
    } finally {
      display.close()
    }
  })
}
