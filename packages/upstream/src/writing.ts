// Manifests put into a registry, and what is deleted from one.
import { digestOf, isDigest, isTag, type Digest } from '@shoal/oci'
import { readStart } from './body.ts'
import type { Place } from './manifests.ts'
import type { Limits } from './options.ts'
import type { ManifestToPut, PutManifest } from './push.ts'
import type { RegistryRequest, Session } from './session.ts'
import { pushScope } from './uploads.ts'
import { UpstreamError, type RequestOptions } from './upstream.ts'

export async function putManifest(
  session: Session,
  place: Place,
  limits: Limits,
  manifest: ManifestToPut,
  tags: readonly string[],
  options: RequestOptions,
): Promise<PutManifest> {
  const digest = digestOf(manifest.bytes)
  let subject: Digest | undefined
  for (const reference of tags.length === 0 ? [digest] : tags) {
    const request: RegistryRequest = {
      ...manifestRequest(place, 'PUT', reference, options),
      headers: { 'content-type': manifest.mediaType },
      body: manifest.bytes,
      answerTimeoutMs: limits.uploadAnswerTimeoutMs,
      accept: [201, 200, 204],
    }
    await session.ask(request, async (answer) => {
      await readStart(answer.body, 0)
      const said = answer.header('docker-content-digest')
      if (said !== undefined && said !== digest) {
        const { registry } = place.settings
        const message = `${registry} kept ${request.what} as ${JSON.stringify(said.slice(0, 160))}, not as ${digest}`
        throw new UpstreamError('PROTOCOL', registry, message)
      }
      const listed = answer.header('oci-subject')
      if (isDigest(listed)) subject = listed
    })
  }
  return subject === undefined ? { digest } : { digest, subject }
}

export async function deleteManifest(
  session: Session,
  place: Place,
  reference: string,
  options: RequestOptions,
): Promise<boolean> {
  return await remove(session, manifestRequest(place, 'DELETE', reference, options))
}

export async function deleteBlob(
  session: Session,
  place: Place,
  digest: Digest,
  options: RequestOptions,
): Promise<boolean> {
  const { repository } = place
  const path = `${repository}/blobs/${digest}`
  const what = `the blob ${repository}@${digest}`
  return await remove(session, { ...baseRequest(place, 'DELETE', options), path, what })
}

/** Sent again after a broken connection, the second may find nothing left: that is no error. */
async function remove(session: Session, request: RegistryRequest): Promise<boolean> {
  return await session.ask({ ...request, accept: [202, 200, 204, 404] }, async (answer) => {
    await readStart(answer.body, 0)
    return answer.status !== 404
  })
}

function manifestRequest(
  place: Place,
  method: 'PUT' | 'DELETE',
  reference: string,
  options: RequestOptions,
): RegistryRequest {
  const { settings, repository } = place
  if (!isDigest(reference) && !isTag(reference)) {
    const message = `${JSON.stringify(reference.slice(0, 160))} is neither a tag nor a digest`
    throw new UpstreamError('NOT_FOUND', settings.registry, message)
  }
  const path = `${repository}/manifests/${reference}`
  const what = `the manifest ${repository}${isDigest(reference) ? '@' : ':'}${reference}`
  return { ...baseRequest(place, method, options), path, what }
}

function baseRequest(
  { settings, repository }: Place,
  method: 'PUT' | 'DELETE',
  options: RequestOptions,
): Omit<RegistryRequest, 'path' | 'what'> {
  const scope = method === 'PUT' ? pushScope(repository) : `repository:${repository}:delete`
  return { settings, repository, method, headers: {}, scope, lane: 'metadata', options, accept: [] }
}
