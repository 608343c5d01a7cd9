// The agent's admin side: health, metrics, status and pulls on behalf of an operator.
import { PassThrough } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import type { ControlPlane } from '@shoal/network'
import { InvalidReferenceError, Type, type Static } from '@shoal/oci'
import { addStatusPage, createApiServer, type ApiTokens, type ServerTls } from '@shoal/registry'
import type { Store } from '@shoal/store'
import type { Swarm, Uploads } from '@shoal/swarm'
import type { Upstream } from '@shoal/upstream'
import type { Logger } from 'pino'
import type { Registry } from 'prom-client'
import { agentPage } from './agent-page.ts'
import type { Content } from './content.ts'
import type { PulledImage, PullEvent } from './image-pull.ts'
import { addLimitsApi } from './limits-api.ts'
import { pullAndPin } from './pinned-pull.ts'
import type { Pins } from './pins.ts'
import type { PullWish } from './preheater.ts'
import type { TagResolver } from './tag-resolver.ts'

export interface AdminApiOptions {
  content: Content
  tags: TagResolver
  store: Store
  swarm: Swarm
  control: ControlPlane
  pins: Pins
  pull: (wish: PullWish) => Promise<PulledImage | undefined>
  uploads: Uploads
  upstream: Upstream
  registry: Registry
  version: string
  zone: string
  logger: Logger
  isReady: () => boolean
  /** Asked for below `/api/`; undefined where the address or client certificates keep others out. */
  tokens: ApiTokens | undefined
  tls: ServerTls | undefined
}

const UNPIN = Type.Object({ image: Type.String({ minLength: 1, maxLength: 1024 }) }, { additionalProperties: false })

/** Builds the server; the caller listens and closes. */
export function createAdminApi(options: AdminApiOptions): FastifyInstance {
  const { store, swarm, control } = options
  const startedMs = performance.now()
  const uptimeMs = () => Math.round(performance.now() - startedMs)
  const server = createApiServer({
    logger: options.logger,
    registry: options.registry,
    tls: options.tls,
    isReady: options.isReady,
    protection: {
      tokens: options.tokens,
      needsToken: options.tokens === undefined ? 'nothing' : 'all',
      advice: 'set adminTokenFile',
    },
  })
  addStatusPage(server, () => agentPage({ ...options, uptimeMs: uptimeMs() }))
  server.get('/api/v1/status', () => ({
    version: options.version,
    peerId: control.peerId,
    zone: options.zone,
    address: control.address,
    uptimeMs: uptimeMs(),
    peersConnected: control.channels().length,
    routingTableSize: control.routingTableSize(),
    trackers: swarm.trackers.status(),
    store: finite(store.usage()),
    rates: swarm.limits.rates,
    downloads: swarm.downloads().map((download) => download.progress()),
    banned: swarm.banned().map(([peerId, reason]) => ({ peerId, reason })),
  }))
  server.post(
    '/api/v1/pulls',
    {
      schema: {
        body: Type.Object(
          {
            image: Type.String({ minLength: 1, maxLength: 1024 }),
            platform: Type.Optional(Type.String({ maxLength: 128 })),
            pin: Type.Optional(Type.Boolean()),
          },
          { additionalProperties: false },
        ),
      },
    },
    (request, reply) => {
      const { image, platform, pin } = request.body as { image: string; platform?: string; pin?: boolean }
      const stream = new PassThrough()
      const abort = new AbortController()
      reply.raw.once('close', () => abort.abort())
      const emit = (event: PullEvent): void => {
        if (stream.writable) stream.write(`${JSON.stringify(event)}\n`)
      }
      const wish = { image, platform, requestId: request.id, signal: abort.signal, emit }
      pullForOperator(options, wish, pin === true)
        .catch((error: unknown) => request.log.error({ err: error }, 'a pull has ended in an unforeseen way'))
        .finally(() => stream.end())
      return reply.type('application/x-ndjson').send(stream)
    },
  )
  server.get('/api/v1/pins', async () => ({ pins: await options.pins.list() }))
  server.delete('/api/v1/pins', { schema: { querystring: UNPIN } }, async (request, reply) => {
    const { image } = request.query as Static<typeof UNPIN>
    try {
      return { unpinned: await options.pins.unpin(image) }
    } catch (error) {
      if (!(error instanceof InvalidReferenceError)) throw error
      return await reply.code(400).send({ statusCode: 400, error: 'Bad Request', message: error.message })
    }
  })
  addLimitsApi(server, { limits: swarm.limits, uploads: options.uploads, upstream: options.upstream })
  return server
}

/** The end of a pull that pins is told when the image is pinned: `done` means that it stays. */
async function pullForOperator({ pins, pull }: AdminApiOptions, wish: PullWish, pin: boolean): Promise<void> {
  if (!pin) {
    await pull(wish)
    return
  }
  let done: PullEvent | undefined
  const emit = (event: PullEvent): void => {
    if (event.event === 'done') done = event
    else wish.emit(event)
  }
  try {
    await pullAndPin(pins, pull, { ...wish, emit })
    if (done !== undefined) wish.emit(done)
  } catch (error) {
    wish.emit({ event: 'error', code: 'UNAVAILABLE', message: error instanceof Error ? error.message : String(error) })
  }
}

/** JSON has no Infinity: a store without a quota has the quota 0. */
function finite<T extends { quotaBytes: number }>(usage: T): T {
  return Number.isFinite(usage.quotaBytes) ? usage : { ...usage, quotaBytes: 0 }
}
