// Copies what is pushed here to other registries, by rules. That something has to be copied is on the disk before the
// push is answered; the copy itself is made afterwards, until the other registry has it.
import type { Logger } from 'pino'
import type { Registry } from 'prom-client'
import type { RepositoryChange } from '../notifications/event.ts'
import { DiskQueues } from '../outbox/queue.ts'
import type { Places } from '../places.ts'
import { createReplicationMetrics } from './metrics.ts'
import { ruleNames, type ReplicationRule } from './rule.ts'
import { ReplicationTarget, type ReplicationJob } from './target.ts'

export interface ReplicatorOptions {
  rules: readonly ReplicationRule[]
  /** Folder of the queues; made when missing. Only one process may have it open. */
  folder: string
  places: Places
  logger: Logger
  metrics: Registry
  /** How long the first wait after a failure is, in ms; the next are longer. @default 1000 */
  retryMs?: number
  /** How many images may wait for a registry. @default 10000 */
  maxPending?: number
}

export class Replicator {
  readonly #queues: DiskQueues<ReplicationJob>
  readonly #targets: ReplicationTarget[] = []

  private constructor(queues: DiskQueues<ReplicationJob>) {
    this.#queues = queues
  }

  /**
   * Goes on with what waited when the registry stopped.
   * @throws ConfigMistakeError, InvalidRuleError
   */
  static async open({ rules, folder, metrics: registry, ...options }: ReplicatorOptions): Promise<Replicator> {
    const names = ruleNames(rules)
    const queues = await DiskQueues.open<ReplicationJob>(folder, names, options.logger)
    const replicator = new Replicator(queues)
    const targets = replicator.#targets
    const metrics = createReplicationMetrics(registry, () => targets.map(({ name, oldestMs }) => [name, oldestMs]))
    try {
      for (const [at, rule] of rules.entries()) {
        const name = names[at] as string
        targets.push(await ReplicationTarget.open({ ...options, name, rule, metrics, queue: queues.of(name) }))
      }
      return replicator
    } catch (error) {
      await replicator.close()
      throw error
    }
  }

  /** Resolves when it is written what has to be copied. Deletes are not carried to other registries. */
  async replicate({ action, name: repository, digest, tags }: RepositoryChange): Promise<void> {
    if (action !== 'push') return
    const references = tags.length > 0 ? tags : digest === undefined ? [] : [digest]
    const queuedMs = Date.now()
    const targets = this.#targets.filter(({ matches }) => matches(repository))
    await Promise.all(
      targets.flatMap((target) => references.map((reference) => target.send({ repository, reference, queuedMs }))),
    )
  }

  /** Breaks off what is being copied; it is done after the next start. */
  async close(): Promise<void> {
    await Promise.all(this.#targets.map((target) => target.close()))
    await this.#queues.close()
  }
}
