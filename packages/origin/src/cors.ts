// Lets web pages of other origins use the registry from a browser (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol):
// only the origins that are named, and nobody when none is.
import cors from '@fastify/cors'
import type { FastifyInstance } from 'fastify'

/** How long a browser may remember what it was allowed, in seconds. */
const MAX_AGE_S = 600

/** What a page needs to see of answers to pull, push, page through lists and log in. */
const EXPOSED_HEADERS = [
  'Docker-Content-Digest',
  'Docker-Distribution-Api-Version',
  'Docker-Upload-UUID',
  'Content-Range',
  'Link',
  'Location',
  'OCI-Filters-Applied',
  'OCI-Subject',
  'OCI-Tag',
  'Range',
  'Retry-After',
  'WWW-Authenticate',
  'X-Request-Id',
]
const ALLOWED_HEADERS = ['Accept', 'Authorization', 'Content-Range', 'Content-Type', 'If-None-Match', 'Range']

/** As browsers write them: without the port that is the default of the scheme. */
export function originsOf(origins: readonly string[]): string[] {
  return origins.map((origin) => new URL(origin).origin)
}

/**
 * Others than `origins` get the same answers as without this, which a browser keeps from their pages.
 * @param origins - `https://ui.example.com`: scheme, host and port, compared as a whole
 */
export async function allowOrigins(server: FastifyInstance, origins: readonly string[]): Promise<void> {
  const allowed = new Set(originsOf(origins))
  await server.register(cors, {
    origin: (origin, allow) => allow(null, origin !== undefined && allowed.has(origin) && origin),
    methods: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'],
    allowedHeaders: ALLOWED_HEADERS,
    exposedHeaders: EXPOSED_HEADERS,
    credentials: true,
    maxAge: MAX_AGE_S,
  })
}
