// For the tests of `shoal image`: registries, images, and archives in every form.
import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { TestContext } from 'node:test'
import {
  digestOf,
  MEDIA_TYPE_OCI_CONFIG,
  MEDIA_TYPE_OCI_INDEX,
  MEDIA_TYPE_OCI_LAYER,
  MEDIA_TYPE_OCI_MANIFEST,
  type Descriptor,
  type Digest,
} from '@shoal/oci'
import { createOrigin } from '@shoal/origin'
import { pino } from 'pino'
import { pack } from 'tar-stream'
import { runCommand } from '../../program.ts'

export interface TestImage {
  root: Descriptor
  /** All contents by digest: manifests, configs, layers. */
  contents: Map<Digest, Buffer>
  config: Buffer
  layers: Buffer[]
}

/** Files of an archive by name. */
export type Files = Map<string, Buffer>

export function makeImage(architecture = 'amd64', layers = [randomBytes(300_000), randomBytes(1000)]): TestImage {
  const config = Buffer.from(
    JSON.stringify({
      architecture,
      os: 'linux',
      created: '2026-01-02T03:04:05Z',
      config: { Entrypoint: ['/bin/app'], Labels: { team: 'blue' } },
      rootfs: { type: 'layers', diff_ids: layers.map((layer) => digestOf(layer)) },
    }),
  )
  const descriptor = (mediaType: string, bytes: Buffer) => ({ mediaType, digest: digestOf(bytes), size: bytes.length })
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPE_OCI_MANIFEST,
      config: descriptor(MEDIA_TYPE_OCI_CONFIG, config),
      layers: layers.map((layer) => descriptor(MEDIA_TYPE_OCI_LAYER, layer)),
    }),
  )
  const contents = new Map([manifest, config, ...layers].map((bytes) => [digestOf(bytes), bytes] as const))
  return { root: descriptor(MEDIA_TYPE_OCI_MANIFEST, manifest), contents, config, layers }
}

export function makeIndex(architectures = ['amd64', 'arm64']): { root: Descriptor; contents: Map<Digest, Buffer> } {
  const images = architectures.map((architecture) => ({ architecture, ...makeImage(architecture) }))
  const bytes = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPE_OCI_INDEX,
      manifests: images.map(({ root, architecture }) => ({ ...root, platform: { os: 'linux', architecture } })),
    }),
  )
  const root = { mediaType: MEDIA_TYPE_OCI_INDEX, digest: digestOf(bytes), size: bytes.length }
  return { root, contents: new Map([[root.digest, bytes], ...images.flatMap(({ contents }) => [...contents])]) }
}

/** An OCI layout with these images. */
export function layoutFiles(
  images: { root: Descriptor; contents: Map<Digest, Buffer> }[],
  names: string[] = [],
): Files {
  const manifests = images.map(({ root }, at) => ({
    ...root,
    ...(names[at] === undefined ? {} : { annotations: { 'org.opencontainers.image.ref.name': names[at] } }),
  }))
  const files: Files = new Map([
    ['oci-layout', Buffer.from('{"imageLayoutVersion":"1.0.0"}')],
    ['index.json', Buffer.from(JSON.stringify({ schemaVersion: 2, manifests }))],
  ])
  for (const { contents } of images) {
    for (const [digest, bytes] of contents) files.set(`blobs/${digest.replace(':', '/')}`, bytes)
  }
  return files
}

/** What docker wrote before version 25. */
export function dockerSaveFiles({ config, layers }: TestImage): Files {
  const hex = createHash('sha256').update(config).digest('hex')
  const names = layers.map((_, at) => `layer${at}/layer.tar`)
  const manifest = [{ Config: `${hex}.json`, RepoTags: ['team/app:1.0'], Layers: names }]
  return new Map([
    [`${hex}.json`, config],
    ...layers.map((layer, at) => [names[at] ?? '', layer] as const),
    ['manifest.json', Buffer.from(JSON.stringify(manifest))],
  ])
}

export async function tarOf(files: Files, links: Record<string, string> = {}): Promise<Buffer> {
  const archive = pack()
  for (const [name, bytes] of files) archive.entry({ name }, bytes)
  for (const [name, linkname] of Object.entries(links)) archive.entry({ name, type: 'symlink', linkname })
  archive.finalize()
  const pieces: Buffer[] = []
  for await (const piece of archive as AsyncIterable<Buffer>) pieces.push(piece)
  return Buffer.concat(pieces)
}

export async function writeFolder(folder: string, files: Files): Promise<void> {
  for (const [name, bytes] of files) {
    await mkdir(dirname(join(folder, name)), { recursive: true })
    await writeFile(join(folder, name), bytes)
  }
}

export async function temporaryFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'shoal-image-test-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  return folder
}

export interface TestRegistry {
  /** `127.0.0.1:port` */
  host: string
  get(path: string, method?: string): Promise<{ status: number; body: Buffer; headers: Headers }>
}

/** Shoal's own registry, which checks what is pushed. */
export async function startRegistry(t: TestContext): Promise<TestRegistry> {
  const dataDirectory = await mkdtemp(join(tmpdir(), 'shoal-image-test-'))
  const logger = pino({ level: 'silent' })
  const origin = await createOrigin({ dataDirectory, host: '127.0.0.1', port: 0, shutdownGrace: 100, logger })
  t.after(async () => {
    await origin.close()
    await rm(dataDirectory, { recursive: true, force: true })
  })
  return {
    host: new URL(origin.url).host,
    get: async (path, method = 'GET') => {
      const headers = { accept: [MEDIA_TYPE_OCI_INDEX, MEDIA_TYPE_OCI_MANIFEST].join(', ') }
      const answer = await fetch(new URL(path, origin.url), { method, headers })
      const body = Buffer.from(await answer.arrayBuffer())
      return { status: answer.status, body, headers: answer.headers }
    },
  }
}

export interface Outcome {
  code: number
  out: string
  err: string
}

/** Runs `shoal image …` in this process. */
export async function image(...args: string[]): Promise<Outcome> {
  const outcome = { code: 0, out: '', err: '' }
  const write = (to: 'out' | 'err') => (text: string) => void (outcome[to] += text)
  outcome.code = await runCommand(['image', ...args], { out: write('out'), err: write('err') })
  return outcome
}
