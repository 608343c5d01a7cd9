// Images made up for tests: bytes that no compression shrinks, the same for the same seed, with every digest known.
import { createCipheriv, createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { gzipSync } from 'node:zlib'

export const KiB = 1024
export const MiB = 1024 * KiB
export const GiB = 1024 * MiB

export const OCI = {
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  index: 'application/vnd.oci.image.index.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar',
  gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
} as const

export const DOCKER = {
  manifest: 'application/vnd.docker.distribution.manifest.v2+json',
  index: 'application/vnd.docker.distribution.manifest.list.v2+json',
  config: 'application/vnd.docker.container.image.v1+json',
  layer: 'application/vnd.docker.image.rootfs.diff.tar',
  gzip: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
} as const

export interface Blob {
  digest: string
  sizeBytes: number
  mediaType: string
  /** Makes the bytes anew, in pieces of a MiB at most. */
  bytes: () => Iterable<Buffer>
}

export interface Image {
  mediaType: string
  manifest: Buffer
  digest: string
  /** Config first, then the layers. */
  blobs: Blob[]
  /** Manifest and blobs, each once. */
  totalBytes: number
  platform: Platform
}

export interface Index {
  mediaType: string
  manifest: Buffer
  digest: string
  images: Image[]
}

export interface Platform {
  os: string
  architecture: string
}

export function sha256(bytes: Buffer | string): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

/** Random-looking bytes that follow from the seed alone: an AES counter stream. */
export function* seededBytes(seed: string, sizeBytes: number): Generator<Buffer> {
  const cipher = createCipheriv(
    'aes-128-ctr',
    createHash('sha256').update(seed).digest().subarray(0, 16),
    Buffer.alloc(16),
  )
  const zeros = Buffer.alloc(Math.min(MiB, sizeBytes))
  for (let left = sizeBytes; left > 0; left -= zeros.length) {
    yield cipher.update(left >= zeros.length ? zeros : zeros.subarray(0, left))
  }
}

function blobOf(mediaType: string, bytes: () => Iterable<Buffer>): Blob {
  const hash = createHash('sha256')
  let sizeBytes = 0
  for (const piece of bytes()) {
    hash.update(piece)
    sizeBytes += piece.length
  }
  return { digest: `sha256:${hash.digest('hex')}`, sizeBytes, mediaType, bytes }
}

/** A layer of raw seeded bytes: right for everything that does not unpack. */
export function rawLayer(seed: string, sizeBytes: number, mediaType: string = OCI.layer): Blob {
  return blobOf(mediaType, () => seededBytes(seed, sizeBytes))
}

export interface TarFile {
  path: string
  /** @default 0o644 */
  mode?: number
  content: Buffer | { seed: string; sizeBytes: number }
}

function* tarBytes(files: readonly TarFile[]): Generator<Buffer> {
  for (const { path, mode = 0o644, content } of files) {
    const folder = path.endsWith('/')
    const size = Buffer.isBuffer(content) ? content.length : content.sizeBytes
    const header = Buffer.alloc(512)
    header.write(path, 0, 100, 'latin1')
    header.write(`${mode.toString(8).padStart(7, '0')}\0`, 100)
    header.write('0000000\0', 108)
    header.write('0000000\0', 116)
    header.write(`${size.toString(8).padStart(11, '0')}\0`, 124)
    header.write('00000000000\0', 136)
    header.write('        ', 148)
    header.write(folder ? '5' : '0', 156)
    header.write('ustar\x0000', 257)
    const checksum = header.reduce((sum, byte) => sum + byte, 0)
    header.write(`${checksum.toString(8).padStart(6, '0')}\0 `, 148)
    yield header
    if (Buffer.isBuffer(content)) {
      if (content.length > 0) yield content
    } else yield* seededBytes(content.seed, content.sizeBytes)
    if (size % 512 !== 0) yield Buffer.alloc(512 - (size % 512))
  }
  yield Buffer.alloc(1024)
}

export interface TarLayer {
  blob: Blob
  /** Digest of the uncompressed tar, for the image's config. */
  diffId: string
}

/** A real layer, as runtimes unpack it. Compressed ones are held in memory, so keep those small. */
export function tarLayer(files: readonly TarFile[], { docker = false, gzip = false } = {}): TarLayer {
  const types = docker ? DOCKER : OCI
  const plain = blobOf(types.layer, () => tarBytes(files))
  if (!gzip) return { blob: plain, diffId: plain.digest }
  const packed = gzipSync(Buffer.concat([...tarBytes(files)]))
  return { blob: blobOf(types.gzip, () => [packed]), diffId: plain.digest }
}

export interface ImageOptions {
  /** Docker schema 2 in place of OCI. @default false */
  docker?: boolean
  diffIds?: string[]
  platform?: Platform
  command?: string[]
}

/** Architecture of this machine in the words of images. */
export const HOST_PLATFORM: Platform = {
  os: 'linux',
  architecture: process.arch === 'x64' ? 'amd64' : process.arch,
}

export function makeImage(layers: readonly Blob[], options: ImageOptions = {}): Image {
  const { docker = false, platform = HOST_PLATFORM, command = ['/bin/sh'] } = options
  const types = docker ? DOCKER : OCI
  const configBytes = Buffer.from(
    JSON.stringify({
      created: '2024-01-01T00:00:00Z',
      ...platform,
      config: { Cmd: command, Env: ['PATH=/bin'] },
      rootfs: { type: 'layers', diff_ids: options.diffIds ?? layers.map((layer) => layer.digest) },
      history: layers.map(() => ({ created: '2024-01-01T00:00:00Z', created_by: 'test' })),
    }),
  )
  const config = blobOf(types.config, () => [configBytes])
  const describe = ({ mediaType, digest, sizeBytes }: Blob): object => ({ mediaType, digest, size: sizeBytes })
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: types.manifest,
      config: describe(config),
      layers: layers.map(describe),
    }),
  )
  const blobs = [config, ...layers]
  return {
    mediaType: types.manifest,
    manifest,
    digest: sha256(manifest),
    blobs,
    totalBytes: blobs.reduce((sum, blob) => sum + blob.sizeBytes, manifest.length),
    platform,
  }
}

