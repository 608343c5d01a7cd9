// What is told of a request that a schema refuses.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { createApiServer } from './api-server.ts'

test('a body with a wrong part is refused with the name of what is wrong', async (t) => {
  const api = createApiServer({
    logger: pino({ level: 'silent' }),
    registry: new Registry(),
    isReady: () => true,
    protection: { tokens: undefined, needsToken: 'nothing', advice: '' },
  })
  t.after(() => api.close())
  const rate = { type: 'integer', minimum: 0 }
  const inner = { type: 'object', properties: { rate }, additionalProperties: false }
  const body = { type: 'object', properties: { rate, inner }, additionalProperties: false }
  api.patch('/api/v1/things', { schema: { body } }, () => ({ changed: true }))
  const refusal = async (payload: Record<string, unknown>): Promise<unknown> => {
    const answer = await api.inject({ method: 'PATCH', url: '/api/v1/things', payload })
    assert.equal(answer.statusCode, 400)
    return answer.json<{ message: string }>().message
  }
  assert.equal(await refusal({ rat: 1 }), 'body has an unknown key: "rat"')
  assert.equal(await refusal({ inner: { rat: 1 } }), 'body/inner has an unknown key: "rat"')
  assert.equal(await refusal({ rate: -1 }), 'body/rate must be >= 0')
})
