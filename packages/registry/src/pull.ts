// Handlers of the reading half of the OCI distribution specification 1.1.
import type { BlobAnswer, ContentSource } from './backend.ts'
import { isDigestOfNothing, OciError, type Digest } from '@shoal/oci'
import { sendBlobBody, type BlobBodyOptions, type BlobBodyResult } from './blob-body.ts'
import { sendBlobFile } from './blob-file.ts'
import { queryText, type Call } from './call.ts'
import { checkDigest } from './path.ts'
import { matchesEntityTag, parseRange } from './range.ts'

const OCTET_STREAM = 'application/octet-stream'
const INDEX_TYPE = 'application/vnd.oci.image.index.v1+json'
/** RFC 7234, section 5.5.1; the agent is "-". */
const STALE_WARNING = '110 - "Response is Stale"'

export async function getVersion(call: Call): Promise<void> {
  const { settings, context } = call
  if (settings.backend.checkVersion) await settings.backend.checkVersion(context)
  await sendJson(call, {})
}

export async function getManifest(call: Call, name: string, reference: string): Promise<void> {
  const { request, reply, context, settings } = call
  const head = request.method === 'HEAD'
  const answer = await settings.backend.manifest(context, name, reference, head)
  const headers = contentHeaders(answer.digest, answer.source)
  if (answer.stale) headers['warning'] = STALE_WARNING
  if (matchesEntityTag(request.headers['if-none-match'], answer.digest)) {
    await reply.code(304).headers(headers).send()
    return
  }
  headers['content-type'] = answer.mediaType
  headers['content-length'] = answer.sizeBytes
  reply.headers(headers)
  if (head) {
    await reply.send()
    return
  }
  const bytes = answer.bytes ?? missingBytes()
  settings.metrics?.bytesSent(bytes.byteLength)
  await reply.send(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength))
}

function missingBytes(): never {
  throw new Error('the backend answered a GET of a manifest without its bytes')
}

export async function getBlob(call: Call, name: string, digest: Digest): Promise<void> {
  const { request, reply, context, settings } = call
  const head = request.method === 'HEAD'
  const answer = await settings.backend.blob(context, name, digest, head)
  const { sizeBytes } = answer
  if (sizeBytes === 0 && !isDigestOfNothing(digest)) {
    // An answer without a body would be taken for the blob.
    throw new OciError('BLOB_UNKNOWN', 'the size of the blob that is known here is wrong: it is not empty')
  }
  const headers = contentHeaders(digest, answer.source)
  headers['accept-ranges'] = 'bytes'
  if (matchesEntityTag(request.headers['if-none-match'], digest)) {
    await reply.code(304).headers(headers).send()
    return
  }
  headers['content-type'] = answer.mediaType ?? OCTET_STREAM
  const range = head ? undefined : parseRange(request.headers.range, sizeBytes)
  if (range === 'unsatisfiable') {
    throw new OciError('RANGE_INVALID', `the blob has ${sizeBytes} bytes: the range starts past its end`, {
      headers: { 'content-range': `bytes */${sizeBytes}` },
    })
  }
  if (head || sizeBytes === 0) {
    headers['content-length'] = sizeBytes
    await reply.headers(headers).send()
    return
  }
  const { start, end } = range ?? { start: 0, end: sizeBytes - 1 }
  headers['content-length'] = end - start + 1
  if (range) headers['content-range'] = `bytes ${start}-${end}/${sizeBytes}`
  reply.code(range ? 206 : 200).headers(headers)
  await streamBlob(call, answer, start, end)
}

async function streamBlob(call: Call, answer: BlobAnswer, start: number, end: number): Promise<void> {
  const { request, reply, settings } = call
  const response = reply.raw
  const options: BlobBodyOptions = {
    lengthBytes: end - start + 1,
    headerGraceMs: settings.headerGraceMs,
    clientStallMs: settings.clientStallMs,
    begin() {
      const headers = reply.getHeaders()
      reply.hijack()
      response.writeHead(reply.statusCode, headers as Record<string, string | number>)
      settings.metrics?.firstByte('blob', reply.elapsedTime / 1000)
    },
    onBytes: (count) => settings.metrics?.bytesSent(count),
  }
  let result: BlobBodyResult
  try {
    result = answer.openFile
      ? await sendBlobFile(await answer.openFile(), start, response, options)
      : await sendBlobBody(await answer.open(start, end), response, options)
  } catch (error) {
    throw answer.refusal?.(error) ?? error
  }
  if (!reply.sent) reply.hijack()
  if (result.end === 'cut') {
    request.log.warn({ err: result.error, digest: answer.digest, start, end }, 'blob broke off while it was sent')
  } else if (result.end !== 'complete') {
    request.log.debug({ digest: answer.digest, end: result.end }, 'client took only a part of a blob')
  }
}

