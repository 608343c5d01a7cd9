// A registry in a process of its own, for the tests that kill it. Prints its URL, then serves until it dies.
import { pino } from 'pino'
import { createOrigin } from './origin.ts'

const [dataDirectory = '', port = '0'] = process.argv.slice(2)
const origin = await createOrigin({
  dataDirectory,
  host: '127.0.0.1',
  port: Number(port),
  logger: pino({ level: 'silent' }),
})
process.stdout.write(`${origin.url}\n`)
