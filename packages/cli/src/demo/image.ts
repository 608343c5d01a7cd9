// The demo's image: one big layer of bytes that do not compress, small ones, and busybox where this machine has it, so
// that the image can be run. The same options give the same digests.
import { createCipheriv, createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { open, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'
import {
  MEDIA_TYPE_OCI_CONFIG,
  MEDIA_TYPE_OCI_LAYER_GZIP,
  MEDIA_TYPE_OCI_MANIFEST,
  digestOf,
  type Descriptor,
  type Digest,
} from '@shoal/oci'
import { TAR_END, tarHeader, tarPadding } from './tar.ts'

const STEP_BYTES = 1024 * 1024
const BUSYBOX_PATHS = ['/bin/busybox', '/usr/bin/busybox']

export interface DemoBlob {
  descriptor: Descriptor & { digest: Digest }
  /** Bytes, or the file that has them. */
  content: Uint8Array | string
}

export interface DemoImage {
  blobs: DemoBlob[]
  manifest: Uint8Array
  manifestDigest: Digest
  /** Of all blobs. */
  sizeBytes: number
  /** Whether a container can be started from it here. */
  isRunnable: boolean
}

/** Bytes that look random and are the same for the same seed. */
function* seededBytes(seed: string, lengthBytes: number): Generator<Buffer> {
  const key = createHash('sha256').update(seed).digest().subarray(0, 16)
  const stream = createCipheriv('aes-128-ctr', key, Buffer.alloc(16))
  const zeros = Buffer.alloc(STEP_BYTES)
  for (let left = lengthBytes; left > 0; left -= STEP_BYTES) {
    yield stream.update(left < STEP_BYTES ? zeros.subarray(0, left) : zeros)
  }
}

/** Writes a layer and gives its descriptor, with the digest of the unpacked archive that the image's config names. */
async function writeLayer(
  path: string,
  archive: Iterable<Buffer>,
  level: number,
): Promise<DemoBlob & { diffId: string }> {
  const unpacked = createHash('sha256')
  const packed = createHash('sha256')
  let sizeBytes = 0
  await pipeline(
    Readable.from(archive),
    async function* (parts: AsyncIterable<Buffer>) {
      for await (const part of parts) {
        unpacked.update(part)
        yield part
      }
    },
    createGzip({ level, chunkSize: STEP_BYTES }),
    async function* (parts: AsyncIterable<Buffer>) {
      for await (const part of parts) {
        packed.update(part)
        sizeBytes += part.length
        yield part
      }
    },
    createWriteStream(path, { flags: 'wx', mode: 0o600 }),
  )
  const digest: Digest = `sha256:${packed.digest('hex')}`
  return {
    descriptor: { mediaType: MEDIA_TYPE_OCI_LAYER_GZIP, digest, size: sizeBytes },
    content: path,
    diffId: `sha256:${unpacked.digest('hex')}`,
  }
}

function* fileArchive(name: string, sizeBytes: number, bytes: Iterable<Buffer>, mode = 0o644): Generator<Buffer> {
  yield tarHeader({ kind: 'file', name, sizeBytes, mode })
  yield* bytes
  yield tarPadding(sizeBytes)
  yield TAR_END
}

/** Whether an ELF program needs no loader: a dynamically linked one cannot run in an image that has nothing else. */
async function isStatic(path: string): Promise<boolean> {
  const PROGRAM_HEADER_INTERPRETER = 3
  const file = await open(path, 'r')
  try {
    const head = Buffer.alloc(4_096)
    const { bytesRead } = await file.read(head, 0, head.length, 0)
    const isElf64LittleEndian = head.readUInt32BE(0) === 0x7f454c46 && head[4] === 2 && head[5] === 1
    if (bytesRead < 64 || !isElf64LittleEndian) return false
    const start = Number(head.readBigUInt64LE(32))
    const entryBytes = head.readUInt16LE(54)
    const count = head.readUInt16LE(56)
    if (start + count * entryBytes > bytesRead) return false
    return !Array.from({ length: count }, (_, index) => head.readUInt32LE(start + index * entryBytes)).includes(
      PROGRAM_HEADER_INTERPRETER,
    )
  } finally {
    await file.close()
  }
}

async function findBusybox(): Promise<string | undefined> {
  for (const path of BUSYBOX_PATHS) if (await isStatic(path).catch(() => false)) return path
  return undefined
}

function* busyboxArchive(program: Buffer): Generator<Buffer> {
  yield tarHeader({ kind: 'directory', name: 'bin/' })
  yield tarHeader({ kind: 'file', name: 'bin/busybox', sizeBytes: program.length, mode: 0o755 })
  yield program
  yield tarPadding(program.length)
  for (const name of ['sh', 'ls', 'cat', 'echo'])
    yield tarHeader({ kind: 'link', name: `bin/${name}`, target: 'busybox' })
  yield TAR_END
}

/** Makes an image whose big layer has this size. Its layers are files in `directory`. */
export async function makeImage(directory: string, bigLayerBytes: number): Promise<DemoImage> {
  const greeting = Buffer.from('Hello from the swarm.\n')
  const busybox = await findBusybox()
  const layers = [
    await writeLayer(join(directory, 'greeting'), fileArchive('greeting', greeting.length, [greeting]), 6),
    // Random bytes: gzip's container without its work.
    await writeLayer(
      join(directory, 'data'),
      fileArchive('data', bigLayerBytes, seededBytes('shoal demo', bigLayerBytes)),
      0,
    ),
    await writeLayer(
      join(directory, 'more'),
      fileArchive('more', 300_000, seededBytes('shoal demo, more', 300_000)),
      0,
    ),
    ...(busybox === undefined
      ? []
      : [await writeLayer(join(directory, 'busybox'), busyboxArchive(await readFile(busybox)), 6)]),
  ]

  const config = Buffer.from(
    JSON.stringify({
      created: '1970-01-01T00:00:00Z',
      architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
      os: 'linux',
      config: busybox === undefined ? {} : { Env: ['PATH=/bin'], Cmd: ['/bin/busybox', 'cat', '/greeting'] },
      rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
    }),
  )
  const configBlob: DemoBlob = {
    descriptor: { mediaType: MEDIA_TYPE_OCI_CONFIG, digest: digestOf(config), size: config.length },
    content: config,
  }
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPE_OCI_MANIFEST,
      config: configBlob.descriptor,
      layers: layers.map(({ descriptor }) => descriptor),
    }),
  )
  const blobs = [configBlob, ...layers.map(({ descriptor, content }) => ({ descriptor, content }))]
  return {
    blobs,
    manifest,
    manifestDigest: digestOf(manifest),
    sizeBytes: blobs.reduce((sum, { descriptor }) => sum + descriptor.size, 0),
    isRunnable: busybox !== undefined,
  }
}
