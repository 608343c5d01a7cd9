// Blobs of an origin, whole or in part. Origins differ in how they treat Range; what comes out here is always said
// exactly: where the bytes begin, and how long the blob is.
import { digestAlgorithm, isDigest, isDigestOfNothing, mediaTypeOf, type Digest } from '@shoal/oci'
import { CheckedBody, readStart } from './body.ts'
import type { Place } from './manifests.ts'
import { contentLength, type HttpAnswer } from './sender.ts'
import type { RegistryRequest, Session } from './session.ts'
import { UpstreamError, type BlobBody, type RequestOptions } from './upstream.ts'

const PAGE_TYPES = new Set(['text/html', 'application/xhtml+xml'])

export interface ByteRange {
  start: number
  /** Inclusive; without it to the end. */
  end?: number
}

export async function headBlob(
  session: Session,
  place: Place,
  digest: Digest,
  options: RequestOptions,
  scope?: string,
): Promise<{ sizeBytes: number }> {
  const request: RegistryRequest = { ...blobRequest(place, digest, options), lane: 'metadata' }
  if (scope !== undefined) request.scope = scope
  const sizeBytes = (await sizeByHead(session, request, digest)) ?? (await sizeByRange(session, request, digest))
  if (sizeBytes === undefined) throw unknownSize(request)
  return { sizeBytes }
}

/** Undefined where HEAD says nothing. */
async function sizeByHead(session: Session, asked: RegistryRequest, digest: Digest): Promise<number | undefined> {
  const request = { ...asked, method: 'HEAD', accept: [200, 405, 501] } as const
  try {
    return await session.ask(request, async (answer) => {
      await readStart(answer.body, 0)
      return answer.status === 200 ? sizeIn(answer, asked, digest) : undefined
    })
  } catch (error) {
    // An object store refuses HEAD of a URL that the registry has signed for GET.
    if (error instanceof UpstreamError && error.status === 403) return undefined
    throw error
  }
}

/** By the first byte: its answer names the whole. */
async function sizeByRange(session: Session, asked: RegistryRequest, digest: Digest): Promise<number | undefined> {
  const request = { ...asked, headers: { ...asked.headers, range: 'bytes=0-0' }, accept: [200, 206, 416] }
  return await session.ask(request, async (answer) => {
    await readStart(answer.body, 2)
    return sizeIn(answer, asked, digest)
  })
}

/**
 * The size that an answer tells, undefined where it tells none. Maintenance and login pages come with 200 as well; the
 * object stores to which registries redirect say nothing of a digest.
 * @throws UpstreamError(PROTOCOL) when it is no answer about this blob
 */
function sizeIn(answer: HttpAnswer, { settings, what }: RegistryRequest, digest: Digest): number | undefined {
  const { registry } = settings
  const about = answer.header('docker-content-digest')
  if (isDigest(about) && digestAlgorithm(about) === digestAlgorithm(digest) && about !== digest) {
    throw new UpstreamError('PROTOCOL', registry, `${registry} was asked for ${what} and answered with ${about}`)
  }
  if (about !== digest && PAGE_TYPES.has(mediaTypeOf(answer.header('content-type')) ?? '')) {
    const message = `${registry} gave a web page for ${what}; check that a registry answers there, and no login page`
    throw new UpstreamError('PROTOCOL', registry, message)
  }
  const total = /\/([0-9]{1,16})$/.exec(answer.header('content-range') ?? '')?.[1]
  const sizeBytes = contentLength(answer.status === 200 ? answer.header('content-length') : total)
  // Servers that give HEAD no body say that it has 0 bytes.
  return sizeBytes === 0 && !isDigestOfNothing(digest) ? undefined : sizeBytes
}

export async function openBlob(
  session: Session,
  place: Place,
  digest: Digest,
  range: ByteRange | undefined,
  options: RequestOptions,
  knownBytes?: number,
): Promise<BlobBody> {
  const complete = async (opened: Opened): Promise<BlobBody> =>
    withSize(place, opened, () =>
      knownBytes === undefined ? headBlob(session, place, digest, options) : Promise.resolve({ sizeBytes: knownBytes }),
    )
  const request = blobRequest(place, digest, options)
  const { registry } = place.settings
  if (range !== undefined) {
    if (!isRange(range)) throw new UpstreamError('PROTOCOL', registry, 'the range asked for is not one')
    const headers = { ...request.headers, range: `bytes=${range.start}-${range.end ?? ''}` }
    const ranged: RegistryRequest = { ...request, headers, accept: [200, 206, 416] }
    const opened = await session.ask(ranged, async (answer) => {
      if (answer.status === 206) return await guarded(answer, () => partOf(request, range, answer))
      if (answer.status === 200) return await guarded(answer, () => wholeOf(request, answer))
      await readStart(answer.body, 0)
      const total = /^bytes \*\/([0-9]+)$/.exec(answer.header('content-range') ?? '')?.[1]
      if (total !== undefined && range.start > 0 && range.start >= Number(total)) {
        const message = `${request.what} has ${total} bytes; there are none from ${range.start} on`
        throw new UpstreamError('PROTOCOL', registry, message, { status: 416 })
      }
      // It refuses a range that is fine, or the blob is empty: the whole will do.
      return undefined
    })
    if (opened !== undefined) return await complete(opened)
  }
  const opened = await session.ask(request, (answer) => guarded(answer, () => wholeOf(request, answer)))
  return await complete(opened)
}

