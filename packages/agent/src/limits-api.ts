// Limits of a running agent, told and changed through its admin API. What is changed holds until the next start.
import { Type, type Static } from '@shoal/oci'
import type { RateLimits, Uploads } from '@shoal/swarm'
import type { Upstream } from '@shoal/upstream'
import type { FastifyInstance } from 'fastify'
import { agentConfigSchema } from './config.ts'

export interface LimitsApiOptions {
  limits: RateLimits
  uploads: Uploads
  upstream: Upstream
}

const { uploadRate, downloadRate, originRate, originConcurrency } = agentConfigSchema.properties

const MAX_UPLOAD_SLOTS = 1_024

const BODY = Type.Object(
  {
    uploadRate: Type.Optional(uploadRate),
    downloadRate: Type.Optional(downloadRate),
    originRate: Type.Optional(originRate),
    uploadSlots: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_UPLOAD_SLOTS })),
    originConcurrency: Type.Optional(originConcurrency),
  },
  { additionalProperties: false, minProperties: 1 },
)

/** Adds `GET` and `PATCH /api/v1/limits`. Rates are bytes per second; 0 means none. */
export function addLimitsApi(server: FastifyInstance, { limits, uploads, upstream }: LimitsApiOptions): void {
  const now = () => ({ ...limits.rates, uploadSlots: uploads.slots, originConcurrency: upstream.concurrency })
  server.get('/api/v1/limits', now)
  server.patch('/api/v1/limits', { schema: { body: BODY } }, (request) => {
    const { uploadSlots, originConcurrency, ...rates } = request.body as Static<typeof BODY>
    limits.set(rates)
    if (uploadSlots !== undefined) uploads.slots = uploadSlots
    if (originConcurrency !== undefined) upstream.concurrency = originConcurrency
    request.log.info(now(), 'limits were changed')
    return now()
  })
}
