// Nodes of a cluster in one process, for tests: each with a store of its own on the disk and both planes on the loopback.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import type { TestContext } from 'node:test'
import {
  createControlPlane,
  createIdentity,
  createTransferPlane,
  SwarmKeys,
  verifySignature,
  type ChunkHandler,
  type ControlPlane,
  type NodeAddress,
  type TransferPlane,
} from '@shoal/network'
import type { Digest } from '@shoal/oci'
import { openStore, type Store } from '@shoal/store'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import type { SwarmTimings } from '../context.ts'
import type { Download } from '../download.ts'
import { DEFAULT_PARAMETERS, type SwarmParameters } from '../policy/index.ts'
import { RateLimits } from '../rate-limits.ts'
import { createUploads, Swarm, type SwarmOptions } from '../swarm.ts'
import type { MemoryOrigin } from './origin.ts'

export const silent = pino({ level: process.env['SHOAL_TEST_LOG'] ?? 'silent' })
/** Of all nodes here. */
export const SWARM_KEY = new Uint8Array(32).fill(7)
const swarmKeys = new SwarmKeys([SWARM_KEY])

export interface NodeOptions {
  directory?: string
  quotaBytes?: number
  /** Bytes per second that it sends to others at most. @default no limit */
  uploadRate?: number
  trackers?: string[]
  bootstrap?: string[]
  zone?: string
  parameters?: Partial<SwarmParameters>
  timings?: Partial<SwarmTimings>
  knownTag?: SwarmOptions['knownTag']
  /** Changes what a node answers to requests for chunks. */
  handler?: (honest: ChunkHandler) => ChunkHandler
  /** Changes the control plane that the swarm sees. */
  control?: (honest: ControlPlane) => ControlPlane
  transfer?: (honest: TransferPlane) => TransferPlane
}

/** One node. It is stopped with the test. */
export class TestNode {
  readonly directory: string
  readonly store: Store
  readonly control: ControlPlane
  readonly transfer: TransferPlane
  readonly swarm: Swarm
  readonly registry: Registry
  #stopped: Promise<void> | undefined

  constructor(parts: Pick<TestNode, 'directory' | 'store' | 'control' | 'transfer' | 'swarm' | 'registry'>) {
    this.directory = parts.directory
    this.store = parts.store
    this.control = parts.control
    this.transfer = parts.transfer
    this.swarm = parts.swarm
    this.registry = parts.registry
  }

  get address(): NodeAddress {
    return this.control.address
  }

  async start(): Promise<void> {
    await this.control.start()
    this.swarm.start()
  }

  /** Opens a control channel to another node. */
  async meet(...others: TestNode[]): Promise<void> {
    await Promise.all(others.map((other) => this.control.channel(other.address, patience())))
  }

  /** Begins to download a blob of the origin; `held` keeps it going. */
  async download(origin: MemoryOrigin, digest: Digest, withOrigin = true): Promise<Download> {
    const source = withOrigin ? origin.source(digest) : undefined
    const request = { digest, sizeBytes: origin.size(digest), origin: source, requestId: 'test' }
    const download = await this.swarm.download(request)
    if (download === undefined) throw new Error('the blob is there already')
    download.hold()
    return download
  }

  async fetch(origin: MemoryOrigin, digest: Digest, withOrigin = true): Promise<Download> {
    const download = await this.download(origin, digest, withOrigin)
    await download.done
    return download
  }

  async bytes(digest: Digest): Promise<Buffer> {
    const blob = await this.store.open(digest)
    if (blob === undefined) throw new Error(`${digest} is not in the store`)
    try {
      return await readAll(blob.createReadStream())
    } finally {
      blob.release()
    }
  }

  /** Value of a counter with these labels. */
  async metric(name: string, labels: Record<string, string> = {}): Promise<number> {
    const metric = await this.registry.getSingleMetric(name)?.get()
    if (metric === undefined) throw new Error(`there is no metric ${name}`)
    const wanted = Object.entries(labels)
    const fits = (found: Record<string, string | number | undefined>) =>
      wanted.every(([key, value]) => found[key] === value)
    return metric.values.filter(({ labels: found }) => fits(found)).reduce((sum, { value }) => sum + value, 0)
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop()
    return this.#stopped
  }

