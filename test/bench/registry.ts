// Pushing a layer to Shoal's registry and pulling it, beside Debian's docker-registry; and the registry's memory while a
// large layer goes in and out, over a folder and over an object store.
import { spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fetchAll } from '../support/http.ts'
import { GiB, MiB } from '../support/images.ts'
import { OBJECT_STORE, startObjectStore } from '../support/object-store.ts'
import { missingRequirements } from '../support/requirements.ts'
import { withDaemons, type Endpoint } from './daemons.ts'
import { median, type SectionResult, type Target } from './figures.ts'
import { cpuSeconds, memory } from '../support/process-cost.ts'

const LAYER_BYTES = 1e9
/** What the registry may take at most, whatever the size of a layer. */
const PEAK_LIMIT_MB = 250

interface Layer {
  file: string
  digest: string
  sizeBytes: number
}

interface Cost {
  megabytesPerSecond: number
  cpuSecondsPerGigabyte: number
}

/** A file of bytes that do not repeat, and its digest. */
function writeLayer(file: string, sizeBytes: number): Layer {
  const hash = createHash('sha256')
  const block = randomBytes(4 * MiB)
  const out = openSync(file, 'w')
  try {
    for (let at = 0; at < sizeBytes; at += block.length) {
      block.writeUIntLE(at, 0, 6)
      const piece = block.subarray(0, Math.min(block.length, sizeBytes - at))
      hash.update(piece)
      writeSync(out, piece)
    }
  } finally {
    closeSync(out)
  }
  return { file, digest: `sha256:${hash.digest('hex')}`, sizeBytes }
}

