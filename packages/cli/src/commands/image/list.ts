// `shoal image list`: repositories of a registry and their tags.
import { isRepositoryName, parseRegistry } from '@shoal/oci'
import type { Registry } from '@shoal/origin/images'
import { UpstreamError } from '@shoal/upstream'
import PQueue from 'p-queue'
import { UsageError } from '../../exit-codes.ts'
import type { Output } from '../../program.ts'
import { usage, withRegistry, type ConnectionOptions } from './session.ts'

const CONCURRENT_LISTS = 8

export interface ListOptions extends ConnectionOptions {
  json?: boolean
}

export async function listCommand(place: string, options: ListOptions, output: Output): Promise<number> {
  const slash = place.indexOf('/')
  const host = usage(() => parseRegistry(slash === -1 ? place : place.slice(0, slash)))
  const prefix = slash === -1 ? '' : place.slice(slash + 1).replace(/\/+$/, '')
  if (prefix !== '' && !isRepositoryName(prefix)) {
    throw new UsageError(`${JSON.stringify(prefix)} is not the beginning of a repository name`)
  }
  return await withRegistry([host], options, async (registry, signal) => {
    const repositories = await repositoriesAt(registry, host, prefix, signal)
    const queue = new PQueue({ concurrency: CONCURRENT_LISTS })
    const tags = await queue.addAll(
      repositories.map((repository) => async () => {
        const list = await registry.listTags({ registry: host, repository }, {}, { signal })
        return { repository: `${host}/${repository}`, tags: list.tags.toSorted() }
      }),
    )
    if (options.json === true) output.out(`${JSON.stringify(tags, null, 2)}\n`)
    else for (const one of tags) output.out(one.tags.map((tag) => `${one.repository}:${tag}\n`).join(''))
  })
}

async function repositoriesAt(
  registry: Registry,
  host: string,
  prefix: string,
  signal: AbortSignal,
): Promise<string[]> {
  const isUnder = (repository: string): boolean =>
    prefix === '' || repository === prefix || repository.startsWith(`${prefix}/`)
  try {
    return (await registry.listRepositories(host, { signal })).filter(isUnder)
  } catch (error) {
    // Many registries list nothing as a whole, but say the tags of a repository.
    if (!(error instanceof UpstreamError) || error.isOutage || prefix === '') throw error
    return [prefix]
  }
}