/** A body whose blob has a size that the answer may not have said. */
type Opened = Omit<BlobBody, 'sizeBytes'> & { sizeBytes: number | undefined }

function blobRequest({ settings, repository }: Place, digest: Digest, options: RequestOptions): RegistryRequest {
  return {
    settings,
    repository,
    path: `${repository}/blobs/${digest}`,
    method: 'GET',
    headers: { accept: '*/*' },
    lane: 'content',
    what: `the blob ${repository}@${digest}`,
    options,
    accept: [200],
  }
}

function wholeOf(_request: RegistryRequest, answer: HttpAnswer): Opened {
  const sizeBytes = contentLength(answer.header('content-length'))
  return { start: 0, sizeBytes, partial: false, body: answer.body }
}

function partOf({ settings, what }: RegistryRequest, range: ByteRange, answer: HttpAnswer): Opened {
  const { registry } = settings
  const said = answer.header('content-range') ?? ''
  const match = /^bytes ([0-9]{1,16})-([0-9]{1,16})\/([0-9]{1,16}|\*)$/.exec(said)
  const [first, last] = [Number(match?.[1]), Number(match?.[2])]
  const total = match?.[3] === undefined || match[3] === '*' ? undefined : Number(match[3])
  const expected = Math.min(range.end ?? Infinity, total === undefined ? Infinity : total - 1)
  const complete = total === undefined && range.end === undefined ? last >= first : last === expected
  if (match === null || first !== range.start || !complete) {
    const asked = `${range.start}-${range.end ?? ''}`
    const shown = JSON.stringify(said.slice(0, 80))
    const message = `${registry} was asked for the bytes ${asked} of ${what} and answered with Content-Range ${shown}`
    throw new UpstreamError('PROTOCOL', registry, message)
  }
  const length = last - first + 1
  const announced = contentLength(answer.header('content-length'))
  const wrong = (received: number): UpstreamError =>
    new UpstreamError('PROTOCOL', registry, `${registry} gave ${received} bytes for a part of ${length} of ${what}`)
  if (announced !== undefined && announced !== length) throw wrong(announced)
  return { start: first, sizeBytes: total, partial: true, body: withLength(answer.body, length, wrong) }
}

/** Finds out the size where the answer did not have it: a chunked body, or a part of `*`. */
async function withSize(
  place: Place,
  opened: Opened,
  findSize: () => Promise<{ sizeBytes: number }>,
): Promise<BlobBody> {
  const { sizeBytes } = opened
  if (sizeBytes !== undefined) return { ...opened, sizeBytes }
  const { registry } = place.settings
  try {
    const head = await findSize()
    const wrong = (received: number): UpstreamError => {
      const message = `${registry} gave ${received} bytes for a blob of ${head.sizeBytes}`
      return new UpstreamError('PROTOCOL', registry, message)
    }
    const body = withLength(opened.body, opened.partial ? undefined : head.sizeBytes, wrong)
    return { ...opened, sizeBytes: head.sizeBytes, body }
  } catch (error) {
    opened.body.destroy()
    throw error
  }
}

function withLength(
  body: BlobBody['body'],
  lengthBytes: number | undefined,
  wrongLength: (received: number) => Error,
): BlobBody['body'] {
  if (lengthBytes === undefined) return body
  const failure = (error: unknown): Error => (error instanceof Error ? error : new Error(String(error)))
  return new CheckedBody(body, { lengthBytes, failure, wrongLength, stall: undefined, onClose: () => undefined })
}

/** Lets go of the body when its headers turn out wrong. */
async function guarded(answer: HttpAnswer, open: () => Opened): Promise<Opened> {
  try {
    return open()
  } catch (error) {
    answer.body.destroy()
    throw error
  }
}

function isRange({ start, end }: ByteRange): boolean {
  return Number.isSafeInteger(start) && start >= 0 && (end === undefined || (Number.isSafeInteger(end) && end >= start))
}

function unknownSize({ settings, what }: RegistryRequest): UpstreamError {
  return new UpstreamError('PROTOCOL', settings.registry, `${settings.registry} does not say how long ${what} is`)
}
