// Which registry a request means. Clients say it in three ways: `?ns=`, the first segment of the path, or not at all.
import {
  DEFAULT_REGISTRY,
  InvalidReferenceError,
  isDigest,
  isRepositoryName,
  OciError,
  parseRegistry,
} from '@shoal/oci'
import type { RepositoryTarget } from '@shoal/upstream'

/** What names mean at this agent. */
export interface Naming {
  defaultRegistry: string
  /** Whether the operator has named this registry, so that no repository is called so. */
  isNamed: (registry: string) => boolean
}

/**
 * The repository that a request is about. `name` is the path between `/v2/` and `/manifests/` or `/blobs/`.
 * @throws OciError(NAME_INVALID) for a name or registry that breaks the grammar
 */
export function targetOf(name: string, namespace: string | undefined, naming: Naming): RepositoryTarget {
  if (namespace !== undefined) return target(namespace, stripHost(name, namespace))
  const slash = name.indexOf('/')
  const registry = slash < 0 ? undefined : registryOfSegment(name.slice(0, slash), naming)
  if (registry !== undefined) return target(registry, name.slice(slash + 1))
  return target(naming.defaultRegistry, name)
}

/**
 * The registry that the first segment of a name is, if it is one. docker's rule: a segment with a dot or a colon, or
 * `localhost`. docker lets nobody write a colon behind the first slash, so `HOST__PORT` means `HOST:PORT`. It is never a
 * part of a repository's name where HOST is a registry by docker's rule; any other is a registry when it has been named.
 */
export function registryOfSegment(segment: string, { isNamed }: Pick<Naming, 'isNamed'>): string | undefined {
  const [, host = '', port] = /^([^_]+)__([0-9]+)$/.exec(segment) ?? []
  if (port !== undefined) {
    const registry = registryOf(`${host}:${port}`)
    return registry !== undefined && (isHostSegment(host) || isNamed(registry)) ? registry : undefined
  }
  return isHostSegment(segment) ? registryOf(segment) : undefined
}

/** How a registry is written as a segment of a name. */
export function segmentOfRegistry(registry: string): string {
  return registry.replace(/:(?=[0-9]+$)/, '__')
}

/** Text of an image by tag or digest, the same on every node: key of lookups. */
export function imageKey({ registry, repository }: RepositoryTarget, reference: string): string {
  return `${registry}/${repository}${isDigest(reference) ? '@' : ':'}${reference}`
}

function isHostSegment(segment: string): boolean {
  return segment.includes('.') || segment.includes(':') || segment === 'localhost'
}

function registryOf(text: string): string | undefined {
  try {
    return parseRegistry(text)
  } catch {
    return undefined
  }
}

/** containerd with `override_path` sends the prefix and `ns`. */
function stripHost(name: string, namespace: string): string {
  return name.startsWith(`${namespace}/`) ? name.slice(namespace.length + 1) : name
}

function target(host: string, path: string): RepositoryTarget {
  try {
    const registry = parseRegistry(host)
    const repository = registry === DEFAULT_REGISTRY && !path.includes('/') ? `library/${path}` : path
    if (!isRepositoryName(repository)) throw new OciError('NAME_INVALID', `"${path}" is not a repository name`)
    return { registry, repository }
  } catch (error) {
    if (!(error instanceof InvalidReferenceError)) throw error
    throw new OciError('NAME_INVALID', `"${host}" is not a registry: ${error.message}`, { cause: error })
  }
}
