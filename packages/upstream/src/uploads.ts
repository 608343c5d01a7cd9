// Uploads of blobs (distribution specification 1.1, "Pushing blobs"): in one request or in pieces, taken up where the
// registry says it stands when a connection broke.
import { isRepositoryName, type Digest } from '@shoal/oci'
import { headBlob } from './blobs.ts'
import { readStart } from './body.ts'
import type { Place } from './manifests.ts'
import type { Limits } from './options.ts'
import { BlobSourceError, type BlobSource, type UploadOptions, type UploadOutcome } from './push.ts'
import { pauseBeforeRetry } from './retry.ts'
import type { HttpAnswer } from './sender.ts'
import type { RegistryRequest, Session } from './session.ts'
import { UploadSource } from './upload-source.ts'
import { UpstreamError, type RequestOptions } from './upstream.ts'

const MAX_LOCATION_LENGTH = 8192
/** However far each connection got. */
const MAX_RESUMPTIONS = 100
const CANCEL_TIMEOUT_MS = 5000

export interface UploadContext {
  session: Session
  place: Place
  limits: Limits
  random: () => number
}

/** An upload at the registry. */
interface Upload {
  location: URL
  /** What the registry has of it. */
  offset: number
  /** By `OCI-Chunk-Min-Length`. */
  minChunkBytes: number
  /** Not by this upload of a blob: the registry may have dropped it since. */
  openedBefore?: boolean
}

export async function findBlob(
  session: Session,
  place: Place,
  digest: Digest,
  options: RequestOptions,
): Promise<number | undefined> {
  try {
    return (await headBlob(session, place, digest, options, pushScope(place.repository))).sizeBytes
  } catch (error) {
    if (error instanceof UpstreamError && error.code === 'NOT_FOUND') return undefined
    throw error
  }
}

export async function uploadBlob(
  context: UploadContext,
  blob: BlobSource,
  options: UploadOptions,
): Promise<UploadOutcome> {
  const { session, place } = context
  if (options.upload !== undefined) {
    await new BlobUpload(context, blob, options).run({ ...options.upload, offset: 0, openedBefore: true })
    return 'uploaded'
  }
  const found = await findBlob(session, place, blob.digest, options)
  if (found !== undefined) {
    checkSize(place, blob, found)
    return 'present'
  }
  const started = await beginUpload(session, place, blob.digest, options)
  if (started === 'mounted') return 'mounted'
  await new BlobUpload(context, blob, options).run(started)
  return 'uploaded'
}

export function pushScope(repository: string): string {
  return `repository:${repository}:pull,push`
}

class BlobUpload {
  readonly #context: UploadContext
  readonly #blob: BlobSource
  readonly #options: UploadOptions
  readonly #source: UploadSource
  /** The most that the registry ever had; tries in vain are counted from here. */
  #furthest = 0

  constructor(context: UploadContext, blob: BlobSource, options: UploadOptions) {
    this.#context = context
    this.#blob = blob
    this.#options = options
    this.#source = new UploadSource(blob, options.onProgress)
  }

  async run(started: Upload): Promise<void> {
    const { limits, random } = this.#context
    const { signal } = this.#options
    let upload: Upload | undefined = started
    let inVain = 0
    for (let tries = 0; ; tries++) {
      try {
        upload ??= await this.#restart()
        if (upload === undefined) return
        await this.#send(upload)
        return
      } catch (error) {
        const failure = this.#source.takeFailure() ?? error
        if (!this.#mayResume(failure, upload) || inVain >= limits.retries || tries >= MAX_RESUMPTIONS) {
          if (upload !== undefined) await this.#cancel(upload)
          throw failure
        }
        await pauseBeforeRetry({ limits, random, signal }, failure as UpstreamError, inVain)
        // A registry that counts otherwise than it says gets the blob from the start.
        const lost = failure instanceof UpstreamError && !failure.isOutage
        upload = lost ? undefined : upload && (await this.#resume(upload))
        const offset = upload?.offset ?? 0
        inVain = offset > this.#furthest ? 0 : inVain + 1
        this.#furthest = Math.max(this.#furthest, offset)
      }
    }
  }

  #mayResume(error: unknown, upload: Upload | undefined): boolean {
    if (this.#options.signal.aborted || error instanceof BlobSourceError || !(error instanceof UpstreamError)) {
      return false
    }
    if (error.isOutage) return true
    // The registry no longer knows the upload, or counts otherwise than we do: it may be begun anew.
    return (
      upload !== undefined &&
      (upload.offset > 0 || upload.openedBefore === true) &&
      [404, 416].includes(error.status ?? 0)
    )
  }

