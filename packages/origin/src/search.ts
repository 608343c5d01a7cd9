// `docker search` against this registry: the /v1/ endpoints that docker still asks, answered from the names of
// repositories and what they say of themselves.
import type { FastifyPluginCallback } from 'fastify'
import { endpointOf } from '@shoal/registry'
import type { Asking } from './accounts/accounts.ts'

/** The library that podman searches with, in its user agent. */
const PODMAN = /containers\/image|libpod|buildah/i
const DEFAULT_RESULTS = 25
const MAX_RESULTS = 100

export interface SearchResult {
  name: string
  description: string
}

export interface SearchOptions {
  /** Finds repositories for a term, best first, among those that who asks may see. */
  search(term: string, asking: Asking): Promise<SearchResult[]>
  /** There are accounts, so that who has not logged in sees less. */
  hasAccounts: boolean
}

export const searchPlugin: FastifyPluginCallback<SearchOptions> = (fastify, options, done) => {
  fastify.get('/v1/_ping', async () => true)
  fastify.get('/v1/search', async (request, reply) => {
    const { authorization, 'user-agent': program = '' } = request.headers
    // podman never logs in here, but it does for the catalogue, which it asks when there is no search.
    if (options.hasAccounts && authorization === undefined && PODMAN.test(program)) {
      const message = 'searching here takes a login; without one, ask /v2/_catalog'
      return reply.code(404).send({ errors: [{ code: 'UNSUPPORTED', message }] })
    }
    const query = request.query as Record<string, unknown>
    const term = typeof query['q'] === 'string' ? query['q'] : ''
    const pageSize = clamp(query['n'] ?? query['page_size'], DEFAULT_RESULTS, MAX_RESULTS)
    const page = clamp(query['page'], 1, 1_000_000)
    const found = await options.search(term, {
      authorization,
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

/**
 * Repositories whose name or description contains the term: the names first, and among them those that begin with it, or
 * whose last part does.
 */
export function rankResults(results: readonly SearchResult[], term: string): SearchResult[] {
  const wanted = withoutSlashes(term.toLowerCase())
  const rank = ({ name, description }: SearchResult): number => {
    if (name === wanted || name.endsWith(`/${wanted}`)) return 0
    if (name.startsWith(wanted)) return 1
    if (name.includes(`/${wanted}`)) return 2
    if (name.includes(wanted)) return 3
    return description.toLowerCase().includes(wanted) ? 4 : Infinity
  }
  return results
    .map((result) => ({ result, rank: rank(result) }))
    .filter((each) => each.rank < Infinity)
    .sort((a, b) => a.rank - b.rank || (a.result.name < b.result.name ? -1 : 1))
    .map(({ result }) => result)
}

/** Without those at either end. Not by a pattern: `\/+$` takes quadratic time where many are followed by something else. */
function withoutSlashes(text: string): string {
  let [start, end] = [0, text.length]
  while (text[start] === '/') start++
  while (end > start && text[end - 1] === '/') end--
  return text.slice(start, end)
}
