// An origin registry in memory, behind a real HTTP server, that counts and misbehaves on request.
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { randomBytes } from 'node:crypto'
import type { TestContext } from 'node:test'
import { digestOf, type Digest } from '@shoal/oci'

export const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json'
export const INDEX_TYPE = 'application/vnd.oci.image.index.v1+json'
const LAYER_TYPE = 'application/vnd.oci.image.layer.v1.tar'
const CONFIG_TYPE = 'application/vnd.oci.image.config.v1+json'

export interface TestImage {
  digest: Digest
  text: string
  config: Digest
  layers: Digest[]
}

export class TestRegistry {
  readonly blobs = new Map<Digest, Buffer>()
  /** By `repository:tag` and by digest. */
  readonly manifests = new Map<string, { type: string; bytes: Buffer }>()
  /** `METHOD path` of all requests. */
  readonly asked: string[] = []
  blobBytes = 0
  /** Answers instead of the registry; true when it has. */
  mood: (request: IncomingMessage, response: ServerResponse) => boolean | Promise<boolean> = () => false
  /** Called before each piece of a blob. */
  pace: (position: number) => Promise<void> | void = () => undefined
  host = ''

  addBlob(content: Buffer | number): Digest {
    const bytes = typeof content === 'number' ? randomBytes(content) : content
    const digest = digestOf(bytes)
    this.blobs.set(digest, bytes)
    return digest
  }

  addImage(name: string, layerSizes: number[], platform?: { os: string; architecture: string }): TestImage {
    const config = this.addBlob(
      Buffer.from(
        JSON.stringify({ os: 'linux', architecture: 'amd64', ...platform, seed: randomBytes(4).toString('hex') }),
      ),
    )
    const layers = layerSizes.map((size) => this.addBlob(size))
    const describe = (mediaType: string, digest: Digest) => ({
      mediaType,
      digest,
      size: this.blobs.get(digest)!.length,
    })
    const text = JSON.stringify({
      schemaVersion: 2,
      mediaType: MANIFEST_TYPE,
      config: describe(CONFIG_TYPE, config),
      layers: layers.map((digest) => describe(LAYER_TYPE, digest)),
    })
    return { digest: this.addManifest(name, text, MANIFEST_TYPE), text, config, layers }
  }

  /** @param name `repository:tag`, or a repository alone for what has no tag */
  addManifest(name: string, text: string, type: string): Digest {
    const bytes = Buffer.from(text)
    const digest = digestOf(bytes)
    if (name.includes(':')) this.manifests.set(name, { type, bytes })
    this.manifests.set(digest, { type, bytes })
    return digest
  }

  addIndex(name: string, images: { image: TestImage; platform: { os: string; architecture: string } }[]): Digest {
    const manifests = images.map(({ image, platform }) => ({
      mediaType: MANIFEST_TYPE,
      digest: image.digest,
      size: Buffer.byteLength(image.text),
      platform,
    }))
    return this.addManifest(name, JSON.stringify({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests }), INDEX_TYPE)
  }

  /** Requests whose line contains the text. */
  askedFor(part: string): string[] {
    return this.asked.filter((line) => line.includes(part))
  }

  async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = '', url = '' } = request
    this.asked.push(`${method} ${url}`)
    if (await this.mood(request, response)) return
    if (url === '/v2/') return void response.end('{}')
    const match = /^\/v2\/(.+)\/(manifests|blobs|tags)\/([^/?]+)/.exec(url)
    if (match === null) return refuse(response, 404, 'NAME_UNKNOWN')
    const [, repository, kind, reference] = match as unknown as [string, string, string, string]
    if (kind === 'manifests') this.#manifest(request, response, repository, reference)
    else if (kind === 'blobs') await this.#blob(request, response, reference as Digest)
    else
      response.setHeader('content-type', 'application/json').end(JSON.stringify({ name: repository, tags: ['1', '2'] }))
  }

  #manifest(request: IncomingMessage, response: ServerResponse, repository: string, reference: string): void {
    const found = this.manifests.get(reference) ?? this.manifests.get(`${repository}:${reference}`)
    if (found === undefined) return refuse(response, 404, 'MANIFEST_UNKNOWN')
    const digest = digestOf(found.bytes)
    const headers = {
      'content-type': found.type,
      'content-length': found.bytes.length,
      'docker-content-digest': digest,
    }
    response.writeHead(200, headers).end(request.method === 'HEAD' ? undefined : found.bytes)
  }

  async #blob(request: IncomingMessage, response: ServerResponse, digest: Digest): Promise<void> {
    const bytes = this.blobs.get(digest)
    if (bytes === undefined) return refuse(response, 404, 'BLOB_UNKNOWN')
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '')
    const start = range === null ? 0 : Number(range[1])
    const end = range === null || range[2] === '' ? bytes.length - 1 : Math.min(Number(range[2]), bytes.length - 1)
    const headers: Record<string, string | number> = { 'content-length': end - start + 1 }
    if (range !== null) headers['content-range'] = `bytes ${start}-${end}/${bytes.length}`
    response.writeHead(range === null ? 200 : 206, headers)
    if (request.method === 'HEAD') return void response.end()
    for (let position = start; position <= end; position += 65_536) {
      await this.pace(position)
      const piece = bytes.subarray(position, Math.min(position + 65_536, end + 1))
      this.blobBytes += piece.length
      if (!response.write(piece)) await drained(response)
      if (response.destroyed) return
    }
    response.end()
  }
}

function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const go = () => {
      response.off('drain', go)
      response.off('close', go)
      resolve()
    }
    response.on('drain', go)
    response.on('close', go)
  })
}

export function refuse(
  response: ServerResponse,
  status: number,
  code: string,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers })
  response.end(JSON.stringify({ errors: [{ code, message: `message of ${code}` }] }))
}

/** A registry that listens on the loopback until the test is over. */
export async function startRegistry(t: TestContext): Promise<TestRegistry> {
  const registry = new TestRegistry()
  const server = createServer((request, response) => {
    registry.answer(request, response).catch(() => response.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  registry.host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  t.after(async () => {
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
  })
  return registry
}
