// One registry that gets copies of what is pushed here, one image after the other.
import { ConfigMistakeError, isDigest, type Descriptor, type Digest, type ImageReference } from '@shoal/oci'
import { createUpstream, InvalidRegistryOptionError, UpstreamError } from '@shoal/upstream'
import type { Logger } from 'pino'
import { anyPattern } from '../accounts/rules.ts'
import { emptySum, pushImage, type Registry, type TransferSum } from '../images/index.ts'
import { Outbox, type OutboxOptions } from '../outbox/outbox.ts'
import type { DiskQueue } from '../outbox/queue.ts'
import type { Places } from '../places.ts'
import { accessOf, hostOf } from './access.ts'
import { lookUp, openLocalImage } from './local-image.ts'
import type { ReplicationMetrics } from './metrics.ts'
import { nameAtTarget, type ReplicationRule } from './rule.ts'

/** How many repositories are looked through for one that may have a blob at the target, so that it need not be sent. */
const MAX_MOUNT_CANDIDATES = 100
/** How often an image is copied anew because its tag has moved meanwhile, before others get their turn. */
const MAX_MOVES = 5
/** Registries refuse a login as they refuse a repository that it has no right to; so many are the login. */
const MAX_REFUSALS_IN_A_ROW = 3
const NO_DISPLAY = { begin: () => undefined, progress: () => undefined, done: () => undefined, close: () => undefined }

/** What was pushed and has to be copied: what the tag is by then, which may be newer. */
export interface ReplicationJob {
  repository: string
  /** A tag; or a digest of what was pushed without one. */
  reference: string
  /** Since the epoch, of the first push that waits. */
  queuedMs: number
}

export interface TargetOptions {
  name: string
  rule: ReplicationRule
  places: Places
  queue: DiskQueue<ReplicationJob>
  logger: Logger
  metrics: ReplicationMetrics
  retryMs?: number | undefined
  maxPending?: number | undefined
}

export class ReplicationTarget {
  readonly name: string
  readonly matches: (repository: string) => boolean
  readonly #options: TargetOptions
  readonly #logger: Logger
  #client: Registry
  readonly #host: string
  #outbox: Outbox<ReplicationJob> | undefined
  #isFull = false
  #refusedInARow = 0

  private constructor(options: TargetOptions) {
    const { name, rule } = options
    this.name = name
    this.#options = options
    this.#logger = options.logger.child({ target: name })
    this.matches = anyPattern(rule.repositories)
    this.#host = hostOf(rule)
    this.#client = clientOf(this.#host, rule, this.#logger)
  }

  /** Goes on with what waited when the registry stopped. @throws InvalidRuleError, ConfigMistakeError */
  static async open(options: TargetOptions): Promise<ReplicationTarget> {
    const target = new ReplicationTarget(options)
    target.#outbox = await Outbox.open(target.#outboxOptions())
    return target
  }

  /** Resolves when it is written that the image has to be copied. */
  async send(job: ReplicationJob): Promise<void> {
    await this.#outbox?.send(job)
  }

  /** Since the epoch. */
  get oldestMs(): number | undefined {
    return this.#outbox?.oldestMs
  }

  async close(): Promise<void> {
    await this.#outbox?.close()
    await this.#client.close()
  }

  #outboxOptions(): OutboxOptions<ReplicationJob> {
    const { queue, metrics, retryMs, maxPending } = this.#options
    const target = this.name
    return {
      queue,
      deliver: (job, signal) => this.#copyAsLoggedIn(job, signal),
      queuedMs: ({ queuedMs }) => queuedMs,
      identity: ({ repository, reference }) => `${repository} ${reference}`,
      concernsAll: (error) =>
        (error instanceof UpstreamError && error.isOutage) || this.#refusedInARow >= MAX_REFUSALS_IN_A_ROW,
      ...(retryMs === undefined ? {} : { retryMs }),
      ...(maxPending === undefined ? {} : { maxPending }),
      observer: {
        pending: (count) => metrics.pending.set({ target }, count),
        delivered: () => (this.#isFull = false),
        failed: (job, error, tries) => this.#failed(job, error, tries),
        dropped: (job, reason) => this.#dropped(job, reason),
      },
    }
  }

