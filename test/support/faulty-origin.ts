// An origin registry that misbehaves on command: a process that takes pushes like any registry and, told so on its
// control port, hangs, fails, cuts, lies or crawls. It counts every byte it sends.
//
//   node faulty-origin.ts --host 0.0.0.0 --port 5000 --control 5099
//   PUT  http://127.0.0.1:5099/faults   {"kind":"hang","path":"/blobs/","count":3}   (null: none; or a list)
//   GET  http://127.0.0.1:5099/counters
//
// With --tls-port it answers on a second port over TLS too, with server.pem and server.key of --tls-folder, and with
// expired.pem while told so. With --folder it keeps what was pushed, and has it again after a restart.
import { createHash, randomUUID } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { Readable } from 'node:stream'
import { TLSSocket } from 'node:tls'
import { parseArgs } from 'node:util'

export interface Fault {
  kind:
    | 'hang' // accepts, never answers
    | 'status' // answers `status`, for 429 with Retry-After
    | 'cut' // closes the connection after half of the body
    | 'reset' // the same with RST
    | 'stall' // half of the body, then silence
    | 'wrong-bytes' // one bit flipped in the middle of the body
    | 'wrong-length' // a body, and its announced length, one byte short
    | 'ignore-range' // 200 with everything
    | 'slow' // `bytesPerSecond` per request
    | 'circle' // redirects in a circle
    | 'expired' // shows a certificate that has expired, on every new TLS connection
  /** Only requests whose path holds this. @default every one */
  path?: string
  /** How many requests it hits before it wears off. @default no end */
  count?: number
  /** Hits every so manieth of the requests that it could hit. @default 1 */
  every?: number
  /** For `status`; 401 comes with a challenge. @default 500 */
  status?: number
  /** For `status`: seconds. */
  retryAfter?: number
  /** For `slow`. @default 65536 */
  bytesPerSecond?: number
}

export interface OriginCounters {
  /** Bytes of bodies of manifests and blobs sent to GET. */
  contentBytesSent: number
  /** Requests by method, kind and status, as `GET blobs 206`. */
  requests: Record<string, number>
  /** How many requests a fault has hit. */
  faultsDone: number
}

interface Content {
  bytes: Buffer
  mediaType: string
}

const blobs = new Map<string, Content>()
const manifests = new Map<string, Content>()
const uploads = new Map<string, Buffer[]>()
const counters: OriginCounters = { contentBytesSent: 0, requests: {}, faultsDone: 0 }
let faults: (Fault & { seen: number })[] = []

