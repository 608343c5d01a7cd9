// `shoal image inspect`: what an image is, without pulling it.
import { formatPlatform, manifestReference, platformOfConfig, type Descriptor, type Manifest } from '@shoal/oci'
import { platformsOf, type ImageSource, type ImageTree, type TreeManifest } from '@shoal/origin/images'
import { CommandError } from '../../exit-codes.ts'
import { plainText, showSize, showTable } from '../../people.ts'
import type { Output } from '../../program.ts'
import { openRegistryImage } from '../../registry-image.ts'
import { readConfig, readImage } from './read-image.ts'
import { readPlatform, readReference, showReference, withRegistry, type ConnectionOptions } from './session.ts'

export interface InspectOptions extends ConnectionOptions {
  platform?: string
  json?: boolean
  raw?: boolean
}

interface Config {
  created?: string
  config?: {
    Entrypoint?: string[] | null
    Cmd?: string[] | null
    User?: string
    Labels?: Record<string, string> | null
  }
}

export async function inspectCommand(reference: string, options: InspectOptions, output: Output): Promise<number> {
  const name = readReference(reference)
  const platform = readPlatform(options.platform)
  return await withRegistry([name.registry], options, async (registry, signal) => {
    if (options.raw === true && platform === undefined) {
      const { bytes } = await registry.getManifest(name, manifestReference(name), { signal })
      output.out(Buffer.from(bytes).toString('utf8'))
      return
    }
    const source = await openRegistryImage(registry, name, signal)
    const tree = await readImage(source, source.root, platform, signal)
    if (options.raw === true) {
      output.out(Buffer.from(tree.root.bytes).toString('utf8'))
      return
    }
    const images = []
    for (const node of tree.manifests) {
      if (node.manifest.kind === 'image') images.push(await describe(source, tree, node, signal))
    }
    const { digest, mediaType } = tree.root.descriptor
    const summary = { name: showReference(name), digest, mediaType, platforms: platformsOf(tree.root.manifest), images }
    output.out(options.json === true ? `${JSON.stringify(summary, null, 2)}\n` : showSummary(summary))
  })
}

interface ImageSummary {
  digest: string
  platform: string
  sizeBytes: number
  layers: { digest: string; mediaType: string; sizeBytes: number }[]
  created?: string
  entrypoint?: string[]
  command?: string[]
  user?: string
  labels?: Record<string, string>
}

async function describe(
  source: ImageSource,
  tree: ImageTree,
  { descriptor, manifest, blobs }: TreeManifest,
  signal: AbortSignal,
): Promise<ImageSummary> {
  if (manifest.kind !== 'image') throw new CommandError(`${descriptor.digest} is no image`)
  const summary: ImageSummary = {
    digest: descriptor.digest,
    platform: platformName(tree.root.manifest, descriptor),
    sizeBytes: blobs.reduce((sum, { size }) => sum + size, descriptor.size),
    layers: manifest.layers.map(({ digest, mediaType, size }) => ({ digest, mediaType, sizeBytes: size })),
  }
  const config = await readConfig(source, manifest, signal)
  const { created, config: run } = config as Config
  const platform = platformOfConfig(config)
  if (summary.platform === '' && platform !== undefined) summary.platform = formatPlatform(platform)
  if (created !== undefined) summary.created = created
  if (run?.Entrypoint) summary.entrypoint = run.Entrypoint
  if (run?.Cmd) summary.command = run.Cmd
  if (run?.User) summary.user = run.User
  if (run?.Labels) summary.labels = run.Labels
  return summary
}

function platformName(root: Manifest, { digest }: Descriptor): string {
  if (root.kind !== 'index') return ''
  const platform = root.manifests.find((child) => child.digest === digest)?.platform
  return platform === undefined ? '' : [platform.os, platform.architecture, platform.variant ?? []].flat().join('/')
}

interface Summary {
  name: string
  digest: string
  mediaType: string
  images: ImageSummary[]
}

function showSummary({ name, digest, mediaType, images }: Summary): string {
  const lines = [`${name}`, `digest  ${digest}`, `type    ${plainText(mediaType)}`]
  for (const image of images) {
    const title = [image.platform, showSize(image.sizeBytes), image.digest].filter((part) => part !== '').join('  ')
    lines.push('', plainText(title))
    if (image.created !== undefined) lines.push(`  created     ${plainText(String(image.created))}`)
    if (image.entrypoint !== undefined) lines.push(`  entrypoint  ${plainText(JSON.stringify(image.entrypoint))}`)
    if (image.command !== undefined) lines.push(`  command     ${plainText(JSON.stringify(image.command))}`)
    if (image.user !== undefined) lines.push(`  user        ${plainText(String(image.user))}`)
    for (const [key, value] of Object.entries(image.labels ?? {})) {
      lines.push(`  label       ${plainText(`${key}=${String(value)}`)}`)
    }
    const rows = image.layers.map((layer) => [layer.digest, showSize(layer.sizeBytes), plainText(layer.mediaType)])
    if (rows.length > 0) lines.push(showTable(['layer', 'size', 'type'], rows).replaceAll(/^/gm, '  '))
  }
  return `${lines.join('\n')}\n`
}
