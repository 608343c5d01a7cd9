// Gives memory back when a daemon has nothing to do. V8 collects garbage when it wants to allocate, so what a start or a
// burst of pulls has left stays resident for as long as nothing happens. V8's own flag for that (--optimize-for-size)
// gives back as much, but keeps the young generation so small that work that allocates takes several times as long.
import type { Logger } from 'pino'

const LOOK_EVERY_MS = 10_000
/** Of a core, between two looks. */
const QUIET_PERCENT = 5
/** A pause between two layers is not the end of a pull. */
const QUIET_LOOKS = 3
/** A collection keeps a core busy for a few hundred ms: not for what an idle agent that announces its blobs allocates in a minute. */
const WORTHWHILE_BYTES = 16 * 1024 * 1024

/** What is looked at, and done. */
export interface Process {
  /** Processor time of all threads so far, ms. */
  cpuMs: () => number
  residentBytes: () => number
  /** Frees all that nothing refers to, and gives what is empty back to the system. */
  collect: () => Promise<void>
}

const THIS_PROCESS: Process = {
  cpuMs: () => {
    const { user, system } = process.cpuUsage()
    return (user + system) / 1000
  },
  residentBytes: () => process.memoryUsage.rss(),
  collect: async () => {
    const { Session } = await import('node:inspector/promises')
    const session = new Session()
    session.connect()
    try {
      await session.post('HeapProfiler.collectGarbage')
    } finally {
      session.disconnect()
    }
  },
}

/**
 * Collects once after the start and after each time that memory has grown, when the process has been quiet for 30 s.
 * @returns ends it
 */
export function collectWhenQuiet(logger: Logger, { cpuMs, residentBytes, collect } = THIS_PROCESS): () => void {
  let quietLooks = 0
  let lastCpuMs = cpuMs()
  let keptBytes = 0

  const look = async (): Promise<void> => {
    const now = cpuMs()
    const percent = ((now - lastCpuMs) * 100) / LOOK_EVERY_MS
    lastCpuMs = now
    quietLooks = percent < QUIET_PERCENT ? quietLooks + 1 : 0
    const before = residentBytes()
    if (quietLooks < QUIET_LOOKS || before < keptBytes + WORTHWHILE_BYTES) return
    await collect()
    keptBytes = residentBytes()
    logger.debug({ before, after: keptBytes }, 'collected garbage')
  }

  const timer = setInterval(() => {
    look().catch((error: unknown) => {
      // A Node without inspector: memory stays as it is.
      clearInterval(timer)
      logger.debug({ err: error }, 'garbage cannot be collected at will')
    })
  }, LOOK_EVERY_MS).unref()
  return () => clearInterval(timer)
}
