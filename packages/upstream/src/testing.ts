// A registry made of one handler, on a port of its own, for the tests of this room.
import assert from 'node:assert/strict'
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import https from 'node:https'
import type { AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import { digestOf, MEDIA_TYPE_OCI_MANIFEST, type Digest } from '@shoal/oci'
import { createUpstream } from './client.ts'
import type { UpstreamOptions } from './options.ts'
import type { Push } from './push.ts'
import type { RepositoryTarget, RequestOptions, Upstream, UpstreamErrorCode } from './upstream.ts'

export interface SeenRequest {
  method: string
  url: string
  headers: IncomingMessage['headers']
  body: string
}

export type Handler = (request: SeenRequest, response: ServerResponse, number: number) => void | Promise<void>

export interface FakeServer {
  /** `127.0.0.1:port` */
  host: string
  url: string
  port: number
  /** All requests so far. */
  seen: SeenRequest[]
  /** Requests whose path contains the text. */
  seenAt(part: string): SeenRequest[]
  connections(): Promise<number>
}

/** Starts a server that ends with the test. */
export async function startServer(t: TestContext, handler: Handler, tls?: https.ServerOptions): Promise<FakeServer> {
  const seen: SeenRequest[] = []
  const listener = (incoming: IncomingMessage, response: ServerResponse): void => {
    const chunks: Buffer[] = []
    incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
    incoming.on('end', () => {
      const request: SeenRequest = {
        method: incoming.method ?? '',
        url: incoming.url ?? '',
        headers: incoming.headers,
        body: Buffer.concat(chunks).toString(),
      }
      seen.push(request)
      Promise.resolve(handler(request, response, seen.length)).catch(() => response.destroy())
    })
  }
  const server = tls === undefined ? http.createServer(listener) : https.createServer(tls, listener)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(async () => {
    server.closeAllConnections()
    await new Promise((resolve) => server.close(resolve))
  })
  const { port } = server.address() as AddressInfo
  return {
    host: `127.0.0.1:${port}`,
    url: `${tls === undefined ? 'http' : 'https'}://127.0.0.1:${port}`,
    port,
    seen,
    seenAt: (part) => seen.filter(({ url }) => url.includes(part)),
    connections: () =>
      new Promise((resolve, reject) =>
        server.getConnections((error, count) => (error ? reject(error) : resolve(count))),
      ),
  }
}

/** A client that ends with the test, does not wait long, and knows no proxy of the environment. */
export function startUpstream(t: TestContext, options: UpstreamOptions = {}): Upstream & Push {
  const upstream = createUpstream({ retryBaseDelayMs: 1, retryMaxDelayMs: 2, proxy: false, ...options })
  t.after(() => upstream.close())
  return upstream
}

/** Options of a request that gives up when the test hangs. */
export function requestOptions(more: Partial<RequestOptions> = {}): RequestOptions {
  return { signal: AbortSignal.timeout(20_000), ...more }
}

export function targetAt(host: string, repository = 'team/app'): RepositoryTarget {
  return { registry: host, repository }
}

/** For `assert.rejects`: an UpstreamError with this code. */
export const fails = (code: UpstreamErrorCode, message?: RegExp) => (error: Error & { code?: string }) => {
  assert.equal(error.code, code, error.stack ?? '')
  if (message !== undefined) assert.match(error.message, message)
  return true
}

const layer = Buffer.from('the layer')
export const manifestBytes = Buffer.from(
  JSON.stringify({
    schemaVersion: 2,
    mediaType: MEDIA_TYPE_OCI_MANIFEST,
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: digestOf('{}'), size: 2 },
    layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: digestOf(layer), size: layer.length }],
  }),
)
export const manifestDigest: Digest = digestOf(manifestBytes)

/** Answers with the manifest above, as a good registry does. */
export function sendManifest(request: SeenRequest, response: ServerResponse): void {
  response.writeHead(200, {
    'content-type': MEDIA_TYPE_OCI_MANIFEST,
    'content-length': manifestBytes.length,
    'docker-content-digest': manifestDigest,
  })
  response.end(request.method === 'HEAD' ? undefined : manifestBytes)
}

export function sendError(
  response: ServerResponse,
  status: number,
  code: string,
  headers: http.OutgoingHttpHeaders = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers })
  response.end(JSON.stringify({ errors: [{ code, message: `message of ${code}` }] }))
}

/** Answers with a blob, whole or in the part that Range asks for. */
export function sendBlob(request: SeenRequest, response: ServerResponse, content: Buffer): void {
  const match = /^bytes=([0-9]+)-([0-9]*)$/.exec(request.headers.range ?? '')
  if (match === null) {
    response.writeHead(200, { 'content-length': content.length })
    response.end(request.method === 'HEAD' ? undefined : content)
    return
  }
  const start = Number(match[1])
  const end = match[2] === '' ? content.length - 1 : Math.min(Number(match[2]), content.length - 1)
  if (start >= content.length) {
    response.writeHead(416, { 'content-range': `bytes */${content.length}` }).end()
    return
  }
  response.writeHead(206, {
    'content-length': end - start + 1,
    'content-range': `bytes ${start}-${end}/${content.length}`,
  })
  response.end(content.subarray(start, end + 1))
}

export async function readAll(body: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of body) chunks.push(chunk)
  return Buffer.concat(chunks)
}
