// Pushes the demo's image as docker would, and pulls it as a runtime would, checking every digest for itself.
import { createReadStream } from 'node:fs'
import {
  MANIFEST_MEDIA_TYPES,
  blobsOf,
  createDigestHash,
  digestOf,
  parseManifest,
  type Descriptor,
  type Digest,
} from '@shoal/oci'
import { request, type Dispatcher } from 'undici'
import { CommandError } from '../exit-codes.ts'
import type { DemoImage } from './image.ts'

/** No byte for this long is a failure: on one machine nothing is that slow. */
const SILENCE_MS = 60_000

type Options = Omit<Dispatcher.RequestOptions, 'origin' | 'path'>

async function ask(url: string, options: Options, expected: number): Promise<Dispatcher.ResponseData> {
  const answer = await request(url, { headersTimeout: SILENCE_MS, bodyTimeout: SILENCE_MS, ...options })
  if (answer.statusCode === expected) return answer
  const body = (await answer.body.text().catch(() => '')).slice(0, 500)
  throw new CommandError(`${options.method} ${url} was answered ${answer.statusCode}: ${body}`)
}

/** Pushes blobs and manifest to the registry at `base`. */
export async function pushImage(
  base: string,
  repository: string,
  tag: string,
  image: DemoImage,
  signal: AbortSignal,
): Promise<void> {
  for (const { descriptor, content } of image.blobs) {
    const begin = await ask(`${base}/v2/${repository}/blobs/uploads/`, { method: 'POST', signal }, 202)
    await begin.body.dump()
    const location = begin.headers['location']
    if (typeof location !== 'string') throw new CommandError(`${base} began an upload without saying where`)
    const target = new URL(location, base)
    target.searchParams.set('digest', descriptor.digest)
    const end = await ask(
      target.href,
      {
        method: 'PUT',
        headers: { 'content-type': 'application/octet-stream', 'content-length': String(descriptor.size) },
        body: typeof content === 'string' ? createReadStream(content, { highWaterMark: 1024 * 1024 }) : content,
        signal,
      },
      201,
    )
    await end.body.dump()
  }
  const put = await ask(
    `${base}/v2/${repository}/manifests/${tag}`,
    {
      method: 'PUT',
      headers: { 'content-type': 'application/vnd.oci.image.manifest.v1+json' },
      body: image.manifest,
      signal,
    },
    201,
  )
  await put.body.dump()
}

export interface PullResult {
  digest: Digest
  durationMs: number
  /** Digests of manifest and blobs that were right: all of them, or the pull would have failed. */
  verified: number
}

/**
 * Pulls an image through a mirror endpoint, several blobs at a time.
 *
 * @throws CommandError on any answer but 200 and on any wrong digest
 */
export async function pullImage(
  base: string,
  repository: string,
  tag: string,
  onBytes: (bytes: number) => void,
  signal: AbortSignal,
): Promise<PullResult> {
  const startedAt = performance.now()
  const answer = await ask(
    `${base}/v2/${repository}/manifests/${tag}`,
    { method: 'GET', headers: { accept: MANIFEST_MEDIA_TYPES.join(', ') }, signal },
    200,
  )
  const bytes = new Uint8Array(await answer.body.arrayBuffer())
  const digest = digestOf(bytes)
  if (answer.headers['docker-content-digest'] !== digest) {
    throw new CommandError(`${base} sent a manifest that is not the one it named`)
  }
  const manifest = parseManifest(bytes, String(answer.headers['content-type'] ?? ''))
  const blobs = blobsOf(manifest)
  await Promise.all(blobs.map((blob) => pullBlob(base, repository, blob, onBytes, signal)))
  return { digest, durationMs: performance.now() - startedAt, verified: blobs.length + 1 }
}

async function pullBlob(
  base: string,
  repository: string,
  { digest, size }: Descriptor,
  onBytes: (bytes: number) => void,
  signal: AbortSignal,
): Promise<void> {
  const answer = await ask(`${base}/v2/${repository}/blobs/${digest}`, { method: 'GET', signal }, 200)
  const hash = createDigestHash(digest)
  let received = 0
  for await (const part of answer.body as AsyncIterable<Buffer>) {
    hash.update(part)
    received += part.length
    onBytes(part.length)
  }
  if (received !== size) throw new CommandError(`${base} sent ${received} bytes of ${digest}, which has ${size}`)
  const found = hash.digest()
  if (found !== digest) throw new CommandError(`${base} sent wrong bytes: ${found} instead of ${digest}`)
}

/** Sum of a metric's samples that carry this label (`source="peer"`), from a Prometheus endpoint. */
export async function readMetric(url: string, name: string, label = ''): Promise<number> {
  const answer = await ask(url, { method: 'GET' }, 200)
  let sum = 0
  for (const line of (await answer.body.text()).split('\n')) {
    const sample = /^(\w+)(\{[^}]*\})? (\S+)/.exec(line)
    if (sample?.[1] === name && (sample[2] ?? '').includes(label)) sum += Number(sample[3])
  }
  return sum
}
