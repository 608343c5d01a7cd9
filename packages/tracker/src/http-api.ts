// The tracker's HTTP side: health, metrics and what it knows, as JSON. Read-only.
import { fastify, LogController, type FastifyInstance } from 'fastify'
import type { ControlPlane } from '@shoal/network'
import type { Logger } from 'pino'
import type { Registry } from 'prom-client'
import type { Coordinator } from './coordinator.ts'

/** Rows in one answer at most. */
const MAX_ROWS = 10_000

export interface HttpApiOptions {
  coordinator: Coordinator
  control: ControlPlane
  registry: Registry
  version: string
  logger: Logger
  /** Whether the control plane listens. */
  isReady: () => boolean
}

/** Builds the server; the caller listens and closes. */
export function createHttpApi(options: HttpApiOptions): FastifyInstance {
  const { coordinator, control, registry } = options
  const server = fastify({
    loggerInstance: options.logger,
    logController: new LogController({ disableRequestLogging: true }),
    forceCloseConnections: true,
  }) as unknown as FastifyInstance
  server.get('/healthz', () => ({ status: 'ok' }))
  server.get('/readyz', async (_request, reply) => {
    const ready = options.isReady()
    return await reply.code(ready ? 200 : 503).send({ status: ready ? 'ready' : 'starting' })
  })
  server.get('/metrics', async (_request, reply) => {
    return await reply.type(registry.contentType).send(await registry.metrics())
  })
  server.get('/api/v1/status', () => ({
    version: options.version,
    peerId: control.peerId,
    address: control.address,
    nodes: control.channels().length,
    swarms: coordinator.swarms.size,
    tags: coordinator.tags.size,
  }))
  server.get('/api/v1/swarms', () => ({
    swarms: [...coordinator.swarms.values()].slice(0, MAX_ROWS).map((swarm) => ({
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
    for (const swarm of coordinator.swarms.values()) {
      for (const peerId of swarm.members.keys()) swarms.set(peerId, (swarms.get(peerId) ?? 0) + 1)
    }
    return {
      nodes: control
        .channels()
        .slice(0, MAX_ROWS)
        .map(({ peerId, hello }) => ({ ...hello.node, agent: hello.agent, swarms: swarms.get(peerId) ?? 0 })),
    }
  })
  return server
}
