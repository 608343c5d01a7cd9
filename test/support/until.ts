// Waiting for something to become true, with a deadline and a message that says what was waited for and how it stood.
import { setTimeout as pause } from 'node:timers/promises'

/** What was waited for did not come within its limit. */
export class DeadlineError extends Error {
  override name = 'DeadlineError'
}

export interface UntilOptions {
  /** Said in the error: what was waited for. */
  what: string
  /** @default 30000 */
  deadlineMs?: number
  /** Pause between two looks. @default 50 */
  everyMs?: number
  signal?: AbortSignal | undefined
}

/**
 * Asks again and again until the answer is neither undefined nor false, and gives it back. What `look` throws counts as
 * "not yet"; the last such error is the cause of the DeadlineError.
 *
 * @throws DeadlineError when the limit passes first
 */
export async function until<T>(
  look: () => Promise<T | undefined | false> | T | undefined | false,
  { what, deadlineMs = 30_000, everyMs = 50, signal }: UntilOptions,
): Promise<T> {
  const end = performance.now() + deadlineMs
  let last: unknown
  for (;;) {
    try {
      const answer = await look()
      if (answer !== undefined && answer !== false) return answer
      last = undefined
    } catch (error) {
      last = error
    }
    signal?.throwIfAborted()
    if (performance.now() > end) {
      const why = last instanceof Error ? `: ${last.message}` : ''
      throw new DeadlineError(`no ${what} within ${deadlineMs} ms${why}`, { cause: last })
    }
    await pause(everyMs, undefined, signal ? { signal } : {})
  }
}

/** The promise's answer, or a DeadlineError when it takes longer. */
export async function within<T>(promise: Promise<T>, deadlineMs: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new DeadlineError(`no ${what} within ${deadlineMs} ms`)), deadlineMs)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
