import assert from 'node:assert/strict'
import { Writable } from 'node:stream'
import { describe, it } from 'node:test'
import { createLogger } from './logging.ts'

function collect(format: 'json' | 'pretty') {
  let text = ''
  const destination = new Writable({
    write(chunk, _encoding, done) {
      text += String(chunk)
      done()
    },
  })
  return { logger: createLogger({ name: 'test', level: 'info', format, destination }), text: () => text }
}

const SECRET = 'hunter2'

describe('createLogger', () => {
  for (const format of ['json', 'pretty'] as const) {
    it(`keeps secrets out of ${format}`, () => {
      const { logger, text } = collect(format)
      logger.info({ authorization: `Bearer ${SECRET}` }, 'one')
      logger.info({ req: { headers: { authorization: SECRET, 'proxy-authorization': SECRET, cookie: SECRET } } }, 'two')
      logger.info({ config: { registries: { 'a.io': { username: 'u', password: SECRET } } } }, 'three')
      logger.info({ token: SECRET, nested: { token: SECRET, 'x-registry-auth': SECRET } }, 'four')
      assert.doesNotMatch(text(), new RegExp(SECRET))
      for (const message of ['one', 'two', 'three', 'four']) assert.match(text(), new RegExp(message))
      assert.match(text(), /\[redacted\]/)
    })
  }

  it('writes one JSON object a line, with the name of the daemon', () => {
    const { logger, text } = collect('json')
    logger.warn({ digest: 'sha256:x' }, 'hello')
    const line = JSON.parse(text()) as Record<string, unknown>
    assert.deepEqual([line['name'], line['msg'], line['digest'], line['level']], ['test', 'hello', 'sha256:x', 40])
  })

  it('leaves out what is below the level', () => {
    const { logger, text } = collect('json')
    logger.debug('hidden')
    assert.equal(text(), '')
  })
})
