import assert from 'node:assert/strict'
import test from 'node:test'
import { pino } from 'pino'
import { requestLog } from './request-log.ts'

function setUp(level: string) {
  const lines: Record<string, unknown>[] = []
  const stream = { write: (text: string) => void lines.push(JSON.parse(text) as Record<string, unknown>) }
  let children = 0
  const onChild = () => void children++
  const parent = pino({ level, redact: ['password', '*.password'], onChild }, stream)
  return { log: requestLog(parent, { requestId: 'r1' }, {}), lines, children: () => children }
}

test('a request that says nothing above the level makes no logger', () => {
  const { log, lines, children } = setUp('info')
  log.debug({ status: 200 }, 'request')
  log.trace('and so on')
  assert.deepEqual([lines.length, children(), log.level], [0, 0, 'info'])
})

test('each line says which request it is about, and no secret', () => {
  const { log, lines, children } = setUp('trace')
  for (const level of ['fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const)
    log[level]({ password: 'x' }, level)
  log.info('text only %s', 'y')
  assert.equal(children(), 1)
  log.child({ part: 1 }).info('of a part')
  assert.deepEqual(
    lines.map(({ level, requestId, password, msg }) => [level, requestId, password, msg]),
    [
      ...[60, 50, 40, 30, 20, 10].map((level, at) => {
        return [level, 'r1', '[Redacted]', ['fatal', 'error', 'warn', 'info', 'debug', 'trace'][at]]
      }),
      [30, 'r1', undefined, 'text only y'],
      [30, 'r1', undefined, 'of a part'],
    ],
  )
})
