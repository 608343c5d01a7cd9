// `GET /api/v1/usage`: how much is stored where, for those who may see it.
import type { FastifyPluginCallback } from 'fastify'
import { endpointOf, sendError } from '@shoal/registry'
import type { Accounts } from './accounts/accounts.ts'
import type { RepositoryUsage, Usage } from './usage.ts'

export interface UsagePluginOptions {
  usage: Usage
  /** Places are shown to who has logged in, a repository to who may pull it. Without accounts everybody sees all. */
  accounts: Accounts | undefined
}

export const usagePlugin: FastifyPluginCallback<UsagePluginOptions> = (fastify, { usage, accounts }, done) => {
  fastify.setErrorHandler((error, request, reply) => sendError(request, reply, error))
  fastify.get('/api/v1/usage', async (request) => {
    const { authorization } = request.headers
    const asking = { authorization, remoteAddress: request.ip, endpoint: endpointOf(request) }
    await accounts?.checkVersion(asking)
    const mayPull = (await accounts?.listed(asking)) ?? (() => true)
    const { countedMs, places, repositories } = await usage.report()
    const seen = repositories.filter(({ repository }) => mayPull(repository))
    // A token may be anonymous.
    const shown = accounts === undefined || (await accounts.userOf(asking)) !== undefined ? places : []
    return { counted: new Date(countedMs).toISOString(), places: shown, namespaces: sumUp(seen), repositories: seen }
  })
  done()
}

/** By the first part of the names. */
function sumUp(repositories: RepositoryUsage[]): { namespace: string; bytes: number; repositories: number }[] {
  const sums = new Map<string, { namespace: string; bytes: number; repositories: number }>()
  for (const { repository, bytes } of repositories) {
    const [namespace = ''] = repository.split('/')
    const sum = sums.get(namespace) ?? { namespace, bytes: 0, repositories: 0 }
    sum.bytes += bytes
    sum.repositories++
    sums.set(namespace, sum)
  }
  return [...sums.values()]
}
