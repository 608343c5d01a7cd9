// `/api/v1/preheats`: orders preheats, tells how far they are, and ends them.
import { formatPlatform, formatReference, parsePlatform, parseReference, Type, type Static } from '@shoal/oci'
import type { FastifyInstance } from 'fastify'
import type { NodeState, Preheat, Preheats } from './preheats.ts'

/** Nodes that are told one by one: those that failed first. */
const MAX_NODE_ROWS = 100

const BODY = Type.Object(
  {
    image: Type.String({ minLength: 1, maxLength: 1024 }),
    platform: Type.Optional(Type.String({ maxLength: 128 })),
    zone: Type.Optional(Type.String({ maxLength: 128 })),
    nodesPercent: Type.Optional(Type.Integer({ minimum: 1, maximum: 100 })),
    action: Type.Optional(Type.Enum(['pull', 'pin', 'unpin'])),
  },
  { additionalProperties: false },
)

export function addPreheatApi(server: FastifyInstance, preheats: Preheats): void {
  server.post('/api/v1/preheats', { schema: { body: BODY } }, async (request, reply) => {
    const { image, platform, zone, nodesPercent = 100, action = 'pull' } = request.body as Static<typeof BODY>
    let wish
    try {
      const wanted = platform === undefined ? '' : formatPlatform(parsePlatform(platform))
      wish = { image: formatReference(parseReference(image)), platform: wanted, zone, nodesPercent, action }
    } catch (error) {
      return await reply.code(400).send({ statusCode: 400, error: 'Bad Request', message: (error as Error).message })
    }
    const preheat = preheats.start(wish, performance.now())
    if (preheat !== undefined) return await reply.code(202).send(tell(preheat, true))
    const message = 'too many preheats are running: wait for one, or cancel one'
    return await reply.code(429).send({ statusCode: 429, error: 'Too Many Requests', message })
  })
  server.get('/api/v1/preheats', () => ({ preheats: preheats.list().map((preheat) => tell(preheat, false)) }))
  server.get<{ Params: { id: string } }>('/api/v1/preheats/:id', async (request, reply) => {
    const preheat = preheats.get(request.params.id)
    return preheat === undefined ? await reply.code(404).send(UNKNOWN) : tell(preheat, true)
  })
  server.delete<{ Params: { id: string } }>('/api/v1/preheats/:id', async (request, reply) => {
    const preheat = preheats.get(request.params.id)
    if (preheat === undefined) return await reply.code(404).send(UNKNOWN)
    preheats.cancel(preheat.id)
    return tell(preheat, false)
  })
}

const UNKNOWN = { statusCode: 404, error: 'Not Found', message: 'this tracker knows of no such preheat' }

function tell({ nodes, openNodes: _, ...preheat }: Preheat, withNodes: boolean): object {
  const all = [...nodes.values()]
  const count = (...states: NodeState[]) => all.filter(({ state }) => states.includes(state)).length
  const sum = (key: 'totalBytes' | 'receivedBytes' | 'fromPeersBytes' | 'fromOriginBytes') =>
    all.reduce((total, node) => total + node[key], 0)
  const rows = all
    .toSorted((a, b) => Number(b.state === 'failed') - Number(a.state === 'failed'))
    .slice(0, MAX_NODE_ROWS)
    .map(({ tries: _, sinceMs: __, ...node }) => node)
  return {
    ...preheat,
    counts: {
      nodes: all.length,
      waiting: count('ordered', 'waiting', 'lost'),
      running: count('running'),
      done: count('done'),
      failed: count('failed'),
    },
    totalBytes: sum('totalBytes'),
    receivedBytes: sum('receivedBytes'),
    fromPeersBytes: sum('fromPeersBytes'),
    fromOriginBytes: sum('fromOriginBytes'),
    ...(withNodes ? { nodes: rows } : {}),
  }
}
