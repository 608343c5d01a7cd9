// An origin for blobs too big to keep: it makes the bytes of one layer anew from a seed for every request, ranges too,
// so that a test of many GiB needs no disk for its source.
//
//   node generated-origin.ts --host 0.0.0.0 --port 5000 --repository big/app --tag v1 --seed x --layer-bytes N
import { createCipheriv, createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { parseArgs } from 'node:util'
import { MiB, rawImage } from './images.ts'

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '5000' },
    repository: { type: 'string', default: 'big/app' },
    tag: { type: 'string', default: 'v1' },
    seed: { type: 'string', default: 'big' },
    'layer-bytes': { type: 'string' },
  },
})
const layerBytes = Number(values['layer-bytes'])
const image = rawImage(values.seed, [layerBytes])
const [config, layer] = image.blobs
if (config === undefined || layer === undefined) throw new Error('an image has a config and a layer')

/** Bytes `first` to `last` of what seededBytes gives for this seed: a counter stream can begin anywhere. */
function* layerRange(first: number, last: number): Generator<Buffer> {
  const block = Math.floor(first / 16)
  const counter = Buffer.alloc(16)
  counter.writeBigUInt64BE(BigInt(block), 8)
  const key = createHash('sha256').update(`${values.seed}/0`).digest().subarray(0, 16)
  const cipher = createCipheriv('aes-128-ctr', key, counter)
  cipher.update(Buffer.alloc(first - block * 16))
  const zeros = Buffer.alloc(MiB)
  for (let left = last - first + 1; left > 0; left -= zeros.length) {
    yield cipher.update(left >= zeros.length ? zeros : zeros.subarray(0, left))
  }
}

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const path = new URL(request.url ?? '/', 'http://origin').pathname
  const base = `/v2/${values.repository}`
  const head = (status: number, length: number, type: string, digest: string, extra: Record<string, string> = {}) =>
    response.writeHead(status, {
      'content-type': type,
      'content-length': length,
      'docker-content-digest': digest,
      'accept-ranges': 'bytes',
      ...extra,
    })
  if (path === '/v2/') response.writeHead(200, { 'content-length': 2 }).end('{}')
  else if (path === `${base}/manifests/${values.tag}` || path === `${base}/manifests/${image.digest}`) {
    head(200, image.manifest.length, image.mediaType, image.digest)
    response.end(request.method === 'HEAD' ? undefined : image.manifest)
  } else if (path === `${base}/blobs/${config?.digest}`) {
    const bytes = Buffer.concat([...(config?.bytes() ?? [])])
    head(200, bytes.length, 'application/octet-stream', config?.digest ?? '')
    response.end(request.method === 'HEAD' ? undefined : bytes)
  } else if (path === `${base}/blobs/${layer?.digest}`) {
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '')
    const first = Number(range?.[1] ?? 0)
    const last = range?.[2] ? Math.min(Number(range[2]), layerBytes - 1) : layerBytes - 1
    const partial = range ? { 'content-range': `bytes ${first}-${last}/${layerBytes}` } : undefined
    head(range ? 206 : 200, last - first + 1, 'application/octet-stream', layer?.digest ?? '', partial)
    if (request.method === 'HEAD') response.end()
    else await pipeline(Readable.from(layerRange(first, last), { objectMode: false, highWaterMark: MiB }), response)
  } else response.writeHead(404, { 'content-type': 'application/json' }).end('{"errors":[{"code":"NAME_UNKNOWN"}]}')
}

createServer({ requestTimeout: 0 }, (request, response) => {
  answer(request, response).catch(() => response.destroy())
}).listen(Number(values.port), values.host, () => {
  process.stdout.write(`${JSON.stringify({ digest: image.digest, layer: layer.digest })}\n`)
})
