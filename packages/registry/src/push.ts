// Handlers of the writing half of the OCI distribution specification 1.1 ("Push", "Content Management").
import type { IncomingMessage } from 'node:http'
import { MAX_MANIFEST_BYTES, OciError, type Digest } from '@shoal/oci'
import type { PushBackend, UploadPart, UploadState } from './backend.ts'
import { UploadRangeError } from './backend.ts'
import { queryText, queryTexts, type Call } from './call.ts'
import { checkDigest, checkName, checkTag } from './path.ts'
import { parseUploadRange } from './range.ts'
import { boundSmallBody, MANIFEST_LIMIT_MS } from './slow-clients.ts'

const MAX_TAGS = 64

/** Mounts, pushes in one request, or opens a session. */
export async function postUpload(call: Call, push: PushBackend, name: string): Promise<void> {
  const { request, context, settings } = call
  const mount = queryText(request, 'mount')
  if (mount !== undefined) {
    const digest = checkDigest(mount)
    const from = queryText(request, 'from')
    if (from !== undefined) checkName(from, settings.hostInName)
    if (await push.mountBlob(context, name, digest, from)) {
      await sendCreated(call, `/v2/${name}/blobs/${digest}`, digest)
      return
    }
  }
  const announced = queryText(request, 'digest')
  if (announced !== undefined && mount === undefined) {
    const digest = checkDigest(announced)
    await push.uploadBlob(context, name, digest, partOf(call))
    await sendCreated(call, `/v2/${name}/blobs/${digest}`, digest)
    return
  }
  await sendState(call, name, await push.startUpload(context, name), 202)
}

export async function getUpload(call: Call, push: PushBackend, name: string, id: string): Promise<void> {
  await sendState(call, name, await push.uploadState(call.context, name, id), 204)
}

export async function patchUpload(call: Call, push: PushBackend, name: string, id: string): Promise<void> {
  try {
    await sendState(call, name, await push.appendUpload(call.context, name, id, partOf(call)), 202)
  } catch (error) {
    throw withState(call, name, error)
  }
}

export async function putUpload(call: Call, push: PushBackend, name: string, id: string): Promise<void> {
  const { request, context } = call
  const text = queryText(request, 'digest')
  if (text === undefined) throw new OciError('DIGEST_INVALID', 'the query parameter digest is missing')
  const digest = checkDigest(text)
  try {
    await push.finishUpload(context, name, id, digest, hasBody(call) ? partOf(call) : undefined)
  } catch (error) {
    throw withState(call, name, error)
  }
  await sendCreated(call, `/v2/${name}/blobs/${digest}`, digest)
}

export async function deleteUpload(call: Call, push: PushBackend, name: string, id: string): Promise<void> {
  await push.cancelUpload(call.context, name, id)
  await call.reply.code(204).send()
}

export async function putManifest(call: Call, push: PushBackend, name: string, reference: string): Promise<void> {
  const { request, reply, context, settings } = call
  // Several tags in one push, from the development version of the specification (1.2).
  const tags = queryTexts(request, 'tag').map((tag) => checkTag(tag))
  if (tags.length > MAX_TAGS) throw new OciError('TAG_INVALID', `at most ${MAX_TAGS} tags in one push`)
  const announced = contentLength(call)
  if (announced !== undefined && announced > MAX_MANIFEST_BYTES) throw manifestTooLarge()
  const bytes = await readBody(request.raw, MAX_MANIFEST_BYTES)
  if (announced !== undefined && bytes.length !== announced) {
    throw new OciError('SIZE_INVALID', `${bytes.length} bytes came instead of ${announced}`)
  }
  settings.metrics?.bytesReceived(bytes.length)
  const answer = await push.putManifest(context, name, reference, bytes, request.headers['content-type'], tags)
  if (tags.length > 0) reply.header('oci-tag', tags.join(', '))
  if (answer.subject !== undefined) reply.header('oci-subject', answer.subject)
  await sendCreated(call, `/v2/${name}/manifests/${answer.digest}`, answer.digest)
}

export async function deleteManifest(call: Call, push: PushBackend, name: string, reference: string): Promise<void> {
  await push.deleteManifest(call.context, name, reference)
  await call.reply.code(202).header('content-length', 0).send()
}

export async function deleteBlob(call: Call, push: PushBackend, name: string, digest: Digest): Promise<void> {
  await push.deleteBlob(call.context, name, digest)
  await call.reply.code(202).header('content-length', 0).send()
}

function hasBody(call: Call): boolean {
  const { headers } = call.request
  return headers['transfer-encoding'] !== undefined || (contentLength(call) ?? 0) > 0
}

function contentLength({ request }: Call): number | undefined {
  const text = request.headers['content-length']
  return text === undefined ? undefined : Number(text)
}

function partOf(call: Call): UploadPart {
  const { request, settings } = call
  const body = request.raw
  let lengthBytes = contentLength(call)
  let start: number | undefined
  const header = request.headers['content-range']
  if (header !== undefined) {
    const range = parseUploadRange(header)
    if (!range) throw new OciError('BLOB_UPLOAD_INVALID', 'Content-Range must be <first byte>-<last byte>')
    const length = range.end - range.start + 1
    if (lengthBytes !== undefined && lengthBytes !== length) {
      throw new OciError('SIZE_INVALID', `Content-Range spans ${length} bytes, Content-Length says ${lengthBytes}`)
    }
    start = range.start
    lengthBytes = length
  }
  // A client that stops sending must not hold its session and socket for ever.
  body.setTimeout(settings.uploadStallMs, () => body.destroy(new Error('the client stopped sending')))
  body.on('error', () => undefined)
  body.once('close', () => {
    // After a refusal that left the body unread, Node has already set the time for which an idle connection is kept.
    if (!call.reply.raw.writableFinished) body.socket.setTimeout(0)
  })
  return { body, start, lengthBytes }
}

async function readBody(body: IncomingMessage, limitBytes: number): Promise<Buffer> {
  boundSmallBody(body, MANIFEST_LIMIT_MS)
  const pieces: Buffer[] = []
  let length = 0
  // Not destroyed when we stop early: the client shall still get its answer on this connection.
  for await (const piece of body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    length += piece.length
    if (length > limitBytes) throw manifestTooLarge()
    pieces.push(piece)
  }
  return Buffer.concat(pieces, length)
}

function manifestTooLarge(): OciError {
  return new OciError('SIZE_INVALID', `a manifest may have at most ${MAX_MANIFEST_BYTES} bytes`, { status: 413 })
}

async function sendState(call: Call, name: string, state: UploadState, status: number): Promise<void> {
  await call.reply.code(status).headers(stateHeaders(name, state)).send()
}

function stateHeaders(name: string, state: UploadState): Record<string, string> {
  return {
    location: `/v2/${name}/blobs/uploads/${state.id}`,
    // There is no way to say "nothing yet" in this notation; the reference implementation says 0-0.
    range: `0-${Math.max(0, state.receivedBytes - 1)}`,
    'docker-upload-uuid': state.id,
  }
}

/** 416 tells where the upload stands, so that the client need not ask. */
function withState(call: Call, name: string, error: unknown): unknown {
  if (error instanceof UploadRangeError) call.reply.headers(stateHeaders(name, error.state))
  return error
}

async function sendCreated({ reply }: Call, location: string, digest: Digest): Promise<void> {
  await reply.code(201).headers({ location, 'docker-content-digest': digest, 'content-length': 0 }).send()
}
