// The last steps of a push of a blob, and what is done when the content does not stay: of several registries over one bucket
// another may be collecting garbage, and take what has just come for the old content that it was about to remove.
import { OciError, type Digest } from '@shoal/oci'

const MAX_TRIES = 3

/** What the caller has to say about a blob that is to be stored. */
export interface BlobSteps {
  /** Asked before it is stored. @throws OciError(DENIED) when it must not be */
  admit: (sizeBytes: number) => Promise<void>
  /** Ties it to its repository, as soon as it is stored. False when the content is gone again. */
  link: () => Promise<boolean>
}

/** Whatever comes is stored, and belongs to no repository. */
export const NO_STEPS: BlobSteps = { admit: () => Promise.resolve(), link: () => Promise.resolve(true) }

/**
 * Stores a blob, and again when it is gone by the time that it is tied to its repository.
 * @param store - may be called several times; the first failure counts
 * @throws OciError(DENIED); OciError(BLOB_UPLOAD_INVALID) when the content does not stay
 */
export async function storeBlob(
  digest: Digest,
  sizeBytes: number,
  { admit, link }: BlobSteps,
  store: () => Promise<void>,
): Promise<void> {
  await admit(sizeBytes)
  await store()
  for (let tries = 1; !(await link()); tries++) {
    if (tries === MAX_TRIES) throw contentGone(digest)
    // A driver that moves what was uploaded has nothing left to store.
    await store().catch((error: unknown) => {
      throw contentGone(digest, error)
    })
  }
}

/** Content that was there when somebody began to rely on it. */
export function contentGone(digest: Digest, cause?: unknown): OciError {
  const message = `the content of ${digest} is gone: push it again`
  return new OciError('BLOB_UPLOAD_INVALID', message, { detail: { digest }, cause })
}
