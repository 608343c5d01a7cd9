// What others are told of a push or a delete, in the format of Docker's registry: CNCF Distribution, "Work with
// notifications", media type application/vnd.docker.distribution.events.v1+json.
import { randomUUID } from 'node:crypto'
import type { Digest } from '@shoal/oci'
import type { RequestContext } from '@shoal/registry'

export const EVENTS_TYPE = 'application/vnd.docker.distribution.events.v1+json'

/** What has happened to the manifests and tags of a repository. */
export interface RepositoryChange {
  action: 'push' | 'delete'
  name: string
  /** Undefined when only a tag was removed. */
  digest?: Digest
  /** Tags that were tied or removed. */
  tags: readonly string[]
  /** Of a push. */
  mediaType?: string
  sizeBytes?: number
  context: RequestContext
  /** Who has logged in. */
  user?: string | undefined
}

export interface RegistryEvent {
  id: string
  timestamp: string
  action: 'push' | 'delete'
  target: {
    mediaType?: string
    digest?: Digest
    size?: number
    length?: number
    repository: string
    tag?: string
    url?: string
  }
  request: { id: string; addr?: string; host?: string; method: string; useragent?: string }
  actor: { name?: string }
  source: { addr: string; instanceID: string }
}

/** One event for each tag; one for a manifest without. @param publicUrl - instead of what the client calls the registry */
export function eventsOf(
  change: RepositoryChange,
  source: RegistryEvent['source'],
  publicUrl: string | undefined,
): RegistryEvent[] {
  const { action, name, digest, mediaType, sizeBytes, context, user } = change
  const base = publicUrl ?? context.endpoint
  const timestamp = new Date().toISOString()
  return (change.tags.length > 0 ? change.tags : [undefined]).map((tag) => ({
    id: randomUUID(),
    timestamp,
    action,
    target: {
      ...(mediaType !== undefined && { mediaType }),
      ...(digest !== undefined && { digest }),
      ...(sizeBytes !== undefined && { size: sizeBytes, length: sizeBytes }),
      repository: name,
      ...(tag !== undefined && { tag }),
      ...(digest !== undefined && base !== undefined && { url: `${base}/v2/${name}/manifests/${digest}` }),
    },
    request: {
      id: context.requestId,
      ...(context.remoteAddress !== undefined && { addr: context.remoteAddress }),
      ...(context.endpoint !== undefined && { host: new URL(context.endpoint).host }),
      method: action === 'push' ? 'PUT' : 'DELETE',
      ...(context.userAgent !== undefined && { useragent: context.userAgent }),
    },
    actor: user === undefined ? {} : { name: user },
    source,
  }))
}
