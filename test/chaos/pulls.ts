// The clients of a chaos run: on every node one pulls, again and again, and every answer is judged. What is refused is
// no violation, what is wrong or never ends is.
import { setTimeout as pause } from 'node:timers/promises'
import type { LabAgent, PushedImage } from '../lab/lab.ts'
import { ProbeError } from '../lab/probe-client.ts'
import { DeadlineError, within } from '../support/until.ts'
import { REGISTRY, SILENCE_LIMIT_MS } from './cluster.ts'

export interface PullCounts {
  tried: number
  succeeded: number
  /** Answered with an error or a broken connection, within the bound. */
  refused: number
}

/** A pull that goes on making progress may take this long before it is given up, which is no violation. */
const PULL_LIMIT_MS = 90_000
const RETRY_MS = 300

export interface Wanted {
  image: PushedImage
  byDigest: boolean
  /** Digests that the tag may have. @default the image's */
  digests?: () => string[]
  /** How long the agent itself was made to stand still meanwhile. @default 0 */
  stoppedMs?: number
}

/** True when it came whole and right, false when it was refused. Violations are told. */
export async function tryPull(
  agent: LabAgent,
  { image, byDigest, digests = () => [image.digest], stoppedMs = 0 }: Wanted,
  counts: PullCounts,
  tell: (violation: string) => void,
): Promise<boolean> {
  counts.tried++
  const name = `${agent.name} pulling ${image.repository}`
  try {
    const pulling = agent.probe.pull({
      endpoint: 'http://127.0.0.1:7700',
      namespace: REGISTRY,
      repository: image.repository,
      reference: byDigest ? image.digest : image.tag,
      idleLimitMs: SILENCE_LIMIT_MS + stoppedMs,
      limitMs: PULL_LIMIT_MS + stoppedMs,
    })
    // The client has bounds of its own: this one is for the client.
    const result = await within(pulling, PULL_LIMIT_MS + stoppedMs + 30_000, 'end of the pull')
    const wrong = result.blobs.filter(({ verified }) => !verified)
    if (wrong.length > 0) {
      tell(`${name}: complete answers with wrong bytes: ${wrong.map(({ digest }) => digest).join(', ')}`)
      return false
    }
    if (!digests().includes(result.manifestDigest)) {
      tell(`${name}: ${result.manifestDigest} is none of the tag's digests`)
      return false
    }
    counts.succeeded++
    return true
  } catch (error) {
    const { message } = error as Error
    const wrong = error instanceof ProbeError ? error.wrong : []
    if (wrong.length > 0) tell(`${name}: complete answers with wrong bytes: ${wrong.join(', ')}`)
    else if (/announced, .* came/.test(message)) tell(`${name}: ${message}`)
    else if (/silent for/.test(message) || error instanceof DeadlineError) tell(`${name}: ${message}`)
    counts.refused++
    return false
  }
}

/** Pulls until it is told to stop, and finishes the pull that is under way. */
export async function keepPulling(
  agent: LabAgent,
  next: () => Wanted,
  counts: PullCounts,
  tell: (violation: string) => void,
  stopping: AbortSignal,
): Promise<void> {
  while (!stopping.aborted) {
    await tryPull(agent, next(), counts, tell)
    await pause(RETRY_MS, undefined, { signal: stopping }).catch(() => {})
  }
}

/** Retries until a pull succeeds, as a runtime does. False when none has within the limit. */
export async function pullWithin(
  agent: LabAgent,
  image: PushedImage,
  limitMs: number,
  counts: PullCounts,
  tell: (violation: string) => void,
): Promise<number | undefined> {
  const begin = performance.now()
  const since = (): number => performance.now() - begin
  while (since() < limitMs) {
    const done = await tryPull(agent, { image, byDigest: false }, counts, tell)
    if (done) return since() < limitMs ? since() : undefined
    await pause(RETRY_MS)
  }
  return undefined
}