export async function getTags(call: Call, name: string): Promise<void> {
  const page = pageOf(call)
  const answer = await call.settings.backend.tags(call.context, name, page)
  setNext(call, answer.tags, answer.more, page)
  await sendJson(call, { name, tags: answer.tags })
}

export async function getCatalog(call: Call): Promise<void> {
  const { backend } = call.settings
  if (!backend.catalog) {
    throw new OciError('UNSUPPORTED', 'this endpoint has no catalog: it serves whatever it is asked for', {
      status: 404,
    })
  }
  const page = pageOf(call)
  const answer = await backend.catalog(call.context, page)
  setNext(call, answer.repositories, answer.more, page)
  await sendJson(call, { repositories: answer.repositories })
}

export async function getReferrers(call: Call, name: string, digest: Digest): Promise<void> {
  const artifactType = queryText(call.request, 'artifactType')
  const given = queryText(call.request, 'last')
  const after = given === undefined ? undefined : checkDigest(given)
  const page = await call.settings.backend.referrers(call.context, name, digest, artifactType, after)
  const { descriptors, filtered, last } = page
  if (last !== undefined) linkToNext(call, { last })
  if (filtered) call.reply.header('oci-filters-applied', 'artifactType')
  await sendJson(call, { schemaVersion: 2, mediaType: INDEX_TYPE, manifests: descriptors }, INDEX_TYPE)
}

export async function getChunkList(call: Call, name: string, digest: Digest): Promise<void> {
  const { backend } = call.settings
  if (!backend.chunkList) {
    throw new OciError('UNSUPPORTED', 'this endpoint offers no chunk lists', { status: 404 })
  }
  const list = await backend.chunkList(call.context, name, digest)
  const { hashes } = list
  await sendJson(call, {
    size: list.sizeBytes,
    chunkSize: list.chunkSizeBytes,
    hashes: Buffer.from(hashes.buffer, hashes.byteOffset, hashes.byteLength).toString('base64'),
  })
}

type HeaderValues = Record<string, string | number>

function contentHeaders(digest: Digest, source: ContentSource | undefined): HeaderValues {
  const headers: HeaderValues = { 'docker-content-digest': digest, etag: `"${digest}"` }
  if (source !== undefined) headers['x-shoal-source'] = source
  return headers
}

/** `n` and `last` of a list. @throws OciError(PAGINATION_NUMBER_INVALID) */
function pageOf({ request, settings }: Call): { limit: number; after?: string } {
  const n = queryText(request, 'n')
  const after = queryText(request, 'last')
  if (n !== undefined && !/^\d{1,9}$/.test(n)) {
    throw new OciError('PAGINATION_NUMBER_INVALID', 'n must be a whole number, 0 or more')
  }
  const limit = n === undefined ? settings.maxPageSize : Math.min(Number(n), settings.maxPageSize)
  return after === undefined ? { limit } : { limit, after }
}

function setNext(call: Call, entries: string[], more: boolean, page: { limit: number }): void {
  const last = entries.at(-1)
  if (more && last !== undefined) linkToNext(call, { n: String(page.limit), last })
}

/** RFC 8288 link to the next page, relative, so that it holds behind any proxy. */
function linkToNext({ request, reply }: Call, where: Record<string, string>): void {
  const url = request.raw.url ?? ''
  const [path = '', query = ''] = url.split('?', 2)
  const parameters = new URLSearchParams(query)
  for (const [name, value] of Object.entries(where)) parameters.set(name, value)
  reply.header('link', `<${path}?${parameters.toString()}>; rel="next"`)
}

async function sendJson({ request, reply }: Call, value: unknown, type = 'application/json'): Promise<void> {
  const body = Buffer.from(JSON.stringify(value))
  reply.headers({ 'content-type': type, 'content-length': body.length })
  await reply.send(request.method === 'HEAD' ? undefined : body)
}
