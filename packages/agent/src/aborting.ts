// Waiting for something that somebody may stop waiting for.

/**
 * What `promise` settles with, or the reason of the signal if it fires first (or has fired already). Leaves no listener
 * on the signal.
 */
export async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  // Nobody may be there any more to see it fail.
  promise.catch(() => undefined)
  signal.throwIfAborted()
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const onAbort = () => reject(signal.reason as Error)
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

/**
 * Does `work` with a signal that fires when `signal` does, or after `limitMs` milliseconds with a TimeoutError, as
 * AbortSignal.timeout has it; and when the work is over, for what it left under way. Leaves no timer and no listener: of
 * hundreds of requests a second, answered at once, each would otherwise keep its own for the whole limit, and the collector
 * looks at all of them each time.
 */
export async function withTimeLimit<T>(
  signal: AbortSignal,
  limitMs: number,
  work: (limited: AbortSignal) => Promise<T>,
): Promise<T> {
  signal.throwIfAborted()
  const over = new AbortController()
  const follow = () => over.abort(signal.reason)
  const limit = () => over.abort(new DOMException('The operation was aborted due to timeout', 'TimeoutError'))
  const timer = setTimeout(limit, limitMs)
  signal.addEventListener('abort', follow, { once: true })
  try {
    return await work(over.signal)
  } finally {
    over.abort()
    clearTimeout(timer)
    signal.removeEventListener('abort', follow)
  }
}

/**
 * What `first` settles with. Where that takes longer than `afterMs` milliseconds (Infinity: however long), `second` is begun
 * beside it and counts if it succeeds sooner, or though the first has failed; that it fails is no answer. Its signal fires
 * once there is an answer.
 */
export async function hedged<T>(
  first: Promise<T>,
  afterMs: number,
  second: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const answered = new AbortController()
  const { promise: other, resolve } = Promise.withResolvers<T>()
  let beside: Promise<T> | undefined
  const begin = () => {
    beside = second(answered.signal)
    beside.then(resolve, () => undefined)
  }
  const timer = afterMs === Infinity ? undefined : setTimeout(begin, afterMs)
  try {
    return await Promise.race([first, other])
  } catch (error) {
    if (beside === undefined) throw error
    return await beside.catch(() => {
      throw error
    })
  } finally {
    clearTimeout(timer)
    answered.abort()
  }
}