  /** After the answer to the last request was lost, the blob may be there: then undefined. */
  async #restart(): Promise<Upload | undefined> {
    const { session, place } = this.#context
    const found = await findBlob(session, place, this.#blob.digest, this.#options)
    if (found !== undefined) {
      checkSize(place, this.#blob, found)
      return undefined
    }
    const { mountFrom: _, ...options } = this.#options
    const begun = await beginUpload(session, place, this.#blob.digest, options)
    return begun === 'mounted' ? undefined : begun
  }

  async #send(upload: Upload): Promise<void> {
    const { sizeBytes, digest } = this.#blob
    const chunkBytes = Math.max(this.#options.chunkSizeBytes ?? Infinity, upload.minChunkBytes)
    while (sizeBytes - upload.offset > chunkBytes) {
      const end = upload.offset + chunkBytes
      const request = this.#dataRequest(upload, end, 'PATCH')
      await this.#context.session.ask(request, async (answer) => {
        await readStart(answer.body, 0)
        upload.location = locationOf(request, answer) ?? upload.location
        const stands = standing(answer, end)
        if (stands !== end) {
          const message = `${request.settings.registry} took ${stands} bytes of ${request.what} where ${end} were sent`
          throw new UpstreamError('PROTOCOL', request.settings.registry, message, { status: 416 })
        }
        upload.offset = end
      })
    }
    const request = this.#dataRequest(upload, sizeBytes, 'PUT')
    const location = new URL(upload.location)
    location.searchParams.set('digest', digest)
    await this.#context.session.ask({ ...request, location }, async (answer) => {
      await readStart(answer.body, 0)
      checkSaidDigest(request, answer, digest)
    })
  }

  #dataRequest(upload: Upload, end: number, method: 'PATCH' | 'PUT'): RegistryRequest {
    const { offset, location } = upload
    const headers: Record<string, string> = {
      'content-type': 'application/octet-stream',
      'content-length': String(end - offset),
    }
    if ((offset > 0 || method === 'PATCH') && end > offset) headers['content-range'] = `${offset}-${end - 1}`
    const { place, limits } = this.#context
    return {
      ...uploadRequest(place, method, this.#blob.digest, this.#options),
      headers,
      location,
      lane: 'upload',
      body: end === offset ? '' : () => this.#source.open(offset, end),
      answerTimeoutMs: limits.uploadAnswerTimeoutMs,
      retry: false,
      accept: method === 'PATCH' ? [202, 204] : [201, 204],
    }
  }

  /** Where the registry stands; undefined when it has forgotten. */
  async #resume(upload: Upload): Promise<Upload | undefined> {
    const { place, session } = this.#context
    const { location } = upload
    const request = uploadRequest(place, 'GET', this.#blob.digest, this.#options)
    return await session.ask(
      { ...request, location, accept: [204, 200, 202, 400, 404, 405, 409, 416] },
      async (answer) => {
        await readStart(answer.body, 0)
        if (answer.status >= 400) return undefined
        const offset = standing(answer, undefined)
        // Not sent by us, or all of it: the registry means something else than we do.
        if (offset === undefined || offset > this.#source.handedOverBytes || offset >= this.#blob.sizeBytes) {
          return undefined
        }
        return { ...upload, location: locationOf(request, answer) ?? location, offset }
      },
    )
  }

  async #cancel({ location }: Upload): Promise<void> {
    const { place, session } = this.#context
    await cancelUpload(session, place, location, this.#options)
  }
}

/** Frees what the registry keeps of an upload that is given up; it would expire, but maybe only after days. */
export async function cancelUpload(
  session: Session,
  place: Place,
  location: URL,
  options: RequestOptions,
): Promise<void> {
  const request = uploadRequest(place, 'DELETE', undefined, {
    ...options,
    signal: AbortSignal.timeout(CANCEL_TIMEOUT_MS),
  })
  await session
    .ask({ ...request, location, retry: false, accept: [202, 204] }, (answer) => readStart(answer.body, 0))
    .catch(() => undefined)
}