const digestOf = (bytes: Buffer): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`

/** Writes down what was pushed: a line with its type, then its bytes. */
function keep(kind: 'blobs' | 'manifests', name: string, { bytes, mediaType }: Content): void {
  if (values.folder === undefined) return
  writeFileSync(
    join(values.folder, kind, encodeURIComponent(name)),
    Buffer.concat([Buffer.from(`${mediaType}\n`), bytes]),
  )
}

/** Reads what an earlier run has kept. */
function recall(folder: string): void {
  for (const [kind, into] of [
    ['blobs', blobs],
    ['manifests', manifests],
  ] as const) {
    mkdirSync(join(folder, kind), { recursive: true })
    for (const file of readdirSync(join(folder, kind))) {
      const kept = readFileSync(join(folder, kind, file))
      const end = kept.indexOf('\n')
      into.set(decodeURIComponent(file), { mediaType: kept.toString('latin1', 0, end), bytes: kept.subarray(end + 1) })
    }
  }
}

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const pieces: Buffer[] = []
  for await (const piece of request) pieces.push(piece as Buffer)
  return Buffer.concat(pieces)
}

function fail(response: ServerResponse, status: number, code: string, headers: Record<string, string> = {}): void {
  const body = JSON.stringify({ errors: [{ code, message: `${code.toLowerCase()} (test origin)` }] })
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(body)
}

/** The first fault that this request meets, if any. */
function faultFor(request: IncomingMessage): Fault | undefined {
  if (request.method !== 'GET' && request.method !== 'HEAD') return undefined
  for (const fault of faults) {
    if (fault.kind === 'expired') continue
    if (fault.path !== undefined && !request.url?.includes(fault.path)) continue
    if (fault.kind === 'ignore-range' && request.headers.range === undefined) continue
    if (fault.seen++ % (fault.every ?? 1) !== 0) continue
    if (fault.count !== undefined && fault.count-- <= 0) continue
    counters.faultsDone++
    return fault
  }
  return undefined
}

/** At least a byte at a time, and at most twenty times a second. */
async function* crawl(bytes: Buffer, bytesPerSecond: number): AsyncGenerator<Buffer> {
  const step = Math.max(1, Math.round(bytesPerSecond / 20))
  for (let at = 0; at < bytes.length; at += step) {
    yield bytes.subarray(at, at + step)
    await new Promise((resolve) => setTimeout(resolve, (step / bytesPerSecond) * 1000))
  }
}

/** Answers in the place of content. False when the fault spoils the content only. */
function refuse(request: IncomingMessage, response: ServerResponse, fault: Fault): boolean {
  if (fault.kind === 'circle') {
    const path = (request.url ?? '/').split('?')[0] ?? '/'
    response.writeHead(307, { location: `${path}?turn=${randomUUID()}`, 'content-length': 0 }).end()
  } else if (fault.kind === 'status') {
    const { status = 500, retryAfter } = fault
    fail(response, status, status === 429 ? 'TOOMANYREQUESTS' : 'UNKNOWN', {
      ...(retryAfter === undefined ? {} : { 'retry-after': String(retryAfter) }),
      ...(status === 401 ? { 'www-authenticate': 'Basic realm="test origin"' } : {}),
    })
  } else return fault.kind === 'hang'
  return true
}

/** Under TLS only the connection below can be reset. */
const below = new Map<number, Socket>()

function rememberConnection(connection: Socket): void {
  const port = connection.remotePort ?? 0
  below.set(port, connection)
  connection.once('close', () => below.delete(port))
}

function reset(socket: Socket | null): void {
  const connection = below.get(socket?.remotePort ?? 0) ?? socket
  // A TLS socket itself cannot be reset: the connection below it has gone already.
  if (connection instanceof TLSSocket) connection.destroy()
  else connection?.resetAndDestroy()
}

function parseRange(header: string | undefined, size: number): { first: number; last: number } | undefined {
  const match = /^bytes=(\d+)-(\d*)$/.exec(header ?? '')
  if (match === null) return undefined
  return { first: Number(match[1]), last: match[2] === '' ? size - 1 : Math.min(size - 1, Number(match[2])) }
}

async function sendContent(request: IncomingMessage, response: ServerResponse, content: Content): Promise<void> {
  const met = faultFor(request)
  if (met !== undefined && refuse(request, response, met)) return
  const { bytes, mediaType } = content
  const range = met?.kind === 'ignore-range' ? undefined : parseRange(request.headers.range, bytes.length)
  if (range && range.first >= bytes.length) {
    fail(response, 416, 'RANGE_INVALID', { 'content-range': `bytes */${bytes.length}` })
    return
  }
  let body = range ? bytes.subarray(range.first, range.last + 1) : bytes
  if (met?.kind === 'wrong-length') body = body.subarray(0, -1)
  if (met?.kind === 'wrong-bytes') {
    body = Buffer.from(body)
    const middle = body.length >> 1
    body[middle] = (body[middle] ?? 0) ^ 1
  }
  response.writeHead(range ? 206 : 200, {
    'content-type': mediaType,
    'content-length': body.length,
    'docker-content-digest': digestOf(bytes),
    'accept-ranges': 'bytes',
    ...(range ? { 'content-range': `bytes ${range.first}-${range.last}/${bytes.length}` } : {}),
  })
  if (request.method === 'HEAD') {
    response.end()
    return
  }
  const before = response.socket?.bytesWritten ?? 0
  const { socket } = response
  response.once('close', () => {
    counters.contentBytesSent += Math.min(body.length, Math.max(0, (socket?.bytesWritten ?? 0) - before))
  })
  const half = body.subarray(0, body.length >> 1)
  if (met?.kind === 'stall') response.write(half)
  else if (met?.kind === 'cut') response.write(half, () => socket?.end())
  else if (met?.kind === 'reset') response.write(half, () => reset(socket))
  else if (met?.kind === 'slow') await pipeline(Readable.from(crawl(body, met.bytesPerSecond ?? 65_536)), response)
  else {
    const pieces = function* (): Generator<Buffer> {
      for (let at = 0; at < body.length; at += 1024 * 1024) yield body.subarray(at, at + 1024 * 1024)
    }
    await pipeline(Readable.from(pieces(), { objectMode: false, highWaterMark: 1024 * 1024 }), response)
  }
}

async function takePush(request: IncomingMessage, response: ServerResponse, url: URL): Promise<void> {
  const [, repository = '', id] = /^\/v2\/(.+)\/blobs\/uploads\/([^/]*)$/.exec(url.pathname) ?? []
  if (request.method === 'POST') {
    const upload = randomUUID()
    uploads.set(upload, [])
    response.writeHead(202, { location: `/v2/${repository}/blobs/uploads/${upload}`, 'content-length': 0 }).end()
    return
  }
  const pieces = uploads.get(id ?? '')
  if (pieces === undefined) {
    fail(response, 404, 'BLOB_UPLOAD_UNKNOWN')
    return
  }
  pieces.push(await bodyOf(request))
  if (request.method === 'PATCH') {
    response.writeHead(202, { location: url.pathname, 'content-length': 0 }).end()
    return
  }
  const bytes = Buffer.concat(pieces)
  uploads.delete(id ?? '')
  const digest = url.searchParams.get('digest') ?? ''
  if (digestOf(bytes) !== digest) {
    fail(response, 400, 'DIGEST_INVALID')
    return
  }
  blobs.set(digest, { bytes, mediaType: 'application/octet-stream' })
  keep('blobs', digest, { bytes, mediaType: 'application/octet-stream' })
  response.writeHead(201, { location: `/v2/${repository}/blobs/${digest}`, 'content-length': 0 }).end()
}

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const url = new URL(request.url ?? '/', 'http://origin')
  if (url.pathname === '/v2/') {
    const met = faultFor(request)
    if (met !== undefined && refuse(request, response, met)) return
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': 2 }).end('{}')
    return
  }
  if (url.pathname.includes('/blobs/uploads/')) return takePush(request, response, url)
  const [, repository = '', kind, reference = ''] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(url.pathname) ?? []
  if (kind === 'manifests' && request.method === 'PUT') {
    const bytes = await bodyOf(request)
    const digest = digestOf(bytes)
    const content = { bytes, mediaType: request.headers['content-type'] ?? 'application/octet-stream' }
    manifests.set(`${repository} ${reference}`, content)
    manifests.set(`${repository} ${digest}`, content)
    for (const name of [reference, digest]) keep('manifests', `${repository} ${name}`, content)
    response.writeHead(201, { 'docker-content-digest': digest, 'content-length': 0 }).end()
    return
  }
  const content = kind === 'blobs' ? blobs.get(reference) : manifests.get(`${repository} ${reference}`)
  if (content === undefined) fail(response, 404, kind === 'blobs' ? 'BLOB_UNKNOWN' : 'MANIFEST_UNKNOWN')
  else await sendContent(request, response, content)
}

function serve(request: IncomingMessage, response: ServerResponse): void {
  response.once('close', () => {
    const kind = /\/(manifests|blobs|uploads)\//.exec(request.url ?? '')?.[1] ?? 'other'
    const status = response.headersSent ? response.statusCode : 0
    const key = `${request.method} ${kind} ${status}`
    counters.requests[key] = (counters.requests[key] ?? 0) + 1
  })
  answer(request, response).catch((error: unknown) => {
    if (response.headersSent) response.destroy()
    else fail(response, 500, 'UNKNOWN', { 'x-error': String(error).replace(/[^ -~]/g, ' ') })
  })
}

function control(request: IncomingMessage, response: ServerResponse): void {
  const say = (body: unknown): void => {
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body))
  }
  if (request.method === 'PUT' && request.url === '/faults') {
    bodyOf(request).then(
      (body) => {
        const told = JSON.parse(body.toString()) as Fault | Fault[] | null
        faults = (told === null ? [] : Array.isArray(told) ? told : [told]).map((fault) => ({ ...fault, seen: 0 }))
        showCertificate()
        say(faults)
      },
      (error: unknown) => response.destroy(error as Error),
    )
  } else say(request.url === '/counters' ? counters : faults)
}

/** Shows new connections the certificate that the faults ask for, and ends those that have seen another. */
function showCertificate(): void {
  const wanted = faults.some(({ kind }) => kind === 'expired') ? 'expired.pem' : 'server.pem'
  if (tls === undefined || wanted === shown) return
  shown = wanted
  tls.setSecureContext(certificate(wanted))
  tls.closeAllConnections()
}

function certificate(file: string): { cert: Buffer; key: Buffer } {
  const folder = values['tls-folder'] ?? '.'
  return { cert: readFileSync(join(folder, file)), key: readFileSync(join(folder, 'server.key')) }
}

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '5000' },
    control: { type: 'string', default: '5099' },
    'tls-port': { type: 'string' },
    'tls-folder': { type: 'string' },
    folder: { type: 'string' },
  },
})
const server = { requestTimeout: 0, keepAliveTimeout: 60_000 }
let shown = 'server.pem'
const tls =
  values['tls-port'] === undefined
    ? undefined
    : createTlsServer({ ...server, ...certificate(shown) }, serve).listen(Number(values['tls-port']), values.host)
tls?.on('connection', rememberConnection)
if (values.folder !== undefined) recall(values.folder)
createServer(server, serve).listen(Number(values.port), values.host)
createServer(control).listen(Number(values.control), '127.0.0.1')
