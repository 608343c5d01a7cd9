// The origin as the swarm sees it: one blob, or one manifest, at one repository.
import { Readable } from 'node:stream'
import type { Digest } from '@shoal/oci'
import type { OriginSource } from '@shoal/swarm'
import type { RepositoryTarget, RequestOptions, Upstream } from '@shoal/upstream'

/** On whose behalf the origin is asked. */
export type Requester = Omit<RequestOptions, 'signal'>

/** Tells sources of the same bytes apart: by repository, by what they are there, and by in whose name it is asked. */
export function originKey(
  kind: 'blob' | 'manifest',
  { registry, repository }: RepositoryTarget,
  { anonymous = false, forEveryone = false, authorization = '' }: Requester,
): string {
  return `${kind} ${registry}/${repository} ${anonymous} ${forEveryone} ${authorization}`
}

/** @param sizeBytes for an origin that does not say it, where it is certain */
export function blobSource(
  upstream: Upstream,
  target: RepositoryTarget,
  digest: Digest,
  requester: Requester,
  sizeBytes: number | undefined,
): OriginSource {
  return {
    host: target.registry,
    open: (range, signal) => upstream.openBlob(target, digest, range, { ...requester, signal }, sizeBytes),
    chunkList: (signal) => upstream.chunkList(target, digest, { ...requester, signal }),
  }
}

/** Manifests have an endpoint of their own and come whole. */
export function manifestSource(
  upstream: Upstream,
  target: RepositoryTarget,
  digest: Digest,
  requester: Requester,
): OriginSource {
  return {
    host: target.registry,
    open: async (_range, signal) => {
      const { bytes, sizeBytes } = await upstream.getManifest(target, digest, { ...requester, signal })
      return { start: 0, sizeBytes, partial: false, body: Readable.from([Buffer.from(bytes)]) }
    },
    chunkList: async () => undefined,
  }
}