  /** After a refused login all is begun anew: the files of the login may have changed, and what was learned with it. */
  async #copyAsLoggedIn(job: ReplicationJob, signal: AbortSignal): Promise<void> {
    try {
      await this.#copy(job, signal)
      this.#refusedInARow = 0
    } catch (error) {
      if (error instanceof UpstreamError && error.code === 'UNAUTHORIZED') {
        this.#refusedInARow++
        const refused = this.#client
        this.#client = clientOf(this.#host, this.#options.rule, this.#logger)
        await refused.close()
      }
      throw error
    }
  }

  /** Again when the tag has moved: of several registries over one bucket, the last to finish must leave the newest. */
  async #copy(job: ReplicationJob, signal: AbortSignal): Promise<void> {
    const { repository, reference } = job
    const place = this.#options.places.of(repository)
    let sent: Digest | undefined
    for (let moves = 0; moves < MAX_MOVES; moves++) {
      const root = await lookUp(place, repository, reference)
      if (root === undefined) {
        if (sent === undefined) this.#gone(job)
        return
      }
      if (root.digest === sent) return
      await this.#copyOnce(job, root, signal)
      sent = root.digest
    }
    throw new Error(`the tag moved ${MAX_MOVES} times while it was copied`)
  }

  async #copyOnce({ repository, reference }: ReplicationJob, root: Descriptor, signal: AbortSignal): Promise<void> {
    const { places, rule, metrics } = this.#options
    const startMs = performance.now()
    const place = places.of(repository)
    const { source, tree, referrers } = await openLocalImage(place, repository, root, signal)
    const name = { registry: this.#host, repository: nameAtTarget(rule, repository) }
    const client = this.#client
    /** Asked for what the target lacks only: looking through repositories in a bucket takes time. */
    const mountFrom = async ({ digest }: { digest: Digest }): Promise<string | undefined> => {
      if ((await client.findBlob(name, digest, { signal })) !== undefined) return undefined
      const isThere = (other: string): boolean =>
        other !== repository && this.matches(other) && places.of(other) === place
      const found = await place.repositories.findBlob(digest, isThere, MAX_MOUNT_CANDIDATES)
      return found && nameAtTarget(rule, found)
    }
    const sum = emptySum()
    const push = (of: typeof tree, target: ImageReference): Promise<void> =>
      pushImage(client, { source, tree: of, target, mountFrom }, sum, NO_DISPLAY, signal)
    try {
      // Before the image: who sees it sees its signatures as well.
      for (const referrer of referrers) await push(referrer, { ...name, digest: referrer.root.descriptor.digest })
      await push(tree, { ...name, ...(isDigest(reference) ? { digest: reference } : { tag: reference }) })
    } finally {
      metrics.bytes.inc({ target: this.name }, sum.bytes.uploaded)
    }
    this.#sent(repository, reference, root.digest, sum, Math.round(performance.now() - startMs))
  }

  #sent(repository: string, reference: string, digest: Digest, { blobs, bytes }: TransferSum, ms: number): void {
    this.#count('sent')
    const sentBytes = bytes.uploaded
    this.#logger.info({ repository, reference, digest, blobs, sentBytes, ms }, 'image copied to the other registry')
  }

  #gone({ repository, reference }: ReplicationJob): void {
    this.#count('gone')
    this.#logger.info({ repository, reference }, 'not copied: it was deleted here before')
  }

  #failed(job: ReplicationJob | undefined, error: unknown, tries: number): void {
    this.#count('failed')
    // The first tells all that the others would.
    const level = tries === 1 ? 'warn' : 'debug'
    const { repository, reference } = job ?? {}
    const details = { repository, reference, tries, code: (error as { code?: string }).code, err: error }
    this.#logger[level](details, 'an image could not be copied to the other registry: it is tried again')
  }

  #dropped({ repository, reference }: ReplicationJob, reason: 'full' | Error): void {
    this.#count('dropped')
    const details = { repository, reference }
    if (reason !== 'full') {
      this.#logger.error({ ...details, err: reason }, 'a push could not be written down: the image will not be copied')
    } else if (!this.#isFull) {
      this.#logger.error(details, 'too many images wait for the other registry: new ones will not be copied')
    }
    this.#isFull ||= reason === 'full'
  }

  #count(outcome: 'sent' | 'gone' | 'failed' | 'dropped'): void {
    this.#options.metrics.total.inc({ target: this.name, outcome })
  }
}

function clientOf(host: string, rule: ReplicationRule, logger: Logger): Registry {
  try {
    return createUpstream({ registries: { [host]: accessOf(rule) }, userAgent: 'shoal-registry', logger })
  } catch (error) {
    if (!(error instanceof InvalidRegistryOptionError)) throw error
    // In words of its own it would name a key of agents.
    const { option = 'the rule', why } = error
    throw new ConfigMistakeError('replication', `to ${rule.url} cannot be done: ${option} ${why}`, { cause: error })
  }
}