export function makeIndex(images: readonly Image[], { docker = false } = {}): Index {
  const mediaType = docker ? DOCKER.index : OCI.index
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType,
      manifests: images.map((image) => ({
        mediaType: image.mediaType,
        digest: image.digest,
        size: image.manifest.length,
        platform: image.platform,
      })),
    }),
  )
  return { mediaType, manifest, digest: sha256(manifest), images: [...images] }
}

/**
 * An image of raw layers of these sizes.
 *
 * @param seed - other seeds give other bytes in every layer
 */
export function rawImage(seed: string, layerBytes: readonly number[]): Image {
  return makeImage(layerBytes.map((sizeBytes, i) => rawLayer(`${seed}/${i}`, sizeBytes)))
}

/** An image that starts: a static busybox as /bin/sh, and layers of seeded files of these sizes. */
export function runnableImage(seed: string, layerBytes: readonly number[], options: ImageOptions = {}): Image {
  const docker = options.docker ?? false
  const busybox = readFileSync('/bin/busybox')
  const layers = [
    tarLayer(
      [
        { path: 'bin/', mode: 0o755, content: Buffer.alloc(0) },
        { path: 'bin/busybox', mode: 0o755, content: busybox },
        { path: 'bin/sh', mode: 0o755, content: busybox },
        { path: 'seed', content: Buffer.from(seed) },
      ],
      { docker, gzip: true },
    ),
    ...layerBytes.map((sizeBytes, i) =>
      tarLayer(
        [
          { path: 'data/', mode: 0o755, content: Buffer.alloc(0) },
          { path: `data/${i}`, content: { seed: `${seed}/${i}`, sizeBytes } },
        ],
        { docker, gzip: sizeBytes < MiB },
      ),
    ),
  ]
  return makeImage(
    layers.map(({ blob }) => blob),
    { command: ['/bin/sh', '-c', 'echo shoal-runs'], ...options, diffIds: layers.map(({ diffId }) => diffId) },
  )
}
