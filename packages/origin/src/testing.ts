// For the tests of this room: a registry in a temporary folder, images to push, and a client for both.
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { digestOf, type Digest } from '@shoal/oci'
import { pino } from 'pino'
import { createOrigin, type Origin, type OriginDependencies, type OriginOptions } from './origin.ts'

export const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json'
export const INDEX_TYPE = 'application/vnd.oci.image.index.v1+json'
const CONFIG_TYPE = 'application/vnd.oci.image.config.v1+json'
const LAYER_TYPE = 'application/vnd.oci.image.layer.v1.tar'

/** A folder that is gone when the test is over. */
export async function temporaryFolder(): Promise<AsyncDisposable & { path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'shoal-origin-'))
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}

export type TestOrigin = Origin & { client: Client } & AsyncDisposable

export async function startOrigin(
  dataDirectory: string,
  options: Partial<OriginOptions & OriginDependencies> = {},
): Promise<TestOrigin> {
  const origin = await createOrigin({
    dataDirectory,
    host: '127.0.0.1',
    port: 0,
    shutdownGrace: 100,
    logger: pino({ level: 'silent' }),
    ...options,
  })
  return { ...origin, client: new Client(origin.url), [Symbol.asyncDispose]: () => origin.close() }
}

export interface Answer {
  status: number
  headers: Headers
  body: Buffer
  json: Record<string, unknown> & { errors?: { code: string; message: string }[] }
}

export class Client {
  readonly url: string
  readonly headers: Record<string, string>

  constructor(url: string, headers: Record<string, string> = {}) {
    this.url = url
    this.headers = headers
  }

  async ask(method: string, path: string, options: RequestInit & { duplex?: 'half' } = {}): Promise<Answer> {
    const headers = { ...this.headers, ...(options.headers as Record<string, string> | undefined) }
    const response = await fetch(new URL(path, this.url), { ...options, method, headers, redirect: 'manual' })
    const body = Buffer.from(await response.arrayBuffer())
    const isJson = response.headers.get('content-type')?.includes('json') === true && body.length > 0
    const json = isJson ? (JSON.parse(body.toString()) as Answer['json']) : {}
    return { status: response.status, headers: response.headers, body, json }
  }

  get(path: string, headers: Record<string, string> = {}): Promise<Answer> {
    return this.ask('GET', path, { headers })
  }

  head(path: string): Promise<Answer> {
    return this.ask('HEAD', path)
  }

  /** Starts an upload and returns its location. */
  async startUpload(name: string): Promise<string> {
    const answer = await this.ask('POST', `/v2/${name}/blobs/uploads/`)
    if (answer.status !== 202) throw new Error(`${answer.status} ${answer.body.toString()}`)
    return answer.headers.get('location') ?? ''
  }

  async pushBlob(name: string, bytes: Uint8Array<ArrayBuffer>, digest: Digest = digestOf(bytes)): Promise<Answer> {
    return this.ask('POST', `/v2/${name}/blobs/uploads/?digest=${digest}`, {
      body: bytes,
      headers: { 'content-type': 'application/octet-stream' },
    })
  }

  putManifest(name: string, reference: string, manifest: unknown, type = MANIFEST_TYPE): Promise<Answer> {
    const body = typeof manifest === 'string' ? manifest : JSON.stringify(manifest)
    return this.ask('PUT', `/v2/${name}/manifests/${reference}`, { body, headers: { 'content-type': type } })
  }

  /** Pushes all blobs of an image, and the image under a tag. */
  async pushImage(name: string, tag: string, image: TestImage): Promise<Answer> {
    for (const blob of image.blobs) {
      const answer = await this.pushBlob(name, blob)
      if (answer.status !== 201) return answer
    }
    return this.putManifest(name, tag, image.text)
  }
}

export interface TestImage {
  blobs: Buffer<ArrayBuffer>[]
  manifest: Record<string, unknown> & { layers: { digest: Digest; size: number }[] }
  text: string
  digest: Digest
  descriptor: { mediaType: string; digest: Digest; size: number }
}

/** An image of random layers. */
export function makeImage(layerSizes: number[] = [1000, 10], extra: Record<string, unknown> = {}): TestImage {
  const config = Buffer.from(
    JSON.stringify({ architecture: 'amd64', os: 'linux', seed: randomBytes(8).toString('hex') }),
  )
  const layers = layerSizes.map((size) => randomBytes(size))
  const describe = (mediaType: string, bytes: Buffer) => ({ mediaType, digest: digestOf(bytes), size: bytes.length })
  const manifest = {
    schemaVersion: 2,
    mediaType: MANIFEST_TYPE,
    config: describe(CONFIG_TYPE, config),
    layers: layers.map((layer) => describe(LAYER_TYPE, layer)),
    ...extra,
  }
  const text = JSON.stringify(manifest)
  const digest = digestOf(text)
  const descriptor = { mediaType: MANIFEST_TYPE, digest, size: Buffer.byteLength(text) }
  return { blobs: [config, ...layers], manifest, text, digest, descriptor }
}

/** An index of layers and a config, as BuildKit keeps its cache in a registry (`image-manifest=false`). */
export function makeCacheIndex(): { blobs: Buffer<ArrayBuffer>[]; text: string } {
  const { blobs } = makeImage([1000])
  const manifests = blobs.map((blob, at) => {
    const mediaType = at === 0 ? 'application/vnd.buildkit.cacheconfig.v0' : LAYER_TYPE
    return { mediaType, digest: digestOf(blob), size: blob.length }
  })
  return { blobs, text: JSON.stringify({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests }) }
}

export function codeOf(answer: Answer): string | undefined {
  return answer.json.errors?.[0]?.code
}
