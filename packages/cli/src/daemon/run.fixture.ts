// A daemon for the tests of run.ts, in a process of its own: what it does when follows from its arguments.
import { createServer } from 'node:net'
import { once } from 'node:events'
import { createLogger } from './logging.ts'
import { runDaemon } from './run.ts'

const [scenario = '', argument = ''] = process.argv.slice(2)
const logger = createLogger({ name: 'fixture', level: 'debug', format: 'json' })

function fail(name: string): Promise<never> {
  const error = new Error('stream reset')
  error.name = name
  return Promise.reject(error)
}

const alive = setInterval(() => {}, 60_000)
process.exitCode = await runDaemon({
  logger,
  closeLimitMs: scenario === 'never-closes' ? 50 : 60_000,
  ports: { mirrorPort: Number(argument) },
  create: async () => {
    if (scenario === 'cannot-start') throw new Error('no good')
    return {
      start: async () => {
        if (scenario === 'port-taken') {
          const server = createServer().listen(Number(argument), '127.0.0.1')
          await once(server, 'listening')
        }
        if (scenario === 'slow-start') {
          logger.info('starting slowly')
          await new Promise((resolve) => process.once('SIGHUP', resolve))
        }
        if (scenario === 'rejects') {
          // Nobody waits for this one, which is the point.
          fail(argument).finally(() => {}) // eslint-disable-line @typescript-eslint/no-floating-promises
        }
      },
      close: async () => {
        logger.info('closing')
        if (scenario.startsWith('never-closes')) await new Promise(() => {})
      },
    }
  },
})
clearInterval(alive)
process.exit()
