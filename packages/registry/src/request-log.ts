// The log of one request. Most requests have nothing to say above the level that is logged, but a child of pino is made with its
// bindings written out, and secrets looked for in them: two fifths of what a busy mirror allocated. So it is made with the first line.
import type { FastifyBaseLogger } from 'fastify'
import type { Bindings, ChildLoggerOptions, Level, Logger } from 'pino'

class RequestLog {
  readonly #parent: Logger
  readonly #bindings: Bindings
  readonly #options: ChildLoggerOptions
  #made: Logger | undefined

  constructor(parent: Logger, bindings: Bindings, options: ChildLoggerOptions) {
    this.#parent = parent
    this.#bindings = bindings
    this.#options = options
  }

  get level(): string {
    return this.#parent.level
  }

  fatal(...line: unknown[]): void {
    this.#write('fatal', line)
  }

  error(...line: unknown[]): void {
    this.#write('error', line)
  }

  warn(...line: unknown[]): void {
    this.#write('warn', line)
  }

  info(...line: unknown[]): void {
    this.#write('info', line)
  }

  debug(...line: unknown[]): void {
    this.#write('debug', line)
  }

  trace(...line: unknown[]): void {
    this.#write('trace', line)
  }

  silent(): void {
    // What is silent is not logged.
  }

  child(bindings: Bindings, options?: ChildLoggerOptions): Logger {
    return this.#own().child(bindings, options)
  }

  #write(level: Level, line: unknown[]): void {
    if (!this.#parent.isLevelEnabled(level)) return
    const own = this.#own()
    Reflect.apply(own[level], own, line)
  }

  #own(): Logger {
    return (this.#made ??= this.#parent.child(this.#bindings, this.#options))
  }
}

/** Fastify's `childLoggerFactory` for a server whose logger is pino's. */
export function requestLog(
  parent: FastifyBaseLogger,
  bindings: Bindings,
  options: ChildLoggerOptions,
): FastifyBaseLogger {
  return new RequestLog(parent as Logger, bindings, options)
}