/** Opens an upload, or has the blob mounted. Where mounting is refused, an upload will do. */
export async function beginUpload(
  session: Session,
  place: Place,
  digest: Digest | undefined,
  options: UploadOptions,
): Promise<Upload | 'mounted'> {
  const { mountFrom } = options
  const request = uploadRequest(place, 'POST', digest, options)
  const read = async (answer: HttpAnswer): Promise<Upload | 'mounted'> => {
    await readStart(answer.body, 0)
    if (answer.status === 201) {
      if (digest !== undefined) checkSaidDigest(request, answer, digest)
      return 'mounted'
    }
    const location = locationOf(request, answer)
    const { registry } = place.settings
    if (location === undefined) {
      throw new UpstreamError('PROTOCOL', registry, `${registry} does not say where to send ${request.what}`)
    }
    const least = Number(answer.header('oci-chunk-min-length'))
    const minChunkBytes = Number.isSafeInteger(least) && least > 0 ? least : 0
    return { location, offset: 0, minChunkBytes }
  }
  if (digest !== undefined && mountFrom !== undefined && isRepositoryName(mountFrom)) {
    const from = place.settings.repositoryPrefix + mountFrom
    const path = `${request.path}?${new URLSearchParams({ mount: digest, from })}`
    const scope = `${request.scope} repository:${from}:pull`
    try {
      return await session.ask({ ...request, path, scope, accept: [201, 202] }, read)
    } catch (error) {
      if (!(error instanceof UpstreamError) || error.isOutage || error.code === 'REFUSED_BY_POLICY') throw error
    }
  }
  return await session.ask({ ...request, accept: [202] }, read)
}

function uploadRequest(
  { settings, repository }: Place,
  method: RegistryRequest['method'],
  digest: Digest | undefined,
  options: RequestOptions,
): RegistryRequest {
  return {
    settings,
    repository,
    path: `${repository}/blobs/uploads/`,
    method,
    headers: method === 'POST' ? { 'content-length': '0' } : {},
    scope: pushScope(repository),
    lane: 'metadata',
    what: digest === undefined ? `an upload to ${repository}` : `the upload of ${repository}@${digest}`,
    options,
    accept: [],
  }
}

/**
 * Where an upload goes on. Another host is allowed, and gets no login; leaving TLS is not, but a registry that does not
 * know of the TLS in front of it means itself.
 */
function locationOf({ settings, what }: RegistryRequest, answer: HttpAnswer): URL | undefined {
  const { registry, baseUrl } = settings
  const text = answer.header('location')
  if (text === undefined) return undefined
  const url = text.length <= MAX_LOCATION_LENGTH && URL.canParse(text, baseUrl.origin) && new URL(text, baseUrl.origin)
  if (url === false || !['http:', 'https:'].includes(url.protocol)) {
    throw new UpstreamError('PROTOCOL', registry, `${registry} sends ${what} to something that is not an HTTP URL`)
  }
  url.username = ''
  url.password = ''
  url.hash = ''
  if (baseUrl.protocol === 'https:' && url.protocol === 'http:') {
    if (url.hostname === baseUrl.hostname) return new URL(url.pathname + url.search, baseUrl.origin)
    const message = `${registry} sends ${what} to plain HTTP at ${url.host}, which is refused`
    throw new UpstreamError('REFUSED_BY_POLICY', registry, message)
  }
  return url
}

/** What the registry has, by its Range header; `0-0` is nothing, as the reference implementation says it. */
function standing<T>(answer: HttpAnswer, otherwise: T): number | T {
  const last = /^(?:bytes=)?0-([0-9]{1,16})$/.exec(answer.header('range') ?? '')?.[1]
  if (last === undefined) return otherwise
  return last === '0' ? 0 : Number(last) + 1
}

function checkSaidDigest({ settings, what }: RegistryRequest, answer: HttpAnswer, digest: Digest): void {
  const said = answer.header('docker-content-digest')
  if (said === undefined || said === digest) return
  const message = `${settings.registry} kept something else for ${what}: ${JSON.stringify(said.slice(0, 160))}`
  throw new UpstreamError('PROTOCOL', settings.registry, message)
}

function checkSize({ settings }: Place, { digest, sizeBytes }: BlobSource, found: number): void {
  if (found === sizeBytes) return
  throw new BlobSourceError(digest, `${settings.registry} has it with ${found} bytes, here it has ${sizeBytes}`)
}
