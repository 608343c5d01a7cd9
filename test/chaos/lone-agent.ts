// One agent with nobody beside it, and an origin that holds its bytes back: for tests of what many clients do to an agent.
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { Daemon } from '../support/daemon.ts'
import { fetchAll } from '../support/http.ts'
import { metricSum, parseMetrics } from '../support/metrics.ts'
import { freePorts } from '../support/ports.ts'
import { shoalCommand, writeConfig, writeSwarmKey, type Config } from '../support/shoal.ts'
import { until } from '../support/until.ts'

/** Under which the agent knows the origin. */
const REGISTRY = 'load.test'

export const digestOf = (bytes: Uint8Array): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`

/** Blobs that differ, with their digests. */
export function makeBlobs(name: string, count: number, sizeBytes: number): Map<string, Buffer> {
  const blobs = Array.from({ length: count }, (_, at) => Buffer.alloc(sizeBytes, `${name} ${at}, `))
  return new Map(blobs.map((bytes) => [digestOf(bytes), bytes]))
}

export interface HeldOriginOptions {
  /** Content of each repository. */
  repositories: Record<string, Map<string, Buffer>>
  /** What a repository asks for, as an `Authorization` header; others are open to everyone. */
  logins?: Record<string, string>
}

export interface HeldOrigin {
  url: string
  /** From now on the second half of each of these blobs waits for `release`. */
  hold: (digests: Iterable<string>) => void
  release: () => void
}

/** A registry of blobs. Of those that are held it gives the first half at once, so that they are arriving for as long as wanted. */
export async function startHeldOrigin(t: TestContext, options: HeldOriginOptions): Promise<HeldOrigin> {
  const { repositories, logins = {} } = options
  const held = new Set<string>()
  let gate = Promise.withResolvers<void>()
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const [, repository = '', digest = ''] = /^\/v2\/(.+)\/blobs\/([^?]+)/.exec(request.url ?? '') ?? []
    const login = logins[repository]
    if (login !== undefined && request.headers.authorization !== login) {
      const headers = { 'content-type': 'application/json', 'www-authenticate': 'Basic realm="load"' }
      response.writeHead(401, headers).end('{"errors":[{"code":"UNAUTHORIZED"}]}')
      return
    }
    const bytes = repositories[repository]?.get(digest)
    if (bytes === undefined) {
      response.writeHead(404, { 'content-type': 'application/json' }).end('{"errors":[{"code":"BLOB_UNKNOWN"}]}')
      return
    }
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '')
    const first = Number(range?.[1] ?? 0)
    const last = range?.[2] ? Math.min(Number(range[2]), bytes.length - 1) : bytes.length - 1
    const headers = { 'content-length': last - first + 1, 'content-range': `bytes ${first}-${last}/${bytes.length}` }
    response.writeHead(range ? 206 : 200, headers)
    if (request.method === 'HEAD') {
      response.end()
      return
    }
    const half = Math.min(Math.max(first, bytes.length / 2), last + 1)
    response.write(bytes.subarray(first, half))
    if (held.has(digest)) await gate.promise
    response.end(bytes.subarray(half, last + 1))
  }
  const server = createServer((request, response) => {
    answer(request, response).catch(() => response.destroy())
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const release = (): void => {
    held.clear()
    gate.resolve()
    gate = Promise.withResolvers()
  }
  t.after(() => {
    release()
    server.closeAllConnections()
    server.close()
  })
  const hold = (digests: Iterable<string>): void => {
    for (const digest of digests) held.add(digest)
  }
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, hold, release }
}

export interface LoneAgent {
  pid: number
  port: number
  admin: string
  /** Path of a blob at the mirror endpoint. */
  pathOf: (repository: string, digest: string) => string
  urlOf: (repository: string, digest: string) => string
  /** Sum of a metric. */
  metric: (name: string) => Promise<number>
  /** Open descriptors, sockets among them. */
  descriptors: () => number
  /** What the heap holds when the garbage has been collected, in bytes. */
  heapBytes: () => Promise<number>
  /** A connection to the mirror endpoint, on which `text` was sent; closed with the test. */
  connect: (text?: string) => Promise<Socket>
  assertRunning: () => void
}

/** Starts an agent and waits until it is ready; it stops with the test. */
export async function startLoneAgent(t: TestContext, origin: HeldOrigin, more: Config = {}): Promise<LoneAgent> {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-load-'))
  t.after(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }))
  const [mirrorPort = 0, p2pPort = 0, transferPort = 0, adminPort = 0] = await freePorts(4)
  const config = writeConfig(join(folder, 'agent.yaml'), {
    dataDirectory: join(folder, 'agent'),
    swarmKeyFiles: [writeSwarmKey(join(folder, 'swarm.key'))],
    ...{ mirrorPort, p2pPort, transferPort, adminPort, p2pHost: '127.0.0.1', transferHost: '127.0.0.1' },
    registries: { [REGISTRY]: { endpoint: origin.url, plainHttp: true } },
    ...more,
  })
  const command = shoalCommand('agent', '--config', config)
  const env = { ...process.env, NODE_OPTIONS: `--import=${join(import.meta.dirname, 'collecting-agent.ts')}` }
  const daemon = new Daemon({ name: 'agent', command, env, logFile: join(folder, 'agent.log') })
  t.after(() => daemon.stop())
  const admin = `http://127.0.0.1:${adminPort}`
  const isReady = async (): Promise<boolean> => !daemon.running || (await fetchAll(`${admin}/readyz`)).status === 200
  await until(isReady, { what: 'readiness' })
  daemon.assertRunning()
  const metric = async (name: string): Promise<number> =>
    metricSum(parseMetrics((await fetchAll(`${admin}/metrics`)).body.toString()), name)
  const pathOf = (repository: string, digest: string): string => `/v2/${repository}/blobs/${digest}?ns=${REGISTRY}`
  return {
    pid: daemon.pid,
    port: mirrorPort,
    admin,
    pathOf,
    urlOf: (repository, digest) => `http://127.0.0.1:${mirrorPort}${pathOf(repository, digest)}`,
    metric,
    descriptors: () => readdirSync(`/proc/${daemon.pid}/fd`).length,
    async heapBytes() {
      process.kill(daemon.pid, 'SIGUSR2')
      return await metric('nodejs_heap_size_used_bytes')
    },
    async connect(text = '') {
      const socket = connect(mirrorPort, '127.0.0.1')
      socket.on('error', () => undefined)
      t.after(() => socket.destroy())
      await once(socket, 'connect')
      socket.write(text)
      return socket
    },
    assertRunning: () => daemon.assertRunning(),
  }
}
