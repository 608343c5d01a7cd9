// Manifests of an origin: what a tag is, and bytes whose digest was checked.
import {
  detectMediaType,
  digestAlgorithm,
  digestOf,
  isDigest,
  isManifestMediaType,
  isTag,
  MANIFEST_MEDIA_TYPES,
  MAX_MANIFEST_BYTES,
  mediaTypeOf,
  type Digest,
} from '@shoal/oci'
import { readBody, readStart } from './body.ts'
import type { RegistrySettings } from './options.ts'
import { contentLength, type HttpAnswer } from './sender.ts'
import type { RegistryRequest, Session } from './session.ts'
import { UpstreamError, type ManifestBody, type ManifestHead, type RequestOptions } from './upstream.ts'

/** Artifacts may have manifests that nobody foresaw. */
const ACCEPT = [...MANIFEST_MEDIA_TYPES, '*/*'].join(', ')
/** The form that types of manifests have. */
const MANIFEST_TYPE = /\+(json|prettyjws)$/

/** A repository with the settings of its registry. */
export interface Place {
  settings: RegistrySettings
  /** As the registry knows it. */
  repository: string
}

export async function headManifest(
  session: Session,
  place: Place,
  reference: string,
  options: RequestOptions,
): Promise<ManifestHead> {
  // Some servers do not know HEAD; some answer it without saying what we need.
  const request = { ...manifestRequest(place, reference, options), method: 'HEAD', accept: [200, 405, 501] } as const
  const head = await session.ask(request, async (answer) => {
    await readStart(answer.body, 0)
    return answer.status === 200 ? completeHead(place, reference, answer) : undefined
  })
  if (head !== undefined) return head
  const { digest, mediaType, sizeBytes } = await getManifest(session, place, reference, options)
  return { digest, mediaType, sizeBytes }
}

export async function getManifest(
  session: Session,
  place: Place,
  reference: string,
  options: RequestOptions,
): Promise<ManifestBody> {
  const { registry } = place.settings
  const request = manifestRequest(place, reference, options)
  return await session.ask(request, async (answer) => {
    const announced = contentLength(answer.header('content-length'))
    if (announced !== undefined && announced > MAX_MANIFEST_BYTES) {
      answer.body.destroy()
      const message = `${request.what} has ${announced} bytes, more than the ${MAX_MANIFEST_BYTES} that one may have`
      throw new UpstreamError('PROTOCOL', registry, message)
    }
    const bytes = await readBody(answer.body, MAX_MANIFEST_BYTES, registry, request.what)
    const digest = checkedDigest(registry, request.what, reference, answer.header('docker-content-digest'), bytes)
    return { digest, mediaType: typeOf(answer, bytes, registry, request.what), sizeBytes: bytes.length, bytes }
  })
}

function manifestRequest({ settings, repository }: Place, reference: string, options: RequestOptions): RegistryRequest {
  if (!isDigest(reference) && !isTag(reference)) {
    const message = `${JSON.stringify(reference.slice(0, 160))} is neither a tag nor a digest`
    throw new UpstreamError('NOT_FOUND', settings.registry, message)
  }
  return {
    settings,
    repository,
    path: `${repository}/manifests/${reference}`,
    method: 'GET',
    headers: { accept: ACCEPT },
    lane: 'metadata',
    what: `the manifest ${repository}${isDigest(reference) ? '@' : ':'}${reference}`,
    options,
    accept: [200],
  }
}

function completeHead({ settings }: Place, reference: string, answer: HttpAnswer): ManifestHead | undefined {
  const { registry } = settings
  const said = answer.header('docker-content-digest')
  if (isDigest(said) && isDigest(reference) && said !== reference) throw wrongDigest(registry, reference, said)
  const digest = isDigest(reference) ? reference : said
  const mediaType = registryType(answer)
  // Servers that give HEAD no body say that it has 0 bytes.
  const sizeBytes = contentLength(answer.header('content-length')) || undefined
  if (!isDigest(digest) || sizeBytes === undefined || mediaType === undefined) return undefined
  return { digest, mediaType, sizeBytes }
}

/**
 * The type that an answer has, if only a registry says it so. Maintenance and login pages come with 200 as well, and web
 * services have types of this form: a registry is known by the digest that it adds, or by a type that nobody else has.
 */
function registryType(answer: HttpAnswer): string | undefined {
  const said = mediaTypeOf(answer.header('content-type'))
  if (said === undefined || !MANIFEST_TYPE.test(said)) return undefined
  return isManifestMediaType(said) || isDigest(answer.header('docker-content-digest')) ? said : undefined
}

function checkedDigest(
  registry: string,
  what: string,
  reference: string,
  said: string | undefined,
  bytes: Uint8Array,
): Digest {
  const wanted = [reference, said].filter((digest) => isDigest(digest))
  for (const digest of wanted) {
    const actual = digestOf(bytes, digestAlgorithm(digest))
    if (actual !== digest) throw wrongDigest(registry, what, actual)
  }
  return wanted[0] ?? digestOf(bytes)
}

function wrongDigest(registry: string, what: string, actual: string): UpstreamError {
  const message = `${registry} gave a content with the digest ${actual} for ${what}; something between changes it`
  return new UpstreamError('PROTOCOL', registry, message)
}

function typeOf(answer: HttpAnswer, bytes: Uint8Array, registry: string, what: string): string {
  const said = registryType(answer)
  if (said !== undefined) return said
  try {
    return detectMediaType(bytes)
  } catch (cause) {
    const named = JSON.stringify(answer.header('content-type')?.slice(0, 80) ?? '')
    const message = `${registry} gave something for ${what} that is no manifest (Content-Type ${named})`
    const advice = 'check that a registry answers there, and no maintenance or login page'
    throw new UpstreamError('PROTOCOL', registry, `${message}; ${advice}`, { cause })
  }
}
