// A registry that takes uploads and breaks connections when it is told to, for the tests of this room.
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import { digestOf } from '@shoal/oci'

export interface UploadRegistry {
  host: string
  /** Method, path with query, and the headers, in the order they came. */
  seen: { method: string; url: string; headers: IncomingMessage['headers'] }[]
  /** Blobs by repository and digest: `team/app@sha256:…`. */
  blobs: Map<string, Buffer>
  /** Uploads that were neither finished nor cancelled. */
  open: Map<string, Buffer>
  /** Uploads that bring data are cut after this many bytes each, until the list is used up. */
  cuts: number[]
  /** Answers first, where it wants to. */
  intercept: (request: IncomingMessage, response: ServerResponse) => boolean
}

/** Starts a registry that ends with the test. */
export async function startUploadRegistry(t: TestContext): Promise<UploadRegistry> {
  const registry: UploadRegistry = {
    host: '',
    seen: [],
    blobs: new Map(),
    open: new Map(),
    cuts: [],
    intercept: () => false,
  }
  const server = http.createServer((request, response) => {
    registry.seen.push({ method: request.method ?? '', url: request.url ?? '', headers: request.headers })
    if (!registry.intercept(request, response)) void answer(registry, request, response).catch(() => response.destroy())
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(async () => {
    server.closeAllConnections()
    await new Promise((resolve) => server.close(resolve))
  })
  registry.host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  return registry
}

async function answer(registry: UploadRegistry, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { pathname, searchParams } = new URL(request.url ?? '', 'http://registry')
  const [, repository = '', rest = ''] = /^\/v2\/(.+)\/blobs\/(.+)$/.exec(pathname) ?? []
  if (request.method === 'HEAD') {
    const found = registry.blobs.get(`${repository}@${rest}`)
    response.writeHead(found ? 200 : 404, found ? { 'content-length': found.length } : {}).end()
    return
  }
  if (request.method === 'POST') {
    const digest = searchParams.get('mount') ?? ''
    const mounted = registry.blobs.get(`${searchParams.get('from')}@${digest}`)
    if (mounted !== undefined) {
      registry.blobs.set(`${repository}@${digest}`, mounted)
      response.writeHead(201, { 'docker-content-digest': digest }).end()
      return
    }
    const id = String(registry.seen.length)
    registry.open.set(id, Buffer.alloc(0))
    response.writeHead(202, { location: `/v2/${repository}/blobs/uploads/${id}?state=x` }).end()
    return
  }
  const id = rest.replace('uploads/', '')
  const had = registry.open.get(id)
  if (had === undefined) {
    response.writeHead(404).end()
    return
  }
  if (request.method === 'DELETE') {
    registry.open.delete(id)
    response.writeHead(204).end()
    return
  }
  let content = had
  if (request.method !== 'GET') {
    const from = /^([0-9]+)-/.exec(request.headers['content-range'] ?? '')?.[1]
    if (from !== undefined && Number(from) !== content.length) {
      response.writeHead(416).end()
      return
    }
    const cut = registry.cuts.shift()
    content = await take(request, content, cut)
    registry.open.set(id, content)
    if (cut !== undefined) {
      request.socket.destroy()
      return
    }
  }
  if (request.method !== 'PUT') {
    const range = `0-${Math.max(0, content.length - 1)}`
    response.writeHead(request.method === 'GET' ? 204 : 202, { location: request.url, range }).end()
    return
  }
  const digest = searchParams.get('digest') ?? ''
  registry.open.delete(id)
  if (digestOf(content) === digest) registry.blobs.set(`${repository}@${digest}`, content)
  response.writeHead(digestOf(content) === digest ? 201 : 400, { 'docker-content-digest': digestOf(content) }).end()
}

/** Up to `cut` bytes of the body, behind what is there. */
async function take(request: IncomingMessage, had: Buffer, cut: number | undefined): Promise<Buffer> {
  const pieces = [had]
  let length = 0
  for await (const piece of request as AsyncIterable<Buffer>) {
    pieces.push(cut === undefined ? piece : piece.subarray(0, cut - length))
    length += piece.length
    if (cut !== undefined && length >= cut) break
  }
  return Buffer.concat(pieces)
}
