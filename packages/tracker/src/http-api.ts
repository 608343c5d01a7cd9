// The tracker's HTTP side: health, metrics and what it knows, as JSON.
import { Type, type Static } from '@shoal/oci'
import type { FastifyInstance } from 'fastify'
import type { ControlPlane } from '@shoal/network'
import { addStatusPage, createApiServer, type ApiTokens, type ServerTls } from '@shoal/registry'
import type { Logger } from 'pino'
import type { Registry } from 'prom-client'
import { trackerConfigSchema } from './config.ts'
import type { Coordinator } from './coordinator.ts'
import { addPreheatApi } from './preheat-api.ts'
import type { Preheats } from './preheats.ts'
import { trackerPage } from './tracker-page.ts'

/** Rows in one answer at most. */
const MAX_ROWS = 10_000

/** What may be changed while the tracker runs; it holds until the next start. */
const LIMITS = Type.Object(
  { originConcurrency: Type.Optional(trackerConfigSchema.properties.originConcurrency) },
  { additionalProperties: false, minProperties: 1 },
)

export interface HttpApiOptions {
  coordinator: Coordinator
  preheats: Preheats
  control: ControlPlane
  registry: Registry
  version: string
  logger: Logger
  /** Whether the control plane listens. */
  isReady: () => boolean
  /** Without them nothing can be changed. */
  tokens: ApiTokens | undefined
  readsNeedToken: boolean
  tls: ServerTls | undefined
}

/** Builds the server; the caller listens and closes. */
export function createHttpApi(options: HttpApiOptions): FastifyInstance {
  const { coordinator, control } = options
  const server = createApiServer({
    logger: options.logger,
    registry: options.registry,
    tls: options.tls,
    isReady: options.isReady,
    protection: {
      tokens: options.tokens,
      needsToken: options.readsNeedToken ? 'all' : 'changes',
      advice: 'this tracker only tells, because it has no tokens: set httpTokenFile in its configuration',
    },
  })
  addStatusPage(server, () => trackerPage(options))
  server.get('/api/v1/status', () => ({
    version: options.version,
    peerId: control.peerId,
    address: control.address,
    nodes: control.channels().length,
    swarms: coordinator.swarms.size,
    tags: coordinator.tags.size,
  }))
  server.get('/api/v1/swarms', () => ({
    swarms: [...coordinator.swarms].slice(0, MAX_ROWS).map((swarm) => ({
      digest: swarm.digest,
      sizeBytes: swarm.sizeBytes,
      originHost: swarm.originHost,
      members: swarm.members.size,
      completeMembers: swarm.completeMembers,
      chunks: swarm.chunkCount,
      coveredChunks: swarm.coveredChunks,
      leases: swarm.leases.size,
    })),
  }))
  server.get('/api/v1/nodes', () => {
    const swarms = new Map<string, number>()
    for (const swarm of coordinator.swarms) {
      for (const peerId of swarm.members.keys()) swarms.set(peerId, (swarms.get(peerId) ?? 0) + 1)
    }
    return {
      nodes: control
        .channels()
        .slice(0, MAX_ROWS)
        .map(({ peerId, hello }) => ({ ...hello.node, agent: hello.agent, swarms: swarms.get(peerId) ?? 0 })),
    }
  })
  const limits = () => ({ originConcurrency: coordinator.originConcurrency })
  server.get('/api/v1/limits', limits)
  server.patch('/api/v1/limits', { schema: { body: LIMITS } }, (request) => {
    const { originConcurrency } = request.body as Static<typeof LIMITS>
    if (originConcurrency !== undefined) coordinator.originConcurrency = originConcurrency
    request.log.info(limits(), 'limits were changed')
    return limits()
  })
  addPreheatApi(server, options.preheats)
  return server
}
