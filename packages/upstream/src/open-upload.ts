// Uploads that are opened before the blob is known: a node that passes a push on is refused by the registry before the
// client has sent a byte, and not after a gigabyte.
import type { Digest } from '@shoal/oci'
import type { Place } from './manifests.ts'
import type { OpenUpload } from './push.ts'
import type { Session } from './session.ts'
import { beginUpload, cancelUpload } from './uploads.ts'
import { UpstreamError, type RequestOptions } from './upstream.ts'

/** Opens an upload; where it goes on is known only to this room. */
export async function openUpload(session: Session, place: Place, options: RequestOptions): Promise<OpenUpload> {
  const begun = await beginUpload(session, place, undefined, options)
  if (begun === 'mounted') {
    const { registry } = place.settings
    throw new UpstreamError('PROTOCOL', registry, `${registry} calls an upload complete that has no byte yet`)
  }
  return {
    location: begun.location,
    minChunkBytes: begun.minChunkBytes,
    cancel: (cancelling) => cancelUpload(session, place, begun.location, cancelling),
  }
}

/** Has a blob of another repository of the registry made visible. False: it has to be uploaded. */
export async function mountBlob(
  session: Session,
  place: Place,
  digest: Digest,
  mountFrom: string,
  options: RequestOptions,
): Promise<boolean> {
  const begun = await beginUpload(session, place, digest, { ...options, mountFrom })
  if (begun === 'mounted') return true
  await cancelUpload(session, place, begun.location, options)
  return false
}
