// Lets the origin of the tests take pushes: uploads in pieces, mounts, manifests.
import type { IncomingMessage, ServerResponse } from 'node:http'
import { buffer } from 'node:stream/consumers'
import { digestOf, isDigest } from '@shoal/oci'
import { refuse, type TestRegistry } from './registry.ts'

/** @returns uploads that were opened and neither finished nor cancelled, by id */
export function takePushes(
  registry: TestRegistry,
  refuses: (request: IncomingMessage, response: ServerResponse) => boolean = () => false,
): Map<string, Buffer> {
  const uploads = new Map<string, Buffer>()
  let count = 0

  const answerUpload = async (request: IncomingMessage, response: ServerResponse, id: string, url: URL) => {
    const before = uploads.get(id)
    if (before === undefined) return refuse(response, 404, 'BLOB_UPLOAD_UNKNOWN')
    const bytes = Buffer.concat([before, await buffer(request)])
    uploads.set(id, bytes)
    if (request.method === 'PATCH') {
      response.writeHead(202, { location: url.pathname, range: `0-${bytes.length - 1}` }).end()
      return
    }
    uploads.delete(id)
    if (request.method === 'DELETE') return void response.writeHead(204).end()
    if (digestOf(bytes) !== url.searchParams.get('digest')) return refuse(response, 400, 'DIGEST_INVALID')
    registry.addBlob(bytes)
    response.writeHead(201).end()
  }

  registry.mood = async (request, response) => {
    const url = new URL(request.url ?? '', 'http://registry')
    if (refuses(request, response)) return true
    if (request.method === 'GET' || request.method === 'HEAD') return false
    const [, repository = '', reference = ''] = /^\/v2\/(.+)\/manifests\/(.+)$/.exec(url.pathname) ?? []
    if (request.method === 'PUT' && repository !== '') {
      const bytes = await buffer(request)
      const name = isDigest(reference) ? repository : `${repository}:${reference}`
      registry.addManifest(name, bytes.toString(), request.headers['content-type'] ?? '')
      response.writeHead(201, { 'docker-content-digest': digestOf(bytes) }).end()
    } else if (request.method === 'POST') {
      const mount = url.searchParams.get('mount')
      const isThere = isDigest(mount ?? undefined) && [...registry.blobs.keys()].some((digest) => digest === mount)
      const id = String(++count)
      if (!isThere) uploads.set(id, Buffer.alloc(0))
      response.writeHead(isThere ? 201 : 202, { location: `${url.pathname}${id}` }).end()
    } else await answerUpload(request, response, url.pathname.slice(url.pathname.lastIndexOf('/') + 1), url)
    return true
  }
  return uploads
}
