// A container runtime's pull, without the runtime: the manifest by tag or digest, then config and layers in parallel
// through a registry endpoint, everything hashed. As a program it prints one JSON line per event.
import { createHash } from 'node:crypto'
import { Agent } from 'node:http'
import { buffer, text } from 'node:stream/consumers'
import { parseArgs } from 'node:util'
import { open } from '../support/http.ts'
import { DOCKER, OCI, sha256 } from '../support/images.ts'

export interface PullRequest {
  /** `http://host:port` of the agent's mirror endpoint or of a registry. */
  endpoint: string
  repository: string
  /** A tag or a digest. */
  reference: string
  /** The registry the image belongs to, as containerd sends it; none when the endpoint is that registry. */
  namespace?: string
  /** Limit for the silence before and between bytes. @default 60000 */
  idleLimitMs?: number
  /** Limit for the whole pull. @default none */
  limitMs?: number
  /** Blobs at once. @default 4 */
  parallel?: number
}

export interface PulledBlob {
  digest: string
  sizeBytes: number
  /** Whether the bytes hash to the digest. */
  verified: boolean
  source: string
  firstByteMs: number
  durationMs: number
}

export interface PullResult {
  manifestDigest: string
  /** `Warning` header of the manifest's answer: set on a stale tag. */
  warning: string | undefined
  manifestSource: string
  manifestMs: number
  firstByteMs: number
  durationMs: number
  bytes: number
  blobs: PulledBlob[]
}

/** The endpoint answered something else than what was asked for. */
export class PullError extends Error {
  override name = 'PullError'
  readonly status: number

  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

const ACCEPT = [DOCKER.manifest, DOCKER.index, OCI.manifest, OCI.index].join(', ')

interface Manifest {
  config?: { digest: string; size: number }
  layers?: { digest: string; size: number }[]
  manifests?: { digest: string; platform?: { architecture?: string; os?: string } }[]
}

/**
 * @param onProgress - told of the bytes that have come, every few MiB
 * @throws PullError on an answer that is no success, Error on a broken connection or a wrong digest of a manifest; after
 *   a manifest its property `wrong` names the blobs that came whole and wrong before
 */
export async function pull(request: PullRequest, onProgress: (bytes: number) => void = () => {}): Promise<PullResult> {
  const { endpoint, repository, namespace, idleLimitMs = 60_000, limitMs, parallel = 4 } = request
  const signal = limitMs === undefined ? undefined : AbortSignal.timeout(limitMs)
  const agent = new Agent({ keepAlive: true })
  const start = performance.now()
  const since = (from: number): number => Math.round((performance.now() - from) * 10) / 10
  let bytes = 0
  let reported = 0

  const ask = async (kind: string, reference: string) => {
    const url = new URL(`/v2/${repository}/${kind}/${reference}`, endpoint)
    if (namespace !== undefined) url.searchParams.set('ns', namespace)
    const headers = { accept: kind === 'manifests' ? ACCEPT : '*/*', 'user-agent': 'shoal-test-pull' }
    const answer = await open(url.href, { headers, agent, idleLimitMs, signal })
    if (answer.statusCode !== 200) {
      throw new PullError(answer.statusCode ?? 0, `GET ${url.href}: ${answer.statusCode} ${await text(answer)}`)
    }
    return answer
  }

  const manifest = async (reference: string) => {
    const answer = await ask('manifests', reference)
    const body = await buffer(answer)
    const digest = sha256(body)
    const wanted = reference.startsWith('sha256:') ? reference : answer.headers['docker-content-digest']
    if (digest !== wanted) throw new Error(`manifest ${reference}: ${String(wanted)} announced, ${digest} came`)
    bytes += body.length
    return { answer, digest, content: JSON.parse(body.toString()) as Manifest }
  }

  const blob = async (digest: string): Promise<PulledBlob> => {
    const from = performance.now()
    const answer = await ask('blobs', digest)
    const hash = createHash('sha256')
    let sizeBytes = 0
    let firstByteMs = 0
    for await (const piece of answer) {
      if (sizeBytes === 0) firstByteMs = since(from)
      hash.update(piece as Buffer)
      sizeBytes += (piece as Buffer).length
      bytes += (piece as Buffer).length
      if (bytes - reported >= 4 * 1024 * 1024) onProgress((reported = bytes))
    }
    const verified = `sha256:${hash.digest('hex')}` === digest
    const source = String(answer.headers['x-shoal-source'] ?? '')
    return { digest, sizeBytes, verified, source, firstByteMs, durationMs: since(from) }
  }

  try {
    const top = await manifest(request.reference)
    let content = top.content
    const child = content.manifests?.find(({ platform }) => {
      return platform?.os === 'linux' && platform.architecture === (process.arch === 'x64' ? 'amd64' : process.arch)
    })
    if (child) content = (await manifest(child.digest)).content
    const manifestMs = since(start)
    const wanted = [...(content.config ? [content.config] : []), ...(content.layers ?? [])].map(({ digest }) => digest)
    const queue = [...new Set(wanted)]
    const blobs: PulledBlob[] = []
    const worker = async (): Promise<void> => {
      try {
        for (let digest = queue.shift(); digest !== undefined; digest = queue.shift()) blobs.push(await blob(digest))
      } catch (error) {
        queue.length = 0
        throw error
      }
    }
    const began = since(start)
    const ends = await Promise.allSettled(Array.from({ length: parallel }, worker))
    const failed = ends.find((end) => end.status === 'rejected')
    if (failed !== undefined) {
      const wrong = blobs.filter(({ verified }) => !verified).map((each) => each.digest)
      throw Object.assign(failed.reason as Error, { wrong })
    }
    onProgress(bytes)
    return {
      manifestDigest: top.digest,
      warning: top.answer.headers['warning'],
      manifestSource: String(top.answer.headers['x-shoal-source'] ?? ''),
      manifestMs,
      firstByteMs: began + Math.min(...blobs.map((each) => each.firstByteMs)),
      durationMs: since(start),
      bytes,
      blobs,
    }
  } finally {
    agent.destroy()
  }
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      endpoint: { type: 'string', default: 'http://127.0.0.1:7700' },
      namespace: { type: 'string' },
    },
  })
  const [repository = '', reference = 'latest'] = positionals
  if (repository === '') {
    process.stderr.write('usage: pull-client [--endpoint URL] [--namespace HOST] REPOSITORY [TAG|DIGEST]\n')
    process.exitCode = 2
    return
  }
  const say = (line: object): void => void process.stdout.write(`${JSON.stringify(line)}\n`)
  try {
    const result = await pull(
      {
        endpoint: values.endpoint,
        repository,
        reference,
        ...(values.namespace ? { namespace: values.namespace } : {}),
      },
      (bytes) => say({ event: 'progress', bytes }),
    )
    say({ event: 'result', ...result })
    process.exitCode = result.blobs.every(({ verified }) => verified) ? 0 : 1
  } catch (error) {
    say({ event: 'error', message: (error as Error).message })
    process.exitCode = 1
  }
}

if (import.meta.main) await main()