  async #stop(): Promise<void> {
    await this.swarm.stop()
    await this.control.stop()
    await this.transfer.stop()
    await this.store.close()
  }
}

const cleanups = new WeakMap<TestContext, (() => Promise<unknown>)[]>()

/** Like `t.after`, but the last one is the first to be cleaned up. */
function afterwards(t: TestContext, cleanup: () => Promise<unknown>): void {
  let list = cleanups.get(t)
  if (list === undefined) {
    const all = (list = [])
    cleanups.set(t, list)
    t.after(async () => {
      for (const next of (all as (() => Promise<unknown>)[]).reverse()) await next()
    })
  }
  list.push(cleanup)
}

export async function temporaryFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'shoal-swarm-'))
  afterwards(t, () => rm(folder, { recursive: true, force: true }))
  return folder
}

/** A node that listens and serves, but has not started its control plane. */
export async function makeNode(t: TestContext, options: NodeOptions = {}): Promise<TestNode> {
  const directory = options.directory ?? (await temporaryFolder(t))
  const registry = new Registry()
  const identity = await createIdentity()
  const quota = options.quotaBytes === undefined ? {} : { quotaBytes: options.quotaBytes }
  const store = await openStore({ directory, hashing: 'inline', ...quota })
  const limits = new RateLimits({ uploadRate: options.uploadRate ?? 0, downloadRate: 0, originRate: 0 })
  const parameters = { ...DEFAULT_PARAMETERS, ...options.parameters }
  const { uploads, metrics } = createUploads(store, registry, parameters, limits)
  const wrap = options.handler ?? ((honest: ChunkHandler) => honest)
  const plane = createTransferPlane({
    identity,
    swarmKeys,
    handler: wrap(uploads.handle),
    logger: silent,
    host: '127.0.0.1',
    port: 0,
    metrics: registry,
  })
  await plane.start()
  const transfer = options.transfer?.(plane) ?? plane
  const honest = await createControlPlane({
    identity,
    swarmKeys,
    agent: 'shoal-test/0.0.0',
    logger: silent,
    host: '127.0.0.1',
    port: 0,
    transferPort: plane.port,
    bootstrap: options.bootstrap ?? [],
    zone: options.zone ?? '',
  })
  const control = options.control?.(honest) ?? honest
  const swarm = new Swarm({
    store,
    control,
    transfer,
    uploads,
    limits,
    metrics,
    parameters,
    timings: options.timings ?? {},
    verify: verifySignature,
    trackers: options.trackers ?? [],
    knownTag: options.knownTag ?? (async () => undefined),
    logger: silent,
  })
  const node = new TestNode({ directory, store, control, transfer, swarm, registry })
  afterwards(t, () => node.stop())
  return node
}

export async function startNode(t: TestContext, options: NodeOptions = {}): Promise<TestNode> {
  const node = await makeNode(t, options)
  await node.start()
  return node
}

/** Nodes that all have channels to each other. */
export async function startNodes(t: TestContext, count: number, options: NodeOptions = {}): Promise<TestNode[]> {
  const nodes: TestNode[] = []
  for (let number = 0; number < count; number++) nodes.push(await startNode(t, options))
  await meetAll(nodes)
  return nodes
}

export async function meetAll(nodes: TestNode[]): Promise<void> {
  for (const [at, node] of nodes.entries()) await node.meet(...nodes.slice(at + 1))
  await until(
    () => nodes.every((node) => node.control.channels().length >= nodes.length - 1),
    'all nodes know each other',
  )
}

/** A limit that only a broken test meets. */
export function patience(ms = 30_000): AbortSignal {
  return AbortSignal.timeout(ms)
}

/** Waits for a state that no event tells of. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const signal = patience()
  while (!condition()) {
    if (signal.aborted) throw new Error(`never came true: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

export async function readAll(stream: Readable): Promise<Buffer> {
  const pieces: Buffer[] = []
  for await (const piece of stream as AsyncIterable<Buffer>) pieces.push(piece)
  return Buffer.concat(pieces)
}
