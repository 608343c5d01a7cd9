// `docker search` against this registry: the /v1/ endpoints that docker still asks, answered from the repository names.
import type { FastifyPluginCallback } from 'fastify'
import { endpointOf } from '@shoal/registry'
import type { Asking } from './accounts/accounts.ts'

const DEFAULT_RESULTS = 25
const MAX_RESULTS = 100

export interface SearchResult {
  name: string
  description: string
}

export interface SearchOptions {
  /** Finds repositories for a term, best first, among those that who asks may see. */
  search(term: string, asking: Asking): Promise<SearchResult[]>
}

export const searchPlugin: FastifyPluginCallback<SearchOptions> = (fastify, options, done) => {
  fastify.get('/v1/_ping', async () => true)
  fastify.get('/v1/search', async (request) => {
    const query = request.query as Record<string, unknown>
    const term = typeof query['q'] === 'string' ? query['q'] : ''
    const pageSize = clamp(query['n'] ?? query['page_size'], DEFAULT_RESULTS, MAX_RESULTS)
    const page = clamp(query['page'], 1, 1_000_000)
    const found = await options.search(term, {
      authorization: request.headers.authorization,
      remoteAddress: request.ip,
      endpoint: endpointOf(request),
    })
    return {
      num_results: found.length,
      query: term,
      num_pages: Math.ceil(found.length / pageSize),
      page,
      page_size: pageSize,
      results: found.slice((page - 1) * pageSize, page * pageSize).map(({ name, description }) => ({
        name,
        description,
        star_count: 0,
        is_official: false,
        is_automated: false,
      })),
    }
  })
  done()
}

function clamp(value: unknown, otherwise: number, most: number): number {
  const number = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : otherwise
  return Math.min(Math.max(1, number), most)
}

/** Names that contain the term; those that begin with it, or whose last part does, come first. */
export function rankNames(names: string[], term: string): string[] {
  const wanted = term.toLowerCase().replace(/^\/+|\/+$/g, '')
  const rank = (name: string): number => {
    if (name === wanted || name.endsWith(`/${wanted}`)) return 0
    if (name.startsWith(wanted)) return 1
    return name.includes(`/${wanted}`) ? 2 : 3
  }
  return names
    .filter((name) => name.includes(wanted))
    .map((name) => ({ name, rank: rank(name) }))
    .sort((a, b) => a.rank - b.rank || (a.name < b.name ? -1 : 1))
    .map(({ name }) => name)
}
