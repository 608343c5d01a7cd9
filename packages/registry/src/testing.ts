// For the tests of this room: a backend in memory, a server around it, and an HTTP client that shows raw sockets.
import { once } from 'node:events'
import { request, type IncomingMessage, type RequestOptions } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { Readable } from 'node:stream'
import { digestOf, OciError, type Digest } from '@shoal/oci'
import { pino } from 'pino'
import type { BlobAnswer, ManifestAnswer, PullBackend } from './backend.ts'
import { registryPlugin, type RegistryPluginOptions } from './plugin.ts'
import { createRegistryServer, type RegistryServer, type RegistryServerOptions } from './server.ts'

export class MemoryBackend implements PullBackend {
  readonly manifests = new Map<string, ManifestAnswer>()
  readonly blobs = new Map<string, BlobAnswer>()
  readonly tagNames: string[] = []
  /** What the backend was asked, `<name> <what>`. */
  readonly asked: string[] = []

  addManifest(reference: string, text: string, extra: Partial<ManifestAnswer> = {}): ManifestAnswer {
    const bytes = Buffer.from(text)
    const mediaType = 'application/vnd.oci.image.manifest.v1+json'
    const answer: ManifestAnswer = {
      digest: digestOf(bytes),
      mediaType,
      sizeBytes: bytes.length,
      bytes,
      source: 'store',
      ...extra,
    }
    this.manifests.set(reference, answer)
    this.manifests.set(answer.digest, answer)
    return answer
  }

  addBlob(bytes: Buffer, open?: BlobAnswer['open']): Digest {
    const digest = digestOf(bytes)
    this.blobs.set(digest, {
      digest,
      sizeBytes: bytes.length,
      source: 'swarm',
      open: open ?? ((start, end) => Readable.from([bytes.subarray(start, end + 1)], { objectMode: false })),
    })
    return digest
  }

  async manifest(_context: unknown, name: string, reference: string): Promise<ManifestAnswer> {
    this.asked.push(`${name} ${reference}`)
    const found = this.manifests.get(reference)
    if (!found) throw new OciError('MANIFEST_UNKNOWN', 'no such manifest')
    return found
  }

  async blob(_context: unknown, name: string, digest: Digest): Promise<BlobAnswer> {
    this.asked.push(`${name} ${digest}`)
    const found = this.blobs.get(digest)
    if (!found) throw new OciError('BLOB_UNKNOWN', 'no such blob')
    return found
  }

  async tags(_context: unknown, _name: string, page: { limit?: number; after?: string }) {
    const rest = this.tagNames.filter((tag) => page.after === undefined || tag > page.after)
    const tags = rest.slice(0, page.limit)
    return { tags, more: tags.length < rest.length }
  }

  async referrers(_context: unknown, _name: string, digest: Digest, artifactType: string | undefined) {
    return { descriptors: [{ digest, artifactType }], filtered: artifactType !== undefined }
  }
}

export interface TestServer extends AsyncDisposable {
  readonly server: RegistryServer
  readonly port: number
}

export async function startServer(
  plugin: RegistryPluginOptions,
  options: Partial<RegistryServerOptions> = {},
): Promise<TestServer> {
  const server = createRegistryServer({ logger: pino({ level: 'silent' }), ...options })
  await server.register(registryPlugin, plugin)
  await server.listen({ host: '127.0.0.1', port: 0 })
  const { port } = server.server.address() as AddressInfo
  return {
    server,
    port,
    async [Symbol.asyncDispose]() {
      server.server.closeAllConnections()
      await server.close()
    },
  }
}

export interface Answer {
  status: number
  headers: IncomingMessage['headers']
  body: Buffer
  text: string
  json(): { errors: { code: string; message: string }[] } & Record<string, unknown>
}

/** One request on a connection of its own; the path goes out as it is. */
export async function ask(
  port: number,
  path: string,
  options: RequestOptions & { body?: string | Buffer } = {},
): Promise<Answer> {
  const { body: sent, ...rest } = options
  const outgoing = request({ host: '127.0.0.1', port, path, agent: false, ...rest })
  outgoing.end(sent)
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage]
  const pieces: Buffer[] = []
  for await (const piece of response) pieces.push(piece as Buffer)
  const body = Buffer.concat(pieces)
  const text = body.toString()
  return {
    status: response.statusCode ?? 0,
    headers: response.headers,
    body,
    text,
    json: () => JSON.parse(text) as ReturnType<Answer['json']>,
  }
}

/** A bare connection that has sent `text`. */
export async function rawConnection(port: number, text: string | Buffer): Promise<Socket> {
  const socket = connect({ host: '127.0.0.1', port })
  await once(socket, 'connect')
  socket.write(text)
  return socket
}

/** Reads until the other side ends; tells whether it ended with FIN (`end`) or a reset. */
export async function readToEnd(socket: Socket): Promise<{ bytes: Buffer; ended: 'fin' | 'reset' }> {
  const pieces: Buffer[] = []
  socket.on('data', (piece: Buffer) => pieces.push(piece))
  const ended = await new Promise<'fin' | 'reset'>((resolve) => {
    socket.once('end', () => resolve('fin'))
    socket.once('error', () => resolve('reset'))
  })
  socket.destroy()
  return { bytes: Buffer.concat(pieces), ended }
}
