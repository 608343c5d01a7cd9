// Logs of the daemons: one JSON object a line, or text for people. Secrets that slip into an object are cut out here.
import { pino, type DestinationStream, type Logger } from 'pino'
import pretty from 'pino-pretty'

export interface LoggingOptions {
  /** Which daemon it is: in every line. */
  name: string
  level: string
  format: 'json' | 'pretty'
  /** @default standard output */
  destination?: DestinationStream
}

const SECRET_NAMES = [
  'authorization',
  'Authorization',
  '["proxy-authorization"]',
  '["x-registry-auth"]',
  '["x-registry-config"]',
  'cookie',
  '["set-cookie"]',
  'password',
  'passwd',
  'secret',
  'token',
  'access_token',
  'refresh_token',
  'identitytoken',
  'identityToken',
  'swarmKey',
  'swarmKeys',
]

/** A name at the top of a logged object and up to three levels below. */
const SECRET_PATHS = SECRET_NAMES.flatMap((name) =>
  ['', '*.', '*.*.', '*.*.*.'].map((depth) => `${depth}${name}`.replace('.[', '[')),
)

export function createLogger({ name, level, format, destination }: LoggingOptions): Logger {
  const stream =
    format === 'pretty'
      ? pretty({
          sync: true,
          colorize: process.stdout.isTTY,
          ignore: 'pid,hostname',
          ...(destination && { destination }),
        })
      : (destination ?? standardOutput())
  return pino({ name, level, redact: { paths: SECRET_PATHS, censor: '[redacted]' } }, stream)
}

/** Synchronous: the last words before a crash are the ones that matter. */
function standardOutput(): DestinationStream {
  const stream = pino.destination({ dest: 1, sync: true })
  stream.on('error', (error: NodeJS.ErrnoException) => {
    // Who read the log has gone; the daemon's work does not depend on it.
    if (error.code !== 'EPIPE') process.stderr.write(`shoal: the log cannot be written: ${error.message}\n`)
  })
  return stream
}
