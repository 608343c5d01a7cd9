// The life of a daemon: start, wait for the signal to stop, close within a limit. What goes wrong on the way ends in one
// clear line of the log and exit code 1.
import type { Logger } from 'pino'
import { EXIT_FAILED, EXIT_OK } from '../exit-codes.ts'
import { isHarmless } from './harmless.ts'
import { collectWhenQuiet } from './quiet-collection.ts'

export interface Daemon {
  start(): Promise<void>
  /** Ends what runs, within limits of its own. */
  close(): Promise<void>
}

export interface RunOptions {
  create: () => Promise<Daemon>
  logger: Logger
  /** `close` may take this long before the process ends regardless. */
  closeLimitMs: number
  /** Ports by key, to say which key to change when one is taken. */
  ports: Record<string, number>
}

const SIGNALS = ['SIGTERM', 'SIGINT'] as const

/** What to do about an error at start, where that is known. */
export function adviceFor(error: unknown, ports: Record<string, number>): string | undefined {
  const { code, port, path, syscall } = (error ?? {}) as NodeJS.ErrnoException & { port?: number }
  const key = Object.keys(ports).find((name) => ports[name] === port && port !== undefined)
  switch (code) {
    case 'EADDRINUSE':
      return `port ${port ?? ''} is in use: is this daemon running already? Else change ${key ?? 'the port'}`
    case 'EADDRNOTAVAIL':
      return `this machine does not have the address to listen on: change the host that goes with ${key ?? 'the port'}`
    case 'EACCES':
    case 'EPERM':
      if (syscall === 'listen') return `port ${port ?? ''} needs more rights: change ${key ?? 'the port'}`
      return path === undefined
        ? undefined
        : `this user may not use ${path}: give it the right, or name another path in the configuration`
    case 'EROFS':
      return path === undefined ? undefined : `${path} lies on a file system that takes no writes`
    case 'ENOSPC':
      return 'the disk is full'
    default:
      return undefined
  }
}

/** Runs a daemon until it is told to stop. Resolves to the exit code; a second signal ends the process at once. */
export async function runDaemon({ create, logger, closeLimitMs, ports }: RunOptions): Promise<number> {
  let stopReason: string | undefined
  let resolveStop: () => void = () => {}
  const stopped = new Promise<void>((resolve) => {
    resolveStop = resolve
  })

  const onSignal = (signal: string) => {
    if (stopReason !== undefined) {
      logger.warn({ signal }, 'told to stop again: ending at once')
      process.exit(EXIT_FAILED)
    }
    stopReason = signal
    logger.info({ signal, limitMs: closeLimitMs }, 'told to stop: finishing what runs')
    resolveStop()
  }
  // A parent that keeps a channel open to this process (as the demo does) takes it along when it dies.
  const onDisconnect = () => onSignal('parent gone')
  const onFatal = (error: unknown, origin: string) => {
    if (isHarmless(error)) {
      logger.warn({ err: error, origin }, 'a stream ended in the middle of its work')
      return
    }
    logger.fatal({ err: error, origin }, 'a fault in Shoal: the process ends, please report this')
    process.exit(EXIT_FAILED)
  }
  const onUncaught = (error: Error) => onFatal(error, 'uncaughtException')
  const onRejection = (reason: unknown) => onFatal(reason, 'unhandledRejection')
  for (const signal of SIGNALS) process.on(signal, onSignal)
  process.on('uncaughtException', onUncaught)
  process.on('unhandledRejection', onRejection)
  if (process.connected) process.on('disconnect', onDisconnect)
  // It had a parent with a channel, which died while this process was starting.
  else if (process.send !== undefined) onDisconnect()

  let daemon: Daemon | undefined
  const starting = (async () => {
    daemon = await create()
    if (stopReason === undefined) await daemon.start()
  })()

  const endCollecting = collectWhenQuiet(logger)
  let exitCode = EXIT_OK
  let limit: NodeJS.Timeout | undefined
  try {
    await Promise.race([starting, stopped])
    if (stopReason === undefined) logger.info({ ports }, 'up')
    await stopped

    const overdue = new Promise<'overdue'>((resolve) => {
      limit = setTimeout(() => resolve('overdue'), closeLimitMs)
    })
    const closing = (async () => {
      await starting.catch((error: unknown) => logger.warn({ err: error }, 'stopped while it was starting'))
      await daemon?.close()
      return 'closed'
    })()
    if ((await Promise.race([closing, overdue])) === 'overdue') {
      logger.error({ limitMs: closeLimitMs }, 'not everything finished in time')
      exitCode = EXIT_FAILED
    } else {
      logger.info('stopped')
    }
  } catch (error) {
    exitCode = EXIT_FAILED
    const advice = adviceFor(error, ports)
    logger.fatal({ err: error, ...(advice && { advice }) }, advice ?? 'the daemon cannot run')
    await daemon?.close().catch((closeError: unknown) => logger.debug({ err: closeError }, 'closing failed too'))
  } finally {
    clearTimeout(limit)
    endCollecting()
    for (const signal of SIGNALS) process.off(signal, onSignal)
    process.off('uncaughtException', onUncaught)
    process.off('unhandledRejection', onRejection)
    process.off('disconnect', onDisconnect)
  }
  return exitCode
}
