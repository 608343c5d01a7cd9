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

/**
 * The repository that a request is about. `name` is the path between `/v2/` and `/manifests/` or `/blobs/`.
 * @throws OciError(NAME_INVALID) for a name or registry that breaks the grammar
 */
export function targetOf(name: string, namespace: string | undefined, defaultRegistry: string): RepositoryTarget {
  if (namespace !== undefined) return target(namespace, stripHost(name, namespace))
  const slash = name.indexOf('/')
  const first = slash < 0 ? '' : name.slice(0, slash)
  if (isHost(first)) return target(first, name.slice(slash + 1))
  return target(defaultRegistry, name)
}

/** Text of an image by tag or digest, the same on every node: key of lookups. */
export function imageKey({ registry, repository }: RepositoryTarget, reference: string): string {
  return `${registry}/${repository}${isDigest(reference) ? '@' : ':'}${reference}`
}

/** docker's rule: a first segment with a dot or a colon, or `localhost`, is a registry. */
function isHost(segment: string): boolean {
  if (!segment.includes('.') && !segment.includes(':') && segment !== 'localhost') return false
  try {
    return parseRegistry(segment) !== ''
  } catch {
    return false
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