/** Gives back the headers of the answer as they came. */
async function curl(...args: string[]): Promise<string> {
  const options = ['-sfS', '-o', '/dev/null', '-D', '-']
  const child = spawn('curl', [...options, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  const [headers, [code]] = await Promise.all([text(child.stdout), once(child, 'exit') as Promise<[number | null]>])
  if (code !== 0) throw new Error(`curl ${args.join(' ')} ended with ${code}`)
  return headers
}

/** As docker does it: one streamed PATCH of unknown length, and a PUT with the digest. */
async function push({ url }: Endpoint, repository: string, layer: Layer): Promise<void> {
  const begun = await fetchAll(`${url}/v2/${repository}/blobs/uploads/`, {
    method: 'POST',
    headers: { 'content-length': 0 },
  })
  const upload = new URL(begun.headers.location ?? '', url)
  const streamed = ['-H', 'Transfer-Encoding: chunked', '-H', 'Expect:', '-H', 'Content-Type: application/octet-stream']
  const headers = await curl('-X', 'PATCH', ...streamed, '-T', layer.file, upload.href)
  const target = new URL(/^location: *(\S+)/im.exec(headers)?.[1] ?? '', url)
  target.searchParams.set('digest', layer.digest)
  const end = await fetchAll(target.href, { method: 'PUT', headers: { 'content-length': 0 }, idleLimitMs: 600_000 })
  if (end.status !== 201) throw new Error(`push to ${url}: ${end.status} ${end.body}`)
}

async function pull({ url }: Endpoint, repository: string, layer: Layer): Promise<void> {
  await curl(`${url}/v2/${repository}/blobs/${layer.digest}`)
}

async function measured(endpoint: Endpoint, layer: Layer, work: () => Promise<void>): Promise<Cost> {
  const cpu = cpuSeconds(endpoint.pid)
  const start = performance.now()
  await work()
  const seconds = (performance.now() - start) / 1000
  return {
    megabytesPerSecond: layer.sizeBytes / 1e6 / seconds,
    cpuSecondsPerGigabyte: (cpuSeconds(endpoint.pid) - cpu) / (layer.sizeBytes / 1e9),
  }
}

export async function registry(rounds: number): Promise<SectionResult> {
  return await withDaemons(async (daemons) => {
    const theirs = await daemons.dockerRegistry()
    const ours = await daemons.shoalRegistry()
    const layer = writeLayer(join(daemons.folder, 'layer'), LAYER_BYTES)
    const costs = new Map<string, Cost[]>()
    // One round more than counts: connections, compiled code and the page cache are not what is measured.
    for (let round = 0; round <= rounds; round++) {
      for (const [what, work] of [
        ['push', push],
        ['pull', pull],
      ] as const) {
        for (const endpoint of round % 2 ? [ours, theirs] : [theirs, ours]) {
          const cost = await measured(endpoint, layer, () => work(endpoint, `bench/round-${round}`, layer))
          const key = `${what} ${endpoint.name}`
          if (round > 0) costs.set(key, [...(costs.get(key) ?? []), cost])
        }
      }
    }
    const rows: string[][] = []
    const targets: Target[] = []
    for (const what of ['push', 'pull']) {
      const middle = ({ name }: Endpoint, key: keyof Cost): number =>
        median((costs.get(`${what} ${name}`) ?? []).map((cost) => cost[key]))
      for (const [key, unit, digits] of [
        ['megabytesPerSecond', 'MB/s', 0],
        ['cpuSecondsPerGigabyte', 'server CPU s/GB', 2],
      ] as const) {
        const [our, their] = [middle(ours, key), middle(theirs, key)]
        rows.push([`${what}, ${unit}`, our.toFixed(digits), their.toFixed(digits), (our / their).toFixed(2)])
        if (unit === 'MB/s') {
          targets.push({ what: `${what}: at least 0.8 of docker-registry in MB/s`, met: our / their >= 0.8 })
        }
      }
    }
    return {
      title: 'The registry: a layer of 1 GB pushed and pulled',
      method:
        `One client (curl) over loopback, both on one disk, taking turns; the median of ${rounds} rounds. ` +
        'A push is a streamed PATCH and a PUT, as docker does it.',
      columns: ['', 'shoal registry', 'docker-registry', 'ratio'],
      rows,
      targets,
    }
  })
}

export async function registryMemory(gibibytes: number): Promise<SectionResult> {
  const missing = missingRequirements([OBJECT_STORE])
  if (missing.length > 0) throw new Error(`missing: ${missing.join(', ')} (scripts/install-test-tools)`)
  const store = await startObjectStore()
  try {
    return await withDaemons(async (daemons) => {
      const layer = writeLayer(join(daemons.folder, 'layer'), Math.round(gibibytes * GiB))
      const rows: string[][] = []
      const targets: Target[] = []
      const bucket = { places: { bucket: store.bucket('bench') }, defaultPlace: 'bucket' }
      for (const [kind, config] of [
        ['folder', {}],
        ['bucket', bucket],
      ] as const) {
        const endpoint = await daemons.shoalRegistry(`registry-${kind}`, config)
        const rest = memory(endpoint.pid).residentBytes
        const pushed = await measured(endpoint, layer, () => push(endpoint, 'big', layer))
        const afterPush = memory(endpoint.pid).peakBytes
        const pulled = await measured(endpoint, layer, () => pull(endpoint, 'big', layer))
        const { peakBytes } = memory(endpoint.pid)
        const mb = (bytes: number): string => (bytes / 1e6).toFixed(0)
        rows.push([
          kind,
          mb(rest),
          mb(afterPush),
          mb(peakBytes),
          pushed.megabytesPerSecond.toFixed(0),
          pulled.megabytesPerSecond.toFixed(0),
        ])
        targets.push({ what: `${kind}: peak below ${PEAK_LIMIT_MB} MB`, met: peakBytes < PEAK_LIMIT_MB * 1e6 })
      }
      return {
        title: "The registry's memory while a large layer goes in and out",
        method: `One layer of ${gibibytes} GiB, pushed and then pulled by one client. The bucket is in versitygw.`,
        columns: ['kept in', 'at rest, MB', 'peak of the push, MB', 'peak of both, MB', 'push, MB/s', 'pull, MB/s'],
        rows,
        targets,
      }
    })
  } finally {
    await store.close()
  }
}
