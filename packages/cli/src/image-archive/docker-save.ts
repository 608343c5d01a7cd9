// What `docker save` wrote before version 25, and podman and others still write: configs and uncompressed layers, listed
// in manifest.json. There is no manifest of the image in it, so one is made, the same for the same content.
import { createHash } from 'node:crypto'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import {
  digestOf,
  isDigest,
  MEDIA_TYPE_OCI_CONFIG,
  MEDIA_TYPE_OCI_LAYER,
  MEDIA_TYPE_OCI_LAYER_GZIP,
  MEDIA_TYPE_OCI_LAYER_ZSTD,
  MEDIA_TYPE_OCI_MANIFEST,
  type Descriptor,
  type Digest,
} from '@shoal/oci'
import type { ArchivedImage, ImageArchive } from './archive-images.ts'
import { decompressorFor, readEntry, type Entries } from './entries.ts'
import { ArchiveError, parseArchiveJson } from './failure.ts'

const MAX_LAYERS = 1000

/** @throws ArchiveError when something is missing or is not what the config says */
export async function readDockerSave(entries: Entries, signal: AbortSignal): Promise<ImageArchive> {
  const { archive } = entries
  const listed = parseArchiveJson(archive, 'manifest.json', await readEntry(entries, 'manifest.json'))
  if (!Array.isArray(listed) || listed.length === 0) throw new ArchiveError(archive, 'its manifest.json names no image')
  const manifests = new Map<Digest, Uint8Array>()
  const places = new Map<Digest, string>()
  const images: ArchivedImage[] = []
  for (const one of listed as unknown[]) {
    const { Config: configName, RepoTags: tags, Layers: layerNames } = (one ?? {}) as Record<string, unknown>
    if (typeof configName !== 'string' || !isTexts(layerNames) || layerNames.length > MAX_LAYERS) {
      throw new ArchiveError(archive, 'its manifest.json is malformed')
    }
    const config = await readEntry(entries, configName)
    const configDigest = checkedConfigDigest(archive, configName, config)
    places.set(configDigest, configName)
    const diffIds = diffIdsOf(archive, configName, config)
    if (diffIds.length !== layerNames.length) {
      const reason = `${configName} speaks of ${diffIds.length} layers, manifest.json of ${layerNames.length}`
      throw new ArchiveError(archive, reason)
    }
    const layers: Descriptor[] = []
    for (const [at, name] of layerNames.entries()) {
      const layer = await readLayer(entries, name, diffIds[at] ?? '', signal)
      places.set(layer.digest, name)
      layers.push(layer)
    }
    const bytes = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: MEDIA_TYPE_OCI_MANIFEST,
        config: { mediaType: MEDIA_TYPE_OCI_CONFIG, digest: configDigest, size: config.length },
        layers,
      }),
    )
    const root: Descriptor = { mediaType: MEDIA_TYPE_OCI_MANIFEST, digest: digestOf(bytes), size: bytes.length }
    manifests.set(root.digest, bytes)
    images.push({ root, names: isTexts(tags) ? tags : [] })
  }
  const missing = ({ digest }: Descriptor): ArchiveError => new ArchiveError(archive, `${digest} is missing`)
  return {
    name: archive,
    images,
    manifest: async (descriptor) => {
      const bytes = manifests.get(descriptor.digest)
      if (bytes === undefined) throw missing(descriptor)
      return await Promise.resolve(bytes)
    },
    open: async (descriptor, start) => {
      const name = places.get(descriptor.digest)
      if (name === undefined) throw missing(descriptor)
      return await entries.open(name, start)
    },
    close: () => entries.close(),
  }
}

/** The config's file is usually named after its digest; then it must have it. */
function checkedConfigDigest(archive: string, name: string, config: Buffer): Digest {
  const digest = digestOf(config)
  const named = /([0-9a-f]{64})(?:\.json)?$/.exec(name)?.[1]
  if (named !== undefined && digest !== `sha256:${named}`) {
    throw new ArchiveError(archive, `the content of ${name} has the digest ${digest}`)
  }
  return digest
}

function diffIdsOf(archive: string, name: string, config: Buffer): string[] {
  const fields = parseArchiveJson(archive, name, config) as { rootfs?: { diff_ids?: unknown } } | null
  const ids = fields?.rootfs?.diff_ids
  if (!isTexts(ids) || !ids.every(isDigest)) throw new ArchiveError(archive, `${name} does not list the layers`)
  return ids
}

async function readLayer(entries: Entries, name: string, diffId: string, signal: AbortSignal): Promise<Descriptor> {
  const { archive } = entries
  const entry = await entries.find(name)
  if (entry === undefined) throw new ArchiveError(archive, `the layer ${name} is missing; the archive is incomplete`)
  const start = await firstBytes(await entries.open(name, 0))
  const unpack = decompressorFor(start)
  const sha256 = entry.sha256 ?? (await hashOf(await entries.open(name, 0), undefined, signal))
  let plain = sha256
  try {
    if (unpack !== undefined) plain = await hashOf(await entries.open(name, 0), unpack, signal)
  } catch (error) {
    signal.throwIfAborted()
    throw new ArchiveError(archive, `the layer ${name} cannot be unpacked: ${(error as Error).message}`, {
      cause: error,
    })
  }
  if (`sha256:${plain}` !== diffId) {
    throw new ArchiveError(archive, `the layer ${name} has the digest sha256:${plain}, its config says ${diffId}`)
  }
  const compressed = start[0] === 0x1f ? MEDIA_TYPE_OCI_LAYER_GZIP : MEDIA_TYPE_OCI_LAYER_ZSTD
  const mediaType = unpack === undefined ? MEDIA_TYPE_OCI_LAYER : compressed
  return { mediaType, digest: `sha256:${sha256}`, size: entry.sizeBytes }
}

async function firstBytes(stream: Readable): Promise<Buffer> {
  for await (const piece of stream as AsyncIterable<Buffer>) return piece.subarray(0, 4)
  return Buffer.alloc(0)
}

async function hashOf(
  stream: Readable,
  unpack: ReturnType<typeof decompressorFor>,
  signal: AbortSignal,
): Promise<string> {
  const hash = createHash('sha256')
  await (unpack === undefined ? pipeline(stream, hash, { signal }) : pipeline(stream, unpack, hash, { signal }))
  return hash.digest('hex')
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((one) => typeof one === 'string')
}
