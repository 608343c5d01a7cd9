// The /v2/ API as a Fastify plugin. It decides what is asked and whether it is well formed; the backend does the rest.
import type { FastifyPluginCallback, FastifyReply, FastifyRequest } from 'fastify'
import { OciError } from '@shoal/oci'
import type { PullBackend, PushBackend } from './backend.ts'
import { createContext, type Call, type RegistrySettings } from './call.ts'
import { sendError } from './errors.ts'
import type { RegistryMetrics } from './metrics.ts'
import { checkDigest, checkName, checkReference, checkUploadId, parseRegistryPath, type RegistryPath } from './path.ts'
import * as pull from './pull.ts'
import * as push from './push.ts'

export interface RegistryPluginOptions {
  backend: PullBackend
  /** Takes pushes and deletes. Without it the endpoint is read-only and answers writes with 405. */
  push?: PushBackend
  /** Whether the first segment of a name may be a registry host with a port. @default true */
  hostInName?: boolean
  /** How long the first byte of a blob may take before the headers are sent without it. @default 5000 */
  headerGraceMs?: number
  /** A client that takes no byte of a blob for so long is cut off. @default 600000 */
  clientStallMs?: number
  /** A client that sends no byte of an upload for so long is cut off. @default 300000 */
  uploadStallMs?: number
  /** Most tags or repositories in one answer. @default 10000 */
  maxPageSize?: number
  metrics?: RegistryMetrics
}

type Method = 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
const METHODS: Method[] = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE']

/** What each endpoint takes; reading methods are those that a read-only endpoint has too. */
const ALLOWED: Record<RegistryPath['kind'], readonly Method[]> = {
  version: ['GET', 'HEAD'],
  catalog: ['GET', 'HEAD'],
  tags: ['GET', 'HEAD'],
  referrers: ['GET', 'HEAD'],
  chunks: ['GET', 'HEAD'],
  manifest: ['GET', 'HEAD', 'PUT', 'DELETE'],
  blob: ['GET', 'HEAD', 'DELETE'],
  uploads: ['POST'],
  upload: ['GET', 'HEAD', 'PATCH', 'PUT', 'DELETE'],
}

/**
 * OCI distribution specification 1.1 over a backend. Registers `/v2`, `/v2/` and `/v2/*` in a context of its own, so it
 * may stand beside other routes.
 */
export const registryPlugin: FastifyPluginCallback<RegistryPluginOptions> = (fastify, options, done) => {
  const settings: RegistrySettings = {
    backend: options.backend,
    push: options.push,
    hostInName: options.hostInName ?? true,
    headerGraceMs: options.headerGraceMs ?? 5_000,
    clientStallMs: options.clientStallMs ?? 600_000,
    uploadStallMs: options.uploadStallMs ?? 300_000,
    maxPageSize: options.maxPageSize ?? 10_000,
    metrics: options.metrics,
  }

  fastify.decorateRequest('registryRoute')
  // Bodies are streams for the backend, whatever they say they are.
  fastify.removeAllContentTypeParsers()
  fastify.addContentTypeParser('*', (_request, _payload, parsed) => parsed(null))

  fastify.addHook('onRequest', (request, reply, next) => {
    reply.header('docker-distribution-api-version', 'registry/2.0')
    normalizeContentType(request)
    next()
  })
  fastify.addHook('onResponse', (request, reply, next) => {
    const route = request.registryRoute ?? 'other'
    settings.metrics?.request(route, reply.raw.statusCode)
    if (route !== 'blob') settings.metrics?.firstByte(route, reply.elapsedTime / 1000)
    next()
  })
  fastify.setErrorHandler((error, request, reply) => sendError(request, reply, error))

  const handler = async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
    try {
      await dispatch(request, reply, settings)
    } catch (error) {
      if (reply.raw.destroyed) {
        request.log.debug({ err: error, url: request.url }, 'the client has gone')
        reply.hijack()
      } else await sendError(request, reply, error)
    }
    return reply
  }
  for (const url of ['/v2', '/v2/*']) fastify.route({ method: METHODS, url, exposeHeadRoute: false, handler })
  done()
}

/** Clients send all sorts of Content-Type with an upload; none of them matters, and Fastify must not refuse any. */
function normalizeContentType(request: FastifyRequest): void {
  const { headers } = request.raw
  const type = headers['content-type']
  if (type !== undefined && !/^[\w!#$&^.+-]+\/[\w!#$&^.+-]+(\s*;.*)?$/.test(type)) {
    headers['content-type'] = 'application/octet-stream'
  }
}

async function dispatch(request: FastifyRequest, reply: FastifyReply, settings: RegistrySettings): Promise<void> {
  const path = parseRegistryPath(request.raw.url ?? '')
  const method = request.method as Method
  if (!path) {
    if (method !== 'GET' && method !== 'HEAD' && !settings.push) throw readOnly()
    throw new OciError('NAME_UNKNOWN', 'there is no such endpoint: see the OCI distribution specification', {
      status: 404,
    })
  }
  request.registryRoute = path.kind
  const writing = (method !== 'GET' && method !== 'HEAD') || path.kind === 'upload' || path.kind === 'uploads'
  if (writing && !settings.push) throw readOnly()
  if (!ALLOWED[path.kind].includes(method)) {
    throw new OciError('UNSUPPORTED', `${method} does not apply here`, {
      headers: { allow: ALLOWED[path.kind].join(', ') },
    })
  }
  if ('name' in path) checkName(path.name, settings.hostInName)
  const call: Call = { request, reply, settings, context: createContext(request, reply) }
  if (writing && settings.push) await dispatchPush(call, settings.push, method, path)
  else await dispatchPull(call, path)
}

function readOnly(): OciError {
  return new OciError('UNSUPPORTED', 'read only: push to the registry that owns the image', {
    headers: { allow: 'GET, HEAD' },
  })
}

async function dispatchPull(call: Call, path: RegistryPath): Promise<void> {
  switch (path.kind) {
    case 'version':
      return pull.getVersion(call)
    case 'catalog':
      return pull.getCatalog(call)
    case 'tags':
      return pull.getTags(call, path.name)
    case 'manifest':
      return pull.getManifest(call, path.name, checkReference(path.reference, false))
    case 'blob':
      return pull.getBlob(call, path.name, checkDigest(path.digest))
    case 'referrers':
      return pull.getReferrers(call, path.name, checkDigest(path.digest))
    case 'chunks':
      return pull.getChunkList(call, path.name, checkDigest(path.digest))
  }
}

async function dispatchPush(call: Call, backend: PushBackend, method: Method, path: RegistryPath): Promise<void> {
  if ('name' in path && method !== 'DELETE') await backend.mayPush?.(call.context, path.name)
  switch (path.kind) {
    case 'manifest': {
      const reference = checkReference(path.reference, method === 'PUT')
      if (method === 'PUT') return push.putManifest(call, backend, path.name, reference)
      return push.deleteManifest(call, backend, path.name, reference)
    }
    case 'blob':
      return push.deleteBlob(call, backend, path.name, checkDigest(path.digest))
    case 'uploads':
      return push.postUpload(call, backend, path.name)
    case 'upload': {
      const id = checkUploadId(path.id)
      if (method === 'PATCH') return push.patchUpload(call, backend, path.name, id)
      if (method === 'PUT') return push.putUpload(call, backend, path.name, id)
      if (method === 'DELETE') return push.deleteUpload(call, backend, path.name, id)
      return push.getUpload(call, backend, path.name, id)
    }
  }
}
