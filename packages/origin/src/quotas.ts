// How much the repositories of a namespace may take together. What they take is counted from the storage by Usage every so
// often; what is pushed in between is added here, so that a limit holds at once.
import { OciError } from '@shoal/oci'
import { anyPattern } from './accounts/rules.ts'
import type { UsageReport } from './usage.ts'

export interface QuotaSettings {
  /** Patterns of repository names: what all that match take together is limited. See {@link anyPattern}. */
  repositories: string[]
  /** In bytes. */
  limit: number
}

/** Is told when a count of what is stored begins and ends. */
export interface CountObserver {
  countBegins(): void
  counted(report: UsageReport): void
}

/** Counts what is stored: see Usage. */
export interface Counting {
  observe(observer: CountObserver): void
  /** Counts anew, unless that was done seconds ago. */
  report(): Promise<UsageReport>
}

/**
 * Takes `bytes` of the room that a repository has, unless what they are for `isThere` already.
 * @throws OciError(DENIED) when they do not fit
 */
export type Charge = (bytes: number, isThere?: () => Promise<boolean>) => Promise<void>

/** The room that an upload takes while it is under way. */
export interface Hold {
  /**
   * From now on it takes so many bytes, all together.
   * @throws OciError(DENIED) when they do not fit: then it takes what it took before
   */
  cover(bytes: number): Promise<void>
  /** It is over, or counts otherwise from now on. */
  release(): void
}

/** Of uploads that nothing limits. */
export const NO_HOLD: Hold = { cover: () => Promise.resolve(), release: () => undefined }

interface Quota {
  /** As in the configuration, for messages. */
  readonly label: string
  readonly limitBytes: number
  readonly matches: (name: string) => boolean
  /** Undefined before the first count. */
  countedBytes: number | undefined
  /** Pushed since that count began, but before the one that runs now, if one does. */
  addedBytes: number
  /** Pushed since the count that runs now began: it may have seen them or not. Too much is told rather than too little. */
  addedMeanwhileBytes: number
  /** Of pushes that may still fail, and of uploads under way. */
  pendingBytes: number
}

export class Quotas implements CountObserver {
  readonly #quotas: Quota[]
  readonly #counting: Counting

  /** @throws InvalidRuleError */
  constructor(settings: readonly QuotaSettings[], counting: Counting) {
    this.#counting = counting
    this.#quotas = settings.map(({ repositories, limit }) => ({
      label: repositories.join(', '),
      limitBytes: limit,
      matches: anyPattern(repositories),
      countedBytes: undefined,
      addedBytes: 0,
      addedMeanwhileBytes: 0,
      pendingBytes: 0,
    }))
    if (this.#quotas.length > 0) counting.observe(this)
  }

  /** Limits nothing. */
  static none(): Quotas {
    return new Quotas([], { observe: () => undefined, report: () => Promise.reject(new Error('nothing is limited')) })
  }

  /** Runs one step of a push. What it charges counts from then on; when it fails, that is given back. */
  async charged<T>(name: string, work: (charge: Charge) => Promise<T>): Promise<T> {
    const quotas = this.#of(name)
    if (quotas.length === 0) return work(() => Promise.resolve())
    let bytes = 0
    const charge: Charge = async (more, isThere) => {
      if (await isThere?.()) return
      await this.#take(name, quotas, more)
      bytes += more
    }
    let done = false
    try {
      const result = await work(charge)
      done = true
      return result
    } finally {
      for (const quota of quotas) {
        quota.pendingBytes -= bytes
        if (done) quota.addedMeanwhileBytes += bytes
      }
    }
  }

  /** Spares a client the upload of what cannot be kept. @throws OciError(DENIED) when a repository may take no more */
  async requireRoom(name: string): Promise<void> {
    const quotas = this.#of(name)
    if (quotas.length === 0) return
    await this.#take(name, quotas, 1)
    for (const quota of quotas) quota.pendingBytes -= 1
  }

  /** Takes room for an upload to a repository as it comes in. */
  hold(name: string): Hold {
    const quotas = this.#of(name)
    let heldBytes = 0
    const give = (bytes: number): void => {
      for (const quota of quotas) quota.pendingBytes -= bytes
      heldBytes -= bytes
    }
    return {
      cover: async (bytes) => {
        const more = bytes - heldBytes
        if (more <= 0) return give(-more)
        await this.#take(name, quotas, more)
        heldBytes += more
      },
      release: () => give(heldBytes),
    }
  }

  countBegins(): void {
    for (const quota of this.#quotas) {
      quota.addedBytes += quota.addedMeanwhileBytes
      quota.addedMeanwhileBytes = 0
    }
  }

  counted({ repositories }: UsageReport): void {
    for (const quota of this.#quotas) {
      quota.countedBytes = repositories.reduce(
        (sum, { repository, bytes }) => (quota.matches(repository) ? sum + bytes : sum),
        0,
      )
      quota.addedBytes = 0
    }
  }

  #of(name: string): Quota[] {
    return this.#quotas.filter(({ matches }) => matches(name))
  }

  async #take(name: string, quotas: readonly Quota[], bytes: number): Promise<void> {
    const tight = (): Quota | undefined => quotas.find((quota) => usedBytes(quota) + bytes > quota.limitBytes)
    // Before it is refused: something may have been deleted, here or by another process.
    if (tight() || quotas.some(({ countedBytes }) => countedBytes === undefined)) {
      await this.#counting.report().catch((error: unknown) => {
        throw new OciError('UNAVAILABLE', 'the storage did not tell how much is used: try again later', {
          cause: error,
        })
      })
    }
    const full = tight()
    if (!full) {
      // Nothing was awaited since it was found to fit: of pushes at the same time, one sees the other.
      for (const quota of quotas) quota.pendingBytes += bytes
      return
    }
    const used = usedBytes(full)
    throw new OciError(
      'DENIED',
      `quota exceeded: ${full.label} uses ${used} of the ${full.limitBytes} bytes that it may use, so ` +
        `${bytes === 1 ? 'nothing more fits' : `${bytes} more do not fit`} into ${name}. Delete images, or ask for more`,
      { detail: { usedBytes: used, limitBytes: full.limitBytes } },
    )
  }
}

function usedBytes({ countedBytes = 0, addedBytes, addedMeanwhileBytes, pendingBytes }: Quota): number {
  return countedBytes + addedBytes + addedMeanwhileBytes + pendingBytes
}
